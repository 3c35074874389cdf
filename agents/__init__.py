"""Planners, objectives and agents that act through a dynamics (installs as `sana_wm.agents`)."""
