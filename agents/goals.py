"""Goals as objectives: to look like a goal, to stand like a goal.

With goals for N starts, lanes come in N groups of B / N, as `State.repeat` lays them out. `over_horizon`: "last" wants
to be there at the end, "min" to pass there at any step, "mean" to get there early.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np

from sana_wm.agents.predictions import Reduction, array, check_reduction, group, like, reduce, require, root


class LatentGoal:
    """Mean squared distance of imagined latents to goal latents (N, C, h, w).

    Needs no proprioception: any world can be planned in with it.
    """

    def __init__(self, goal_latents: Any, *, over_horizon: Reduction = "last"):
        self.goal = array(goal_latents)
        self.over_horizon = check_reduction(over_horizon)
        if self.goal.ndim != 4:
            raise ValueError(f"goal_latents must have shape (N, C, h, w), got {tuple(self.goal.shape)}")

    def __call__(self, prediction) -> Any:
        latents = group(require(prediction, "latents"), len(self.goal))  # (N, S, H, C, h, w)
        difference = latents - like(self.goal[:, None, None], latents)
        return reduce((difference**2).mean((-3, -2, -1)), self.over_horizon).reshape(-1)

    def select(self, starts: Sequence[int]) -> "LatentGoal":
        """The same wish for some of the starts."""
        return _with_goal(self, starts)


class PixelGoal:
    """Mean squared distance of decoded frames to goal frames, pixels in [0, 1].

    Every imagined frame that counts is decoded: all of them, or with "last" one per candidate. That costs a decoder
    pass per frame where `LatentGoal` costs none, and frames are rounded to 8 bits, so
    there is no gradient.

    Args:
        goal_frames: uint8 (N, height, width, 3).
        decode: latents (..., C, h, w) -> uint8 (..., height, width, 3): `WorldModel.decode`.
        batch: frames decoded at once; bounds memory.
    """

    def __init__(
        self,
        goal_frames: np.ndarray,
        decode: Callable[[Any], np.ndarray],
        *,
        over_horizon: Reduction = "last",
        batch: int = 1024,
    ):
        self.goal = np.asarray(goal_frames)
        self.decode, self.over_horizon, self.batch = decode, check_reduction(over_horizon), batch
        if self.goal.ndim != 4 or self.goal.shape[-1] != 3 or self.goal.dtype != np.uint8:
            raise ValueError(
                f"goal_frames must be uint8 (N, height, width, 3), got {self.goal.dtype} {self.goal.shape}"
            )

    def __call__(self, prediction) -> np.ndarray:
        latents = getattr(prediction, "latents", None)
        if latents is None:
            raise ValueError("PixelGoal decodes latents, but the dynamics predicts none; choose another objective")
        if getattr(latents, "requires_grad", False):
            raise ValueError("PixelGoal has no gradient, decoded frames are rounded: use LatentGoal with this planner")
        latents = latents[:, -1:] if self.over_horizon == "last" else latents  # (B, H, C, h, w)
        lanes, steps = latents.shape[:2]
        if lanes % len(self.goal):
            raise ValueError(f"{lanes} lanes cannot be shared evenly among {len(self.goal)} goals")
        goal = np.repeat(self.goal, lanes // len(self.goal), axis=0)
        cost, at_once = np.empty((lanes, steps)), max(1, self.batch // steps)
        for first in range(0, lanes, at_once):
            frames = self.decode(latents[first : first + at_once])
            apart = (frames.astype(np.float32) - goal[first : first + at_once, None]) / 255
            cost[first : first + at_once] = np.square(apart).mean(axis=(-3, -2, -1))
        return reduce(cost, self.over_horizon)

    def select(self, starts: Sequence[int]) -> "PixelGoal":
        """The same wish for some of the starts."""
        return _with_goal(self, starts)


class ProprioGoal:
    """Root mean squared distance, in the dataset's units, of chosen proprioceptive columns to a goal.

    Args:
        goal: (N, P) all proprioceptive columns of each goal; only `columns` count.
        columns: which columns; all of them by default.
    """

    def __init__(self, goal: Any, columns: Sequence[int] | None = None, *, over_horizon: Reduction = "last"):
        goal = array(goal)
        if goal.ndim != 2:
            raise ValueError(f"goal must have shape (N, P), got {tuple(goal.shape)}")
        self.columns = list(range(goal.shape[1]) if columns is None else columns)
        self.goal = goal[:, self.columns]
        self.over_horizon = check_reduction(over_horizon)

    def __call__(self, prediction) -> Any:
        proprio = group(require(prediction, "proprio")[..., self.columns], len(self.goal))  # (N, S, H, columns)
        distance = root(((proprio - like(self.goal[:, None, None], proprio)) ** 2).mean(-1))
        return reduce(distance, self.over_horizon).reshape(-1)

    def select(self, starts: Sequence[int]) -> "ProprioGoal":
        """The same wish for some of the starts."""
        return _with_goal(self, starts)


def _with_goal(objective: Any, starts: Sequence[int]) -> Any:
    if len(objective.goal) == 1:  # one goal for all
        return objective
    selected = copy(objective)
    selected.goal = objective.goal[starts]
    return selected
