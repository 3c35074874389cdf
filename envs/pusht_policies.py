"""The policies that explore PushT for training data.

Each is a callable `policy(state (10,)) -> action (2,) float32`, made fresh for every episode from a numpy `Generator`,
its only source of randomness; they see the exact simulator state (`sana_wm.envs.pusht_physics.STATE_NAMES`).

* `ScriptedPush` pushes the block towards random target poses: it picks the face of the T whose push is predicted to
  bring the block closest, walks around the block to it, and drives it for a second or so at a random pace, or nudges it
  by the distance that is missing. Three targets in ten are the goal.
* `NoisyPush` is the same with correlated noise on the action, held actions, bursts of random targets and reversals.
* `RandomExplore` switches between ways of acting that need no purpose: uniform targets, new or held; random walks;
  moves relative to the agent; jabs at the block. A planner's first guesses look like this.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sana_wm.envs.pusht_physics import (
    AGENT_RADIUS,
    BLOCK_CENTRE,
    GOAL_POSE,
    OUTLINE,
    TABLE,
    block_distance,
    block_points,
    on_table,
)

Policy = Callable[[np.ndarray], np.ndarray]

# A push moves the block as one impulse would: along the face's normal and about the centre of gravity, with the
# engine's ratio of moment of inertia to mass (px^2).
_INERTIA = 3000.0
_TURN_WEIGHT = 60.0  # px that one radian of wrong angle counts for
_FINE = 50.0  # px of error below which the block is nudged by the predicted distance instead of driven along


def _faces(spacing: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """Points along the outline `(P, 2)` and inward normals `(P, 2)`, in the block's frame."""
    points, normals = [], []
    for a, b in zip(OUTLINE, np.roll(OUTLINE, -1, axis=0), strict=True):
        length = np.linalg.norm(b - a)
        along = (b - a) / length
        for offset in np.linspace(6, length - 6, max(2, round(length / spacing))):
            points.append(a + along * offset)
            normals.append((-along[1], along[0]))  # the outline runs with its inside on this hand
    return np.array(points), np.array(normals)


_POINTS, _NORMALS = _faces()
_ARMS = _POINTS - BLOCK_CENTRE
_LEVERS = _ARMS[:, 0] * _NORMALS[:, 1] - _ARMS[:, 1] * _NORMALS[:, 0]  # px, signed


def _wrap(angle: float | np.ndarray) -> float | np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _rotation(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s], [-s, c]])  # for row vectors


def _on_canvas(target: np.ndarray) -> np.ndarray:
    return np.clip(target, 0, TABLE).astype(np.float32)


