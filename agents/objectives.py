"""What a planner can want, and sums of wishes.

All are `sana_wm.agents.protocols.Objective`: called with a prediction over B lanes and H steps they return costs (B,).
Goals (`LatentGoal`, `PixelGoal`, `ProprioGoal`) live in `sana_wm.agents.goals`, what a world's heads predict
(`PredictedReward`, `SuccessProbability`, `UncertaintyPenalty`) in `sana_wm.agents.outcomes`. Every formula holds for
arrays, and for tensors with a gradient.

An objective that scores the actions themselves has `needs_actions = True` and is called with (prediction, actions); one
that scores how sure the world is has `needs_uncertainty = True`, and the rollout is asked for it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sana_wm.agents.goals import LatentGoal, PixelGoal, ProprioGoal
from sana_wm.agents.outcomes import PredictedReward, SuccessProbability, UncertaintyPenalty
from sana_wm.agents.predictions import array, like
from sana_wm.agents.protocols import Dynamics, Objective, Rollout, State

__all__ = [
    "ActionPenalty",
    "LatentGoal",
    "PixelGoal",
    "PredictedReward",
    "ProprioGoal",
    "SuccessProbability",
    "UncertaintyPenalty",
    "WeightedSum",
    "imagine",
    "score",
    "select",
]


class ActionPenalty:
    """Mean square of the actions and of their changes, in halves of the action range.

    Args:
        action_space: Box (A,) with finite bounds.
        magnitude: weight of the distance to the middle of the range; for velocities and forces, not for targets.
        smoothness: weight of the difference between successive actions.
    """

    needs_actions = True

    def __init__(self, action_space: spaces.Box, *, magnitude: float = 0.0, smoothness: float = 0.0):
        if not magnitude and not smoothness:
            raise ValueError("ActionPenalty needs magnitude=... or smoothness=...: as it is, it penalises nothing")
        low, high = np.asarray(action_space.low, np.float64), np.asarray(action_space.high, np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"ActionPenalty needs finite action bounds, got low={low} high={high}")
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        self.magnitude, self.smoothness = magnitude, smoothness

    def __call__(self, prediction, actions) -> Any:
        actions = array(actions)  # (B, H, A)
        unit = (actions - like(self.middle, actions)) / like(self.half, actions)
        cost = self.magnitude * (unit**2).mean((-2, -1))
        if self.smoothness and unit.shape[1] > 1:
            cost = cost + self.smoothness * ((unit[:, 1:] - unit[:, :-1]) ** 2).mean((-2, -1))
        return cost


class WeightedSum:
    """The sum of weight * objective over (weight, objective) pairs."""

    def __init__(self, *terms: tuple[float, Objective]):
        if not terms:
            raise ValueError("WeightedSum needs at least one (weight, objective) pair")
        self.terms = terms

    @property
    def needs_actions(self) -> bool:
        return any(getattr(objective, "needs_actions", False) for _, objective in self.terms)

    @property
    def needs_uncertainty(self) -> bool:
        return any(getattr(objective, "needs_uncertainty", False) for _, objective in self.terms)

    def __call__(self, prediction, actions=None) -> Any:
        costs = [weight * score(objective, prediction, actions) for weight, objective in self.terms]
        tensor = next((cost for cost in costs if hasattr(cost, "new_tensor")), costs[0])
        return sum(like(cost, tensor) if isinstance(cost, np.ndarray) else cost for cost in costs)

    def select(self, starts: Sequence[int]) -> "WeightedSum":
        """The same wishes for some of the starts."""
        return WeightedSum(*((weight, select(objective, starts)) for weight, objective in self.terms))


def imagine(dynamics: Dynamics, objective: Objective, state: State, actions: Any) -> Rollout:
    """The rollout of actions (B, H, A), with all that the objective scores."""
    if not getattr(objective, "needs_uncertainty", False):
        return dynamics.rollout(state, actions)
    return dynamics.rollout(state, actions, uncertainty=True)


def score(objective: Objective, prediction: Any, actions: Any) -> Any:
    """The costs (B,) of a prediction and the actions (B, H, A) that led to it.

    Raises:
        ValueError: an objective that needs actions, and there are none.
    """
    if not getattr(objective, "needs_actions", False):
        return objective(prediction)
    if actions is None:
        raise ValueError(f"{type(objective).__name__} scores actions: call it with (prediction, actions)")
    return objective(prediction, actions)


def select(objective: Objective, starts: Sequence[int]) -> Objective:
    """An objective for some of its starts; one without goals is the same for all of them."""
    return objective.select(starts) if hasattr(objective, "select") else objective
