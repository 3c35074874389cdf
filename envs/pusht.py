"""PushT as a Gymnasium environment: pixels out, target points in, state exactly readable and settable."""

from __future__ import annotations

from typing import Any, Self

import cv2
import numpy as np
from gymnasium import spaces

from sana_wm.envs.pusht_physics import (
    AGENT_RADIUS,
    GOAL_POSE,
    OUTLINE,
    STATE_NAMES,
    SUCCESS_COVERAGE,
    TABLE,
    PushTPhysics,
    block_points,
    coverage,
    random_state,
)
from sana_wm.envs.simulated_env import SimulatedEnv

_WHITE, _WALL, _GOAL, _BLOCK, _AGENT = (
    (255, 255, 255), (211, 211, 211), (144, 238, 144), (119, 136, 153), (65, 105, 225),
)  # fmt: skip


_SHIFT = 4  # cv2 takes fixed-point coordinates: 1/16 px


def _fixed(points: np.ndarray) -> np.ndarray:
    # cv2 puts integer coordinates at pixel centres, the table puts them at pixel corners
    return np.round((points - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _background() -> np.ndarray:
    canvas = np.full((TABLE, TABLE, 3), _WHITE, dtype=np.uint8)
    cv2.rectangle(canvas, (3, 3), (507, 507), _WALL, thickness=-1)
    cv2.rectangle(canvas, (7, 7), (503, 503), _WHITE, thickness=-1)
    cv2.fillPoly(canvas, [_fixed(block_points(GOAL_POSE, OUTLINE))], _GOAL, shift=_SHIFT)
    return canvas


class Renderer:
    """Draws states: table, goal, block and agent at 512 px, area-averaged down to the size asked for."""

    def __init__(self) -> None:
        self._background = _background()
        self._canvas = np.empty_like(self._background)

    def __call__(self, state: np.ndarray, height: int, width: int) -> np.ndarray:
        """State `(10,)` -> uint8 `(height, width, 3)`, RGB."""
        np.copyto(self._canvas, self._background)
        cv2.fillPoly(self._canvas, [_fixed(block_points(state[4:7], OUTLINE))], _BLOCK, shift=_SHIFT)
        centre = _fixed(state[:2]).tolist()
        cv2.circle(self._canvas, centre, int(AGENT_RADIUS) << _SHIFT, _AGENT, thickness=-1, shift=_SHIFT)
        return cv2.resize(self._canvas, (width, height), interpolation=cv2.INTER_AREA)


class PushTEnv(SimulatedEnv):
    """PushT from pixels, with exactly settable state.

    Observation: uint8 `(64, 64, 3)` (`observation_size` sets the side). Action: float32 `(2,)` in [0, 512], the point
    on the table the agent heads for, px. Reward: `min(coverage / 0.95, 1)` as in gym-pusht; the episode terminates when
    the block covers more than 95 % of the goal (`info["is_success"]`). 10 steps per second; register with a time limit.

    `info` of `reset` and `step`: `pos_agent` (2,), `vel_agent` (2,), `block_pose` (3: x, y px, angle rad), `keypoints`
    (16: x, y of eight corners, gym-pusht's order), `coverage` (float), `is_success` (bool).

    Args:
        render_mode: None or "rgb_array" (`render` then gives `render_size` px frames).
        observation_size: side of the observation, px.
        render_size: side of rendered frames, px.

    Example:
        >>> env = PushTEnv()
        >>> observation, info = env.reset(seed=0)
        >>> state = env.get_state()
        >>> future = env.simulate(state, np.full((25, 2), 256.0))  # (25, 10); leaves `env` where it is
    """

    state_names = STATE_NAMES
    action_words = f"target x, y of the agent in [0, {TABLE}] px"

    def __init__(self, render_mode: str | None = None, observation_size: int = 64, render_size: int = 256) -> None:
        state = np.array([256.0, 400.0, 0.0, 0.0, 256.0, 300.0, 0.0, 0.0, 0.0, 0.0])
        space = spaces.Box(0, TABLE, (2,), dtype=np.float32)
        super().__init__(space, Renderer, state, render_mode, observation_size, render_size)
        self._physics = PushTPhysics()

    def _random_state(self, rng: np.random.Generator) -> np.ndarray:
        return random_state(rng)

    def _advance(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        return self._physics.step(state, action)

    def _fork(self) -> Self:
        env = super()._fork()
        env._physics = PushTPhysics()
        return env

    def _reward_and_info(self, state: np.ndarray) -> tuple[float, dict[str, Any]]:
        covered = coverage(state)
        return min(covered / SUCCESS_COVERAGE, 1.0), {
            "pos_agent": state[:2].copy(),
            "vel_agent": state[2:4].copy(),
            "block_pose": state[4:7].copy(),
            "keypoints": block_points(state[4:7], self._physics.keypoints_local).reshape(16),
            "coverage": covered,
            "is_success": covered > SUCCESS_COVERAGE,
        }
