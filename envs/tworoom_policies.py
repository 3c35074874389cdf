"""The policies that explore TwoRoom for training data, and graded ones to rank.

Each is a callable `policy(state (5,)) -> action (2,) float32`, made fresh for every episode from a numpy `Generator`,
its only source of randomness; they see the exact simulator state (`sana_wm.envs.tworoom_physics.STATE_NAMES`).

* `Expert` takes the shortest path to the goal at a pace and with noise drawn per episode; there it stays a while and
  then visits other places and comes back, so that arriving and being there are often in the data.
* `Walk` has momentum: its velocity turns and changes slowly, now and then at once; walls do not impress it.
* `Random` draws velocities with no purpose and holds each for a while, as a planner's first guesses do.
* `Mixed` follows one of them for a second or so, then another.
* `GRADED`: nine policies from aimless to expert, that act as the expert in a growing share of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from sana_wm.envs.tworoom_physics import GOAL_RADIUS, STEP, random_place, way_through

Policy = Callable[[np.ndarray], np.ndarray]


def towards(agent: np.ndarray, target: np.ndarray, door: float) -> np.ndarray:
    """The velocity (2,) that follows the shortest path from agent to target, no further than the next bend."""
    *bends, _ = way_through(agent, target, np.asarray(door))
    inwards = 0.0  # at an edge of the passage, which a rounding may have put the agent beside
    for point in (*bends, target):
        gap = point - agent
        length = math.hypot(*gap)
        if length > 1e-6:
            return gap / max(length, STEP) + [0.0, inwards]
        inwards = 1e-3 * np.sign(door - agent[1])
    return np.zeros(2)


def _action(velocity: np.ndarray) -> np.ndarray:
    return np.clip(velocity, -1, 1).astype(np.float32)


class Expert:
    """The shortest path; `noise` is the deviation of what is added to the velocity, `pace` its share of the fastest.

    Both are drawn when they are not given. `settles`: stay at the goal for good.
    """

    def __init__(
        self, rng: np.random.Generator, noise: float | None = None, pace: float | None = None, settles: bool = False
    ) -> None:
        self._rng, self._settles = rng, settles
        self._noise = rng.uniform(0, 0.5) if noise is None else noise
        self._pace = rng.uniform(0.5, 1.0) if pace is None else pace
        self._detour: np.ndarray | None = None
        self._rest = int(rng.integers(0, 8))

    def __call__(self, state: np.ndarray) -> np.ndarray:
        agent, door, target = state[:2], state[2], state[3:5]
        if self._detour is not None:
            target = self._detour
        if np.linalg.norm(agent - target) < GOAL_RADIUS / 2 and not self._settles:
            self._rest -= 1
            if self._rest < 0:
                self._rest = int(self._rng.integers(0, 8))
                self._detour = None if self._detour is not None else random_place(self._rng)
        velocity = self._pace * towards(agent, target, door) + self._rng.normal(0, self._noise, 2)
        return _action(velocity)


class Walk:
    """A heading and a pace that wander."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._turn = rng.uniform(0.05, 0.7)  # rad per step
        self._turn_around()

    def _turn_around(self) -> None:
        self._heading, self._pace = self._rng.uniform(-np.pi, np.pi), self._rng.uniform(0.2, 1.0)

    def __call__(self, state: np.ndarray) -> np.ndarray:
        self._heading += self._rng.normal(0, self._turn)
        if self._rng.random() < 0.08:
            self._turn_around()
        return _action(self._pace * np.array([math.cos(self._heading), math.sin(self._heading)]))


class Random:
    """Uniform velocities, new at every step or held for up to eight."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._hold, self._held = rng, int(rng.choice([1, 3, 5, 8])), 0

    def __call__(self, state: np.ndarray) -> np.ndarray:
        if self._held <= 0:
            self._held, self._velocity = self._hold, self._rng.uniform(-1, 1, 2)
        self._held -= 1
        return _action(self._velocity)


class Mixed:
    """One of the others for half a second to two, then another."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._left = rng, 0
        self._policies = [Expert(rng), Walk(rng), Random(rng)]

    def __call__(self, state: np.ndarray) -> np.ndarray:
        if self._left <= 0:
            self._left = int(self._rng.integers(5, 21))
            self._policy = self._policies[self._rng.integers(len(self._policies))]
        self._left -= 1
        return self._policy(state)


class Graded:
    """Acts as the expert in a share `skill` of the steps, else walks."""

    def __init__(self, rng: np.random.Generator, skill: float) -> None:
        self._rng, self._skill = rng, skill
        self._expert, self._walk = Expert(rng, noise=0.1, pace=1.0, settles=True), Walk(rng)

    def __call__(self, state: np.ndarray) -> np.ndarray:
        aimless = self._walk(state)  # wanders on while the expert acts
        return self._expert(state) if self._rng.random() < self._skill else aimless


POLICIES: dict[str, Callable[[np.random.Generator], Policy]] = {
    "expert": Expert,
    "mixed": Mixed,
    "walk": Walk,
    "random": Random,
}

GRADED: dict[str, Callable[[np.random.Generator], Policy]] = {
    f"skill {skill:.2f}": partial(Graded, skill=skill) for skill in (0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0)
}
