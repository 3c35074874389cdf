"""Hydra configuration groups (installs as `sana_wm.configs`)."""
