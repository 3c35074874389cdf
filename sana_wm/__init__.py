"""SANA-WM: robot trajectories in, a Gymnasium environment out.

Importing this package registers the environments and nothing else; the heavy names load on first use (PEP 562).

>>> import gymnasium as gym
>>> import sana_wm
>>> "SanaWM-v0" in gym.registry
True
"""

import importlib

import gymnasium

__version__ = "0.1.0"

_HOME_OF = {
    "ActionCodec": "sana_wm.world.action_codec",
    "DCAE": "sana_wm.models.dc_ae",
    "LeRobotDataset": "sana_wm.data",
    "Prediction": "sana_wm.world",
    "export_env": "sana_wm.export",
    "SanaTransformer": "sana_wm.models.transformer",
    "WorldModel": "sana_wm.world",
    "WorldState": "sana_wm.world",
}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its public names are {sorted(_HOME_OF)}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value  # later look-ups skip this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})


# Entry points are strings: the specs stay serialisable and neither torch nor pygame loads before an env is made.
gymnasium.register(
    id="SanaWM-v0",
    entry_point="sana_wm.envs.sana_wm_env:SanaWMEnv",
    vector_entry_point="sana_wm.envs.sana_wm_vector_env:SanaWMVectorEnv",
)
gymnasium.register(id="sana_wm/PushT-v0", entry_point="sana_wm.envs.pusht:PushTEnv", max_episode_steps=300)
gymnasium.register(id="sana_wm/TwoRoom-v0", entry_point="sana_wm.envs.tworoom:TwoRoomEnv", max_episode_steps=100)
