"""What `sana_wm.collect` must know of a simulator to record it: one value per simulator, found by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Named, not imported: PushT needs the `sim` extra, TwoRoom does not.
SIMULATORS = {
    "pusht": "sana_wm.envs.pusht_recording",
    "tworoom": "sana_wm.envs.tworoom_recording",
}


def vector(dtype: str, names: list[str]) -> dict:
    """The feature of a named vector."""
    return {"dtype": dtype, "shape": (len(names),), "names": names}


IMAGE = {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]}


@dataclass(frozen=True)
class Recording:
    """A simulator, its policies and its columns.

    Attributes:
        make_env: the simulator, with `get_state`, `reset(options={"state": ...})` and `info["is_success"]`.
        robot_type, task: as the dataset names them.
        policies: makes of policy by name, each `policy(state) -> action`.
        start: (generator, near the goal or not) -> state to start an episode from.
        observed: features of what is known before acting, beside the picture, and how to get them:
            name -> (feature, (info, state) -> row).
        action: feature of the action.
        whole: whether a recorded episode is one to keep; others are drawn again.
    """

    make_env: Callable[[], Any]
    robot_type: str
    task: str
    policies: Mapping[str, Callable[[np.random.Generator], Callable[[np.ndarray], np.ndarray]]]
    start: Callable[[np.random.Generator, bool], np.ndarray]
    observed: Mapping[str, tuple[dict, Callable[[dict, np.ndarray], Any]]]
    action: dict
    whole: Callable[[dict[str, np.ndarray]], bool] = lambda episode: True

    @property
    def features(self) -> dict[str, dict]:
        """Of the dataset, in the order of its columns."""
        return {
            "observation.image": IMAGE,
            **{name: feature for name, (feature, _) in self.observed.items()},
            "action": self.action,
            "next.reward": vector("float32", ["reward"]),
            "next.done": vector("bool", ["done"]),
            "next.success": vector("bool", ["success"]),
        }


def recording(simulator: str) -> Recording:
    """The recording of a simulator by name.

    Raises:
        ValueError: no such simulator.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator: got {simulator!r}, expected one of {sorted(SIMULATORS)}")
    return importlib.import_module(SIMULATORS[simulator]).RECORDING
