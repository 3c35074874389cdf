"""Environments: the world model as a Gymnasium env, and the simulators it is held against (`sana_wm.envs`)."""
