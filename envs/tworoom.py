"""TwoRoom as a Gymnasium environment: pixels out, velocities in, state exactly readable and settable."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from sana_wm.envs.simulated_env import SimulatedEnv
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


class TwoRoomEnv(SimulatedEnv):
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

    state_names = STATE_NAMES
    action_words = "velocity x, y in [-1, 1]"

    def __init__(self, render_mode: str | None = None, observation_size: int = 64, render_size: int = 256) -> None:
        state = np.array([LOW, SIDE / 2, SIDE / 2, HIGH, SIDE / 2])
        space = spaces.Box(-1, 1, (2,), dtype=np.float32)
        super().__init__(space, Renderer, state, render_mode, observation_size, render_size)

    def _random_state(self, rng: np.random.Generator) -> np.ndarray:
        return random_state(rng)

    def _advance(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        (x, y, door, goal_x, goal_y), (vx, vy) = state.tolist(), action.tolist()
        pace = STEP / max(1.0, (vx * vx + vy * vy) ** 0.5)
        return np.array([*move(x, y, pace * vx, pace * vy, door), door, goal_x, goal_y])

    def _reward_and_info(self, state: np.ndarray) -> tuple[float, dict[str, Any]]:
        length = float(path_length(state))
        return -length / SIDE, {
            "pos_agent": state[:2].copy(),
            "pos_goal": state[3:5].copy(),
            "door_y": float(state[2]),
            "path_length": length,
            "is_success": reached(state),
        }

    def _check_place(self, state: np.ndarray) -> None:
        x, y, door, goal_x, goal_y = state
        in_passage = abs(y - door) <= PASSAGE_HALF + _ROUNDING or not NEAR + _ROUNDING < x < FAR - _ROUNDING
        if not (LOW - _ROUNDING <= min(x, y) and max(x, y) <= HIGH + _ROUNDING and in_passage):
            raise ValueError(
                f"state: the agent at ({x:g}, {y:g}) is inside a wall; expected [{LOW:g}, {HIGH:g}] for both, and "
                f"between x = {NEAR:g} and {FAR:g} no further than {PASSAGE_HALF:g} from the door's middle, "
                f"y = {door:g}"
            )
        if not (DOOR_RANGE[0] <= door <= DOOR_RANGE[1] and 0 <= min(goal_x, goal_y) and max(goal_x, goal_y) <= SIDE):
            raise ValueError(
                f"state: got door_y {door:g}, goal ({goal_x:g}, {goal_y:g}); expected door_y in {list(DOOR_RANGE)}, "
                f"the goal in [0, {SIDE:g}]"
            )


def reached(state: np.ndarray) -> bool:
    """Whether the agent's centre is inside the goal's disc."""
    return bool(np.hypot(state[0] - state[3], state[1] - state[4]) <= GOAL_RADIUS)
