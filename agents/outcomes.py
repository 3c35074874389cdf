"""Outcomes as objectives: what a world predicts beside frames, its reward, success, termination and uncertainty."""

from typing import Any, Literal

import numpy as np

from sana_wm.agents.predictions import Reduction, array, check_reduction, like, reduce, require


class PredictedReward:
    """Minus the predicted return of the planned steps.

    Args:
        discount: weight of a step over that of the step before.
        until_terminated: steps count with the probability that the episode has not ended before them; the step that
            ends it still counts. A dynamics that predicts no termination never ends.
        over_horizon: "sum", or "mean" over the planned steps: the same wish on another scale.
    """

    def __init__(
        self, *, discount: float = 1.0, until_terminated: bool = True, over_horizon: Literal["sum", "mean"] = "sum"
    ):
        if not 0 < discount <= 1:
            raise ValueError(f"discount must be in (0, 1], got {discount}")
        if over_horizon not in ("sum", "mean"):
            raise ValueError(f"over_horizon must be 'sum' or 'mean', got {over_horizon!r}")
        self.discount, self.until_terminated, self.over_horizon = discount, until_terminated, over_horizon

    def __call__(self, prediction) -> Any:
        reward = require(prediction, "reward")  # (B, H)
        weight = like(self.discount ** np.arange(reward.shape[1]), reward)[None]
        terminated = getattr(prediction, "terminated", None)
        if self.until_terminated and terminated is not None:
            weight = weight * _alive(array(terminated))
        gain = (weight * reward).sum(-1)
        return -gain / (reward.shape[1] if self.over_horizon == "mean" else 1)


class SuccessProbability:
    """Minus the predicted probability of success, or minus its logarithm.

    Far from the goal probabilities are all nearly zero and differ in their logarithm only: `log=True` gives the search
    a slope there.

    Args:
        over_horizon: "min" (of the cost) is to succeed at any step, "mean" early, "last" at the end.
    """

    def __init__(self, *, over_horizon: Reduction = "min", log: bool = False):
        self.over_horizon, self.log = check_reduction(over_horizon), log

    def __call__(self, prediction) -> Any:
        success = require(prediction, "success")
        if self.log:
            success = success + 1e-12
            success = success.log() if hasattr(success, "detach") else np.log(success)
        return reduce(-success, self.over_horizon)


class UncertaintyPenalty:
    """The world's own uncertainty about the planned steps: keeps plans where the world knows what it says.

    Has no gradient with respect to actions.
    """

    needs_uncertainty = True

    def __init__(self, *, over_horizon: Reduction = "mean"):
        self.over_horizon = check_reduction(over_horizon)

    def __call__(self, prediction) -> Any:
        return reduce(require(prediction, "uncertainty"), self.over_horizon)


def _alive(terminated: Any) -> Any:
    """Probability (B, H) that nothing has ended before each step."""
    going_on = 1 - terminated[:, :-1]
    if hasattr(terminated, "detach"):
        import torch

        return torch.cat([torch.ones_like(terminated[:, :1]), going_on.cumprod(-1)], dim=-1)
    return np.concatenate([np.ones_like(terminated[:, :1]), going_on.cumprod(-1)], axis=-1)
