"""Where rewards come from: the world's reward head, a function of the user's, or the distance to a goal image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.envs.pictures import as_pictures, cut_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from sana_wm.world import Prediction, VideoWorld, WorldModel

RewardFunction = Callable[["Prediction"], Any]


class Reward:
    """Rewards of a step, float64 (K,), of the lanes with index `lanes` (K,) out of B.

    Args:
        reward_fn: `Prediction` of K lanes -> K finite numbers, in place of the world's reward head. A step may concern
            only some of the lanes (others begin anew): K is then smaller than B.
        goal: a picture to come close to, or one per lane (paths, PIL images or uint8 of any size, cut to the world's
            resolution): the reward is minus the mean squared distance of latents, which is the cost of
            `sana_wm.agents.objectives.LatentGoal`.

    Raises:
        ValueError, TypeError: both of them, a function that is none, or a goal that is no picture.
    """

    def __init__(
        self, world: WorldModel | VideoWorld, num_lanes: int, reward_fn: RewardFunction | None = None, goal: Any = None
    ):
        if reward_fn is not None and goal is not None:
            raise ValueError("got both reward_fn and goal, expected one of them: each says what is rewarded")
        if reward_fn is not None and not callable(reward_fn):
            raise TypeError(f"got reward_fn={reward_fn!r}, expected a function of a Prediction")
        self._learned = world.config.has_reward
        self._function = reward_fn
        self._goals: Tensor | None = None
        if goal is not None:
            frames, _ = cut_pictures(as_pictures(goal, num_lanes), None, world.config.resolution)
            self._goals = world.encode(frames)[:, -1]

    def __call__(self, prediction: Prediction, lanes: np.ndarray) -> np.ndarray:
        """Raises ValueError where the user's function gives something else than finite numbers (K,)."""
        if self._goals is not None:
            goals = self._goals if len(lanes) == len(self._goals) else self._goals[lanes.tolist()]
            return -numbers(((prediction.latents - goals) ** 2).flatten(1).mean(1))
        if self._function is not None:
            return self._checked(self._function(prediction), len(lanes))
        return numbers(prediction.reward) if self._learned else np.zeros(len(lanes))

    def repeat(self, n: int) -> Reward:
        """The rewards of lanes that stand `n` times side by side."""
        repeated = object.__new__(Reward)
        repeated._learned, repeated._function = self._learned, self._function
        repeated._goals = None if self._goals is None else self._goals.repeat_interleave(n, dim=0)
        return repeated

    def _checked(self, values: Any, count: int) -> np.ndarray:
        try:
            rewards = numbers(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"reward_fn returned {values!r:.200} ({error}), expected {count} numbers") from error
        if rewards.shape != (count,) or not np.isfinite(rewards).all():
            raise ValueError(
                f"reward_fn returned {rewards.tolist()!r:.200} of shape {rewards.shape}, expected {count} finite "
                f"numbers, one per lane of the prediction"
            )
        return rewards


def numbers(values: Any) -> np.ndarray:
    """A tensor or array (B,) as float64, the precision in which Gymnasium keeps rewards."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values).astype(np.float64)
