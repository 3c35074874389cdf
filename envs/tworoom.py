"""TwoRoom as a Gymnasium environment: pixels out, velocities in, state exactly readable and settable."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sana_wm.envs.tworoom_physics import (
    AGENT_RADIUS,
    BORDER,
    DOOR_HALF,
    DOOR_RANGE,
    FAR,
    GOAL_RADIUS,
    HIGH,
    LOW,
    NEAR,
    PASSAGE_HALF,
    SIDE,
    STATE_NAMES,
    STATE_SIZE,
    STEP,
    WALL,
    move,
    path_length,
    random_state,
)

# Floor and walls are grey, the goal has as much blue as red, the agent has not: so a pixel says what it is a mix of.
FLOOR, WALLS, GOAL, AGENT = (255.0,) * 3, (110.0,) * 3, (144.0, 238.0, 144.0), (65.0, 105.0, 225.0)

_ROUNDING = 1e-9  # units that sums of floats may be off where the agent touches a wall


class Renderer:
    """Draws states with exact coverage for walls and soft edges of a pixel for discs."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, state: np.ndarray, height: int, width: int) -> np.ndarray:
        """State `(5,)` -> uint8 `(height, width, 3)`, RGB."""
        canvas = self._empty(height, width).copy()
        door = state[2]
        wall_x = _covered(width, *WALL)
        columns = np.flatnonzero(wall_x)
        across = slice(columns[0], columns[-1] + 1)
        wall_y = 1.0 - _covered(height, door - DOOR_HALF, door + DOOR_HALF)
        _paint(canvas[:, across], (wall_y[:, None] * wall_x[across])[..., None], WALLS)
        for place, radius, colour in ((state[3:5], GOAL_RADIUS, GOAL), (state[:2], AGENT_RADIUS, AGENT)):
            _disc(canvas, place, radius, colour)
        return np.round(canvas).astype(np.uint8)

    def _empty(self, height: int, width: int) -> np.ndarray:
        if (height, width) not in self._rooms:
            inside = _covered(height, BORDER, SIDE - BORDER)[:, None] * _covered(width, BORDER, SIDE - BORDER)
            floor, walls = np.array(FLOOR), np.array(WALLS)
            self._rooms[height, width] = walls + inside[..., None] * (floor - walls)
        return self._rooms[height, width]


def _covered(pixels: int, low: float, high: float) -> np.ndarray:
    """Share (pixels,) of every pixel along one side that lies between two places."""
    edges = np.arange(pixels + 1) * (SIDE / pixels)
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * (pixels / SIDE)


def _paint(canvas: np.ndarray, cover: np.ndarray, colour: tuple[float, ...]) -> None:
    canvas += cover * (np.array(colour) - canvas)


def _disc(canvas: np.ndarray, place: np.ndarray, radius: float, colour: tuple[float, ...]) -> None:
    height, width, _ = canvas.shape
    per_y, per_x = SIDE / height, SIDE / width
    top, bottom = max(0, int((place[1] - radius) / per_y) - 1), int((place[1] + radius) / per_y) + 2
    left, right = max(0, int((place[0] - radius) / per_x) - 1), int((place[0] + radius) / per_x) + 2
    part = canvas[top:bottom, left:right]
    y = (top + np.arange(part.shape[0]) + 0.5) * per_y - place[1]
    x = (left + np.arange(part.shape[1]) + 0.5) * per_x - place[0]
    distance = np.sqrt(y[:, None] ** 2 + x**2)
    _paint(part, np.clip((radius - distance) / max(per_x, per_y) + 0.5, 0, 1)[..., None], colour)


