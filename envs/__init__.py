"""Environments: the world model as a Gymnasium env, and the simulators it is held against (`sana_wm.envs`).

>>> from sana_wm.envs import record_episodes  # names load on first use, as those of `sana_wm` do
"""

import importlib

_HOME_OF = {
    "DirectionKeys": "keyboard",
    "EnvState": "env_state",
    "SanaWMEnv": "sana_wm_env",
    "SanaWMVectorEnv": "sana_wm_vector_env",
    "held_keys": "keyboard",
    "record_episodes": "recording",
}

__all__ = list(_HOME_OF)


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its public names are {sorted(_HOME_OF)}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value  # later look-ups skip this function
    return value
