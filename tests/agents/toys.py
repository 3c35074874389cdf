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


@dataclass(frozen=True)
class Masses:
    """B unit masses: position and velocity, (B, 2 A)."""

    state: np.ndarray

    @property
    def num_lanes(self) -> int:
        return len(self.state)

    def repeat(self, n: int) -> "Masses":
        return Masses(np.repeat(self.state, n, axis=0))

    def select(self, lanes) -> "Masses":
        return Masses(self.state[lanes])


class PointMass:
    """Actions are accelerations: v += dt a, x += dt v. Linear, for arrays and for tensors with a gradient."""

    def __init__(self, dt: float = 0.5):
        self.dt, self.calls = dt, []

    def rollout(self, state: Masses, actions):
        assert len(actions) == state.num_lanes
        self.calls.append(len(actions))
        position, velocity = np.split(state.state, 2, axis=-1)
        steps = np.arange(1, actions.shape[1] + 1)[None, :, None]
        free = position[:, None] + self.dt * steps * velocity[:, None]
        if hasattr(actions, "new_tensor"):
            free = actions.new_tensor(free)
        path = free + self.dt**2 * actions.cumsum(1).cumsum(1)
        return SimpleNamespace(proprio=path, latents=path[..., None, None])


class Wall:
    """Points that move by their action, but for a wall at x = 0 with a gap: |y - 1| < 0.4."""

    def rollout(self, state: Points, actions: np.ndarray):
        position, path = state.position, []
        for step in np.moveaxis(0.3 * actions, 1, 0):
            following = position + step
            crosses = (position[:, 0] < 0) != (following[:, 0] < 0)
            height = position[:, 1] + 0.5 * step[:, 1]
            blocked = crosses & (np.abs(height - 1) >= 0.4)
            position = np.where(blocked[:, None], position, following)
            path.append(position)
        return SimpleNamespace(proprio=np.stack(path, axis=1), latents=None)