class TwoRoomEnv(gym.Env):
    """Find the way to the goal through the door, from pixels, with exactly settable state.

    A disc moves in a square of two rooms; a wall with one door parts them. Door, goal and agent have other places in
    every episode. Lengths are in units of 1/64 of the square's side: pixels, in the observation.

    Observation: uint8 `(64, 64, 3)` (`observation_size` sets the side). Action: float32 `(2,)` in [-1, 1], velocity x
    and y in steps of 4 units; a longer vector than 1 counts as 1 in its direction. Walls are slid along.

    Reward: minus the length of the shortest path to the goal, in sides of the square (64 units). It is dense, has no
    trap at the wall as the straight distance has, and depends on where the step led alone, so that a picture is enough
    to know it. As every step costs, the best policy is the shortest path. The episode terminates when the agent's
    centre is inside the goal (`info["is_success"]`). 10 steps per second; register with a time limit.

    `info` of `reset` and `step`: `pos_agent` (2,), `pos_goal` (2,), `door_y` (float), `path_length` (float, units),
    `is_success` (bool).

    Args:
        render_mode: None or "rgb_array" (`render` then gives `render_size` px frames).
        observation_size: side of the observation, px.
        render_size: side of rendered frames, px.

    Example:
        >>> env = TwoRoomEnv()
        >>> observation, info = env.reset(seed=0)
        >>> state = env.get_state()
        >>> future = env.simulate(state, np.full((25, 2), 0.5))  # (25, 5); leaves `env` where it is
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
        self.action_space = spaces.Box(-1, 1, (2,), dtype=np.float32)
        self._draw = Renderer()
        self._state = np.array([LOW, SIDE / 2, SIDE / 2, HIGH, SIDE / 2])

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start from `options["state"]` `(5,)`, or with door, goal and agent in random places, the goal not reached."""
        super().reset(seed=seed)
        state = (options or {}).get("state")
        self._state = random_state(self.np_random) if state is None else _checked_state(state)
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move for 0.1 s. Raises ValueError on a wrong shape, NaN or an action outside [-1, 1]."""
        self._state = _moved(self._state, *_checked_actions(action, ndim=1).tolist())
        info = self._info()
        return self._observe(), -info["path_length"] / SIDE, info["is_success"], False, info

    def get_state(self) -> np.ndarray:
        """The exact simulator state, float64 `(5,)`, columns `STATE_NAMES` (units); a copy."""
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Put the simulator into a state `(5,)`; returns its observation. What follows equals the original exactly."""
        self._state = _checked_state(state)
        return self._observe()

    def simulate(self, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """States `(H, 5)` after each action `(H, 2)` from `state` `(5,)`; the env itself stays where it is."""
        state, actions = _checked_state(state), _checked_actions(actions, ndim=2)
        states = np.empty((len(actions), STATE_SIZE))
        for t, action in enumerate(actions.tolist()):
            states[t] = state = _moved(state, *action)
        return states

    def render(self) -> np.ndarray | None:
        """The current state as uint8 `(render_size, render_size, 3)`."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: TwoRoomEnv(render_mode='rgb_array')")
            return None
        return self._draw(self._state, self.render_size, self.render_size)

    def _observe(self) -> np.ndarray:
        height, width, _ = self.observation_space.shape
        return self._draw(self._state, height, width)

    def _info(self) -> dict:
        state = self._state
        return {
            "pos_agent": state[:2].copy(),
            "pos_goal": state[3:5].copy(),
            "door_y": float(state[2]),
            "path_length": float(path_length(state)),
            "is_success": reached(state),
        }


def reached(state: np.ndarray) -> bool:
    """Whether the agent's centre is inside the goal's disc."""
    return bool(np.hypot(state[0] - state[3], state[1] - state[4]) <= GOAL_RADIUS)


def _moved(state: np.ndarray, vx: float, vy: float) -> np.ndarray:
    x, y, door, goal_x, goal_y = state.tolist()
    pace = STEP / max(1.0, (vx * vx + vy * vy) ** 0.5)
    return np.array([*move(x, y, pace * vx, pace * vy, door), door, goal_x, goal_y])


def _checked_state(state: np.ndarray) -> np.ndarray:
    state = np.array(state, dtype=np.float64)
    if state.shape != (STATE_SIZE,) or not np.isfinite(state).all():
        raise ValueError(
            f"state: got shape {state.shape}, finite: {bool(np.isfinite(state).all())}; expected {STATE_SIZE} finite "
            f"numbers {STATE_NAMES}, as get_state() returns"
        )
    x, y, door, goal_x, goal_y = state
    in_passage = abs(y - door) <= PASSAGE_HALF + _ROUNDING or not NEAR + _ROUNDING < x < FAR - _ROUNDING
    if not (LOW - _ROUNDING <= min(x, y) and max(x, y) <= HIGH + _ROUNDING and in_passage):
        raise ValueError(
            f"state: the agent at ({x:g}, {y:g}) is inside a wall; expected [{LOW:g}, {HIGH:g}] for both, and between "
            f"x = {NEAR:g} and {FAR:g} no further than {PASSAGE_HALF:g} from the door's middle, y = {door:g}"
        )
    if not (DOOR_RANGE[0] <= door <= DOOR_RANGE[1] and 0 <= min(goal_x, goal_y) and max(goal_x, goal_y) <= SIDE):
        raise ValueError(
            f"state: got door_y {door:g}, goal ({goal_x:g}, {goal_y:g}); expected door_y in {list(DOOR_RANGE)}, "
            f"the goal in [0, {SIDE:g}]"
        )
    return state


def _checked_actions(actions: np.ndarray, ndim: int) -> np.ndarray:
    actions = np.asarray(actions, dtype=np.float64)
    expected = "(2,)" if ndim == 1 else "(H, 2)"
    if actions.ndim != ndim or actions.shape[-1] != 2:
        raise ValueError(f"action: got shape {actions.shape}, expected {expected}: velocity x, y in [-1, 1]")
    if not (np.abs(actions) <= 1).all():  # NaN fails too
        raise ValueError(
            f"action: got values in [{actions.min():g}, {actions.max():g}], expected velocity x, y in [-1, 1]; "
            "clip with np.clip(action, env.action_space.low, env.action_space.high)"
        )
    return actions
