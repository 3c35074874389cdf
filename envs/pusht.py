"""PushT as a Gymnasium environment: pixels out, target points in, state exactly readable and settable."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sana_wm.envs.pusht_physics import (
    AGENT_RADIUS,
    GOAL_POSE,
    OUTLINE,
    STATE_NAMES,
    STATE_SIZE,
    SUCCESS_COVERAGE,
    TABLE,
    PushTPhysics,
    block_points,
    coverage,
    random_state,
)
from sana_wm.envs.seeds import check_seed

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


class PushTEnv(gym.Env):
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

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None, observation_size: int = 64, render_size: int = 256) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode: got {render_mode!r}, expected None or one of {self.metadata['render_modes']}"
            )
        self.render_mode = render_mode
        self.render_size = render_size
        shape = (observation_size, observation_size, 3)
        self.observation_space = spaces.Box(0, 255, shape, dtype=np.uint8)
        self.action_space = spaces.Box(0, TABLE, (2,), dtype=np.float32)
        self._physics, self._draw = PushTPhysics(), Renderer()
        self._state = np.array([256.0, 400.0, 0.0, 0.0, 256.0, 300.0, 0.0, 0.0, 0.0, 0.0])

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start from `options["state"]` `(10,)`, or from a random pose of the block and of the agent, apart from it.

        Raises ValueError or TypeError for other options, states and seeds, and then nothing has changed.
        """
        seed = check_seed(seed)
        given = _checked_options(options)
        super().reset(seed=seed)
        self._state = random_state(self.np_random) if given is None else given
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move the agent's target for 0.1 s. Raises ValueError on a wrong shape, NaN or an action off the table."""
        self._state = self._physics.step(self._state, _checked_actions(action, ndim=1))
        info = self._info()
        reward = min(info["coverage"] / SUCCESS_COVERAGE, 1.0)
        return self._observe(), reward, info["is_success"], False, info

    def get_state(self) -> np.ndarray:
        """The exact simulator state, float64 `(10,)`, columns `STATE_NAMES` (px, px/s, rad, rad/s); a copy.

        It can be pickled, has `nbytes`, and its `tobytes()` is taken back by `set_state` and `reset`.
        """
        return self._state.copy()

    def set_state(self, state: np.ndarray | bytes) -> np.ndarray:
        """Put the simulator into a state `(10,)` or its bytes; returns its observation.

        What follows equals the original exactly. Raises ValueError for anything else, and then nothing has changed.
        """
        self._state = _checked_state(state)
        return self._observe()

    def fork(self, n: int) -> list[PushTEnv]:
        """`n` independent environments that stand where this one stands, each with a copy of `np_random`."""
        if n < 1:
            raise ValueError(f"got n={n} forks, expected at least 1")
        return [self._fork() for _ in range(n)]

    def _fork(self) -> PushTEnv:
        env = copy.copy(self)  # states are replaced, never written to
        env._physics, env._draw = PushTPhysics(), Renderer()
        env._np_random = copy.deepcopy(self._np_random)
        env.action_space = copy.deepcopy(self.action_space)
        env.observation_space = copy.deepcopy(self.observation_space)
        return env

    def simulate(self, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """States `(H, 10)` after each action `(H, 2)` from `state` `(10,)`; the env itself stays where it is."""
        state, actions = _checked_state(state), _checked_actions(actions, ndim=2)
        states = np.empty((len(actions), STATE_SIZE))
        for t, action in enumerate(actions):
            states[t] = state = self._physics.step(state, action)
        return states

    def render(self) -> np.ndarray | None:
        """The current state as uint8 `(render_size, render_size, 3)`."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: PushTEnv(render_mode='rgb_array')")
            return None
        return self._draw(self._state, self.render_size, self.render_size)

    def _observe(self) -> np.ndarray:
        height, width, _ = self.observation_space.shape
        return self._draw(self._state, height, width)

    def _info(self) -> dict:
        state, covered = self._state, coverage(self._state)
        return {
            "pos_agent": state[:2].copy(),
            "vel_agent": state[2:4].copy(),
            "block_pose": state[4:7].copy(),
            "keypoints": block_points(state[4:7], self._physics.keypoints_local).reshape(16),
            "coverage": covered,
            "is_success": covered > SUCCESS_COVERAGE,
        }


def _checked_options(options: dict | None) -> np.ndarray | None:
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options: got {type(options).__name__}, expected a dict with the key 'state'")
    if unknown := sorted(str(key) for key in options or {} if key != "state"):
        raise ValueError(f"options: got the unknown keys {unknown}, expected 'state'")
    state = (options or {}).get("state")
    return None if state is None else _checked_state(state)


def _checked_state(state: np.ndarray | bytes) -> np.ndarray:
    try:
        state = np.frombuffer(state) if isinstance(state, bytes | bytearray) else state
        values = np.array(state, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"state: got {type(state).__name__} ({error}); expected {STATE_SIZE} finite numbers {STATE_NAMES}, as "
            f"get_state() returns"
        ) from error
    if values.shape != (STATE_SIZE,) or not np.isfinite(values).all():
        raise ValueError(
            f"state: got shape {values.shape}, finite: {bool(np.isfinite(values).all())}; expected {STATE_SIZE} finite "
            f"numbers {STATE_NAMES}, as get_state() returns"
        )
    return values


def _checked_actions(actions: np.ndarray, ndim: int) -> np.ndarray:
    try:
        actions = np.asarray(actions)
        if actions.dtype.kind not in "biuf":
            raise TypeError(f"numbers of type {actions.dtype}")
        actions = actions.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"action: got {error}, expected target x, y of the agent in px") from error
    expected = "(2,)" if ndim == 1 else "(H, 2)"
    if actions.ndim != ndim or actions.shape[-1] != 2:
        raise ValueError(f"action: got shape {actions.shape}, expected {expected}: target x, y of the agent in px")
    if not ((actions >= 0) & (actions <= TABLE)).all():  # NaN fails too
        raise ValueError(
            f"action: got values in [{actions.min():g}, {actions.max():g}], expected target x, y in [0, {TABLE}] px; "
            "clip with np.clip(action, env.action_space.low, env.action_space.high)"
        )
    return actions
