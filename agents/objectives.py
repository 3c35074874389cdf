"""What a planner can want: to look like a goal, to stand like a goal, or a weighted sum of wishes.

All are `sana_wm.agents.protocols.Objective`: called with a prediction over B lanes and H steps they return costs (B,).
With goals for N starts, lanes come in N groups of B / N, as `State.repeat` lays them out.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sana_wm.agents.protocols import Objective

Reduction = Literal["last", "mean", "min"]


class LatentGoal:
    """Mean squared distance of imagined latents to goal latents (N, C, h, w).

    Needs no proprioception: any world can be planned in with it.
    """

    def __init__(self, goal_latents: Any, *, over_horizon: Reduction = "last"):
        self.goal = _array(goal_latents)
        self.over_horizon = _check_reduction(over_horizon)
        if self.goal.ndim != 4:
            raise ValueError(f"goal_latents must have shape (N, C, h, w), got {self.goal.shape}")

    def __call__(self, prediction) -> np.ndarray:
        latents = _group(_require(prediction, "latents"), len(self.goal))  # (N, S, H, C, h, w)
        difference = latents - self.goal[:, None, None]
        return _reduce(np.square(difference).mean(axis=(-3, -2, -1)), self.over_horizon).reshape(-1)


class ProprioGoal:
    """Root mean squared distance, in the dataset's units, of chosen proprioceptive columns to a goal.

    Args:
        goal: (N, P) all proprioceptive columns of each goal; only `columns` count.
        columns: which columns; all of them by default.
        over_horizon: "last" wants to be there at the end, "min" to pass there at any step, "mean" to get there early.
    """

    def __init__(self, goal: Any, columns: Sequence[int] | None = None, *, over_horizon: Reduction = "last"):
        goal = _array(goal)
        if goal.ndim != 2:
            raise ValueError(f"goal must have shape (N, P), got {goal.shape}")
        self.columns = list(range(goal.shape[1]) if columns is None else columns)
        self.goal = goal[:, self.columns]
        self.over_horizon = _check_reduction(over_horizon)

    def __call__(self, prediction) -> np.ndarray:
        proprio = _group(_require(prediction, "proprio")[..., self.columns], len(self.goal))  # (N, S, H, columns)
        distance = np.sqrt(np.square(proprio - self.goal[:, None, None]).mean(axis=-1))
        return _reduce(distance, self.over_horizon).reshape(-1)


class WeightedSum:
    """The sum of weight * objective over (weight, objective) pairs."""

    def __init__(self, *terms: tuple[float, Objective]):
        if not terms:
            raise ValueError("WeightedSum needs at least one (weight, objective) pair")
        self.terms = terms

    def __call__(self, prediction) -> np.ndarray:
        return sum(weight * objective(prediction) for weight, objective in self.terms)


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor, possibly on a GPU
        value = value.detach().float().cpu().numpy()
    return np.asarray(value, np.float64)


def _require(prediction, field: str) -> np.ndarray:
    value = getattr(prediction, field)
    if value is None:
        raise ValueError(f"this objective scores {field}, but the dynamics predicts none; choose another objective")
    return _array(value)


def _group(values: np.ndarray, goals: int) -> np.ndarray:
    if len(values) % goals:
        raise ValueError(f"{len(values)} lanes cannot be shared evenly among {goals} goals")
    return values.reshape(goals, -1, *values.shape[1:])


def _reduce(cost_NSH: np.ndarray, how: Reduction) -> np.ndarray:
    return {"last": lambda c: c[..., -1], "mean": lambda c: c.mean(-1), "min": lambda c: c.min(-1)}[how](cost_NSH)


def _check_reduction(how: str) -> Reduction:
    if how not in ("last", "mean", "min"):
        raise ValueError(f"over_horizon must be 'last', 'mean' or 'min', got {how!r}")
    return how