class ScriptedPush:
    """Pushes the block towards one random target pose after another."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._target_pose: np.ndarray | None = None
        self._close_enough = 0.0  # px, of the error below which the target pose counts as reached
        self._steps_to_target = 0
        self._face = 0
        self._pushing = False
        self._steps_left = 0  # of the approach or the push under way

    def __call__(self, state: np.ndarray) -> np.ndarray:
        agent, pose = state[:2], state[4:7]
        self._steps_to_target -= 1
        if self._target_pose is None or self._steps_to_target <= 0 or self._error(pose) < self._close_enough:
            self._target_pose = self._draw_target(pose)
            self._steps_to_target = int(self._rng.integers(25, 60))
        self._steps_left -= 1
        if self._steps_left <= 0 or (self._pushing and not on_table(pose, slack=3)):
            self._plan_push(pose)
        face, normal = self._face_on_table(pose)
        if not self._pushing:
            start = face - normal * (AGENT_RADIUS + self._clearance)
            if np.linalg.norm(agent - start) > self._clearance:
                return _on_canvas(self._step_towards(agent, self._way_to(agent, start, pose)))
            self._pushing, self._steps_left = True, int(self._rng.integers(5, 16))
            self._stop = face + normal * (self._distance - AGENT_RADIUS)
        if self._error(pose) < _FINE:
            return _on_canvas(self._stop)
        return _on_canvas(face + normal * (self._lead - AGENT_RADIUS))

    def _draw_target(self, pose: np.ndarray) -> np.ndarray:
        if self._rng.random() < 0.3:
            self._close_enough = 2.0
            return GOAL_POSE
        self._close_enough = 12.0
        while True:
            shift, turn = self._rng.normal(0, 110, 2), self._rng.normal(0, 1.2)
            target = pose + np.array([*shift, turn])
            if on_table(target):
                return target
            if not on_table(pose, slack=20):  # nothing near a block that was squeezed out may fit
                return GOAL_POSE

    def _error(self, pose: np.ndarray) -> float:
        gap = self._target_pose - pose
        return float(np.hypot(np.hypot(gap[0], gap[1]), _TURN_WEIGHT * _wrap(gap[2])))

    def _plan_push(self, pose: np.ndarray) -> None:
        """Choose the face among the most promising ones, and the pace."""
        self._pushing, self._steps_left = False, int(self._rng.integers(14, 24))
        self._clearance = self._rng.uniform(6, 16)
        self._pace = self._rng.uniform(40, 200)  # px ahead of the agent while walking
        self._lead = self._rng.uniform(8, 55)  # px ahead of the contact while pushing: half of it is moved per step
        rotation = _rotation(pose[2])
        normals = _NORMALS @ rotation
        centre, goal_centre = (block_points(p, BLOCK_CENTRE[None])[0] for p in (pose, self._target_pose))
        gap, turn = goal_centre - centre, _wrap(self._target_pose[2] - pose[2])
        # least-squares length of the push from each face; the face itself moves further, for it also turns
        push = normals @ gap + _TURN_WEIGHT**2 * turn * _LEVERS / _INERTIA
        push = np.clip(push / (1 + (_TURN_WEIGHT * _LEVERS / _INERTIA) ** 2), 1, 130)
        missing = gap - normals * push[:, None]
        cost = np.hypot(np.hypot(missing[:, 0], missing[:, 1]), _TURN_WEIGHT * (turn - _LEVERS * push / _INERTIA))
        starts = block_points(pose, _POINTS) - normals * (AGENT_RADIUS + self._clearance)
        reachable = (block_distance(pose, starts) > AGENT_RADIUS) & ((starts > 5) & (starts < TABLE - 5)).all(axis=1)
        cost = np.where(reachable, cost, np.inf)
        choices = 1 if self._error(pose) < _FINE else int(self._rng.integers(1, 7))
        self._face = int(self._rng.choice(np.argsort(cost)[:choices]))
        self._distance = push[self._face] * (1 + _LEVERS[self._face] ** 2 / _INERTIA)

    def _face_on_table(self, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        face = block_points(pose, _POINTS[self._face][None])[0]
        return face, _NORMALS[self._face] @ _rotation(pose[2])

    def _step_towards(self, agent: np.ndarray, waypoint: np.ndarray) -> np.ndarray:
        gap = waypoint - agent
        return agent + gap * min(1.0, self._pace / max(np.linalg.norm(gap), 1e-6))

    def _way_to(self, agent: np.ndarray, start: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """`start` if the straight line is free, else a point on a circle around the block on the shorter way round."""
        line = agent + np.linspace(0, 1, 24)[:, None] * (start - agent)
        if block_distance(pose, line).min() > AGENT_RADIUS + 1:
            return start
        centre = block_points(pose, BLOCK_CENTRE[None])[0]
        bearing, goal_bearing = (math.atan2(*(p - centre)[::-1]) for p in (agent, start))
        bearing += np.clip(_wrap(goal_bearing - bearing), -0.7, 0.7)
        return np.clip(centre + 105 * np.array([math.cos(bearing), math.sin(bearing)]), 8, TABLE - 8)


class NoisyPush:
    """`ScriptedPush` under disturbances of a strength drawn per episode."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._push = rng, ScriptedPush(rng)
        self._scale = rng.uniform(5, 50)  # px
        self._memory = rng.uniform(0, 0.9)  # of the noise, per step
        self._hold = int(rng.choice([1, 1, 2, 5]))
        self._noise = np.zeros(2)
        self._action, self._held, self._burst = np.zeros(2, np.float32), 0, 0

    def __call__(self, state: np.ndarray) -> np.ndarray:
        rng = self._rng
        intended = self._push(state)  # keeps its plan up to date through bursts
        self._noise = self._memory * self._noise + math.sqrt(1 - self._memory**2) * rng.normal(0, self._scale, 2)
        if self._burst > 0:
            self._burst -= 1
        elif rng.random() < 0.04:
            self._burst = int(rng.integers(2, 6))
            reversal = 2 * state[:2] - intended
            self._action = _on_canvas(reversal if rng.random() < 0.5 else state[:2] + rng.normal(0, 90, 2))
        elif self._held > 0:
            self._held -= 1
        else:
            self._held = self._hold - 1
            self._action = _on_canvas(intended + self._noise)
        return self._action


class RandomExplore:
    """Switches every one to three seconds between ways of drawing targets; each target is new or held for a while."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._steps_left, self._held = 0, 0
        self._action = np.full(2, TABLE / 2, np.float32)

    def __call__(self, state: np.ndarray) -> np.ndarray:
        rng = self._rng
        if self._steps_left <= 0:
            self._steps_left = int(rng.integers(10, 31))
            self._way = rng.choice(["uniform", "walk", "relative", "jab"], p=[0.15, 0.2, 0.25, 0.4])
            self._hold = int(rng.choice([1, 3, 5, 8], p=[0.3, 0.15, 0.4, 0.15]))
            self._scale = rng.uniform(20, 140)
        self._steps_left -= 1
        if self._held > 0:
            self._held -= 1
            return self._action
        self._held = self._hold - 1
        if self._way == "uniform":
            target = rng.uniform(0, TABLE, 2)
        elif self._way == "walk":
            target = self._action + rng.normal(0, self._scale / 2, 2)
        elif self._way == "relative":
            target = state[:2] + rng.normal(0, self._scale, 2)
        else:
            target = block_points(state[4:7], BLOCK_CENTRE[None])[0] + rng.normal(0, 45, 2)
        self._action = _on_canvas(target)
        return self._action


POLICIES: dict[str, Callable[[np.random.Generator], Policy]] = {
    "scripted": ScriptedPush,
    "noisy": NoisyPush,
    "random": RandomExplore,
}
