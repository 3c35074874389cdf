"""Dynamics simple enough to know their best plan by hand."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np


@dataclass(frozen=True)
class Points:
    """B points in A dimensions."""

    position: np.ndarray  # (B, A)

    @property
    def num_lanes(self) -> int:
        return len(self.position)

    def repeat(self, n: int) -> "Points":
        return Points(np.repeat(self.position, n, axis=0))

    def select(self, lanes) -> "Points":
        return Points(self.position[lanes])


class Drift:
    """position += gain * action at every step; `calls` counts lanes rolled out."""

    def __init__(self, gain: float = 1.0):
        self.gain, self.calls = gain, []

    def rollout(self, state: Points, actions: np.ndarray):
        assert actions.shape[0] == state.num_lanes
        self.calls.append(len(actions))
        path = state.position[:, None] + self.gain * np.cumsum(actions, axis=1)
        return SimpleNamespace(proprio=path, latents=path[..., None, None])


class Follow:
    """The point moves a share of the way to its target at every step, as PushT's agent does."""

    def rollout(self, state: Points, actions: np.ndarray):
        position, path = state.position, []
        for target in np.moveaxis(actions, 1, 0):
            position = position + 0.5 * (target - position)
            path.append(position)
        return SimpleNamespace(proprio=np.stack(path, axis=1), latents=None)
