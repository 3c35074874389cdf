"""TwoRoom: a disc in two rooms that a wall parts, with one door in the wall; motion and shortest paths, exactly.

Lengths are in units of 1/64 of the square's side, so that at 64 px a unit is a pixel; x points right, y down. Where the
agent's *centre* may be is what counts, so every wall is thicker by the agent's radius here: two rooms, and between them
the passage of the door, three rectangles in all. The agent collides as the square around its disc does, which is exact
for straight walls and keeps the passage a rectangle.
"""

from __future__ import annotations

import math

import numpy as np

SIDE = 64.0
BORDER = 2.0  # thickness of the outer wall
WALL = (30.0, 34.0)  # x of the inner wall's faces
DOOR_HALF = 7.0  # half of the door's width
AGENT_RADIUS = 3.0
GOAL_RADIUS = 4.5  # the goal is reached when the agent's centre is inside its disc
STEP = 4.0  # the longest way of one step
STATE_NAMES = ("agent_x", "agent_y", "door_y", "goal_x", "goal_y")
STATE_SIZE = len(STATE_NAMES)

# of the agent's centre
LOW, HIGH = BORDER + AGENT_RADIUS, SIDE - BORDER - AGENT_RADIUS
NEAR, FAR = WALL[0] - AGENT_RADIUS, WALL[1] + AGENT_RADIUS  # the mouths of the passage, x
PASSAGE_HALF = DOOR_HALF - AGENT_RADIUS
DOOR_RANGE = (BORDER + DOOR_HALF + 3.0, SIDE - BORDER - DOOR_HALF - 3.0)  # of the door's centre, y


def move(x: float, y: float, dx: float, dy: float, door: float) -> tuple[float, float]:
    """Where the agent's centre comes by going (dx, dy) from (x, y), sliding along what is in the way.

    Whatever of the way leads into a wall is lost, the rest goes on along it; a passage that is slid past while pushing
    against the wall is entered. The way is shorter than the wall is thick.
    """
    if dx < 0:  # the same, seen in a mirror
        x, y = move(SIDE - x, y, -dx, dy, door)
        return SIDE - x, y
    low, high = door - PASSAGE_HALF, door + PASSAGE_HALF
    left = 1.0  # of the way
    if x <= NEAR and x + dx > NEAR:  # it comes to the wall's face, or to the passage
        part = (NEAR - x) / dx
        x, y, left = NEAR, y + part * dy, 1.0 - part
        if y < low or y > high:
            gap = (low if y < low else high) - y
            part = gap / dy if gap * dy > 0 else math.inf
            if part >= left:
                return x, _inside(y + left * dy)
            y, left = y + gap, left - part
    elif x <= NEAR or x >= FAR:
        return _inside(x + dx), _inside(y + dy)
    part = min(left, (FAR - x) / dx) if dx > 0 else left  # through the passage
    y = min(max(y + part * dy, low), high)
    left -= part
    return _inside(x + (part + left) * dx), _inside(y + left * dy)


def _inside(value: float) -> float:
    return min(max(value, LOW), HIGH)


def way_through(start: np.ndarray, end: np.ndarray, door: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shortest path of the agent's centre from (..., 2) to (..., 2) with the door at (...).

    Returns:
        The two points between which it leads through the wall, (..., 2) each (on one side of the wall: the end, twice),
        and its length (...).
    """
    start, end, door = np.asarray(start, float), np.asarray(end, float), np.asarray(door, float)
    forward = start[..., 0] <= end[..., 0]
    near, far = np.where(forward, NEAR, FAR), np.where(forward, FAR, NEAR)
    sign = np.where(forward, 1.0, -1.0)
    crosses = (sign * (far - start[..., 0]) > 0) & (sign * (end[..., 0] - near) > 0)
    # someone inside the passage has left its first mouth behind
    x1 = np.where(sign * (start[..., 0] - near) > 0, start[..., 0], near)
    x2 = np.where(sign * (end[..., 0] - far) < 0, end[..., 0], far)
    low, high = door - PASSAGE_HALF, door + PASSAGE_HALF

    def pulled_taut(x, before, after):  # where the line between two points passes x, or the edge next to it
        run = after[..., 0] - before[..., 0]
        share = (x - before[..., 0]) / np.where(run == 0, 1.0, run)
        return np.stack([x, np.clip(before[..., 1] + share * (after[..., 1] - before[..., 1]), low, high)], -1)

    one, two = pulled_taut(x1, start, end), pulled_taut(x2, start, end)
    for _ in range(3):  # a string with two pins is taut after pulling at each of them in turn
        one = pulled_taut(x1, start, two)
        two = pulled_taut(x2, one, end)
    one, two = (np.where(crosses[..., None], point, end) for point in (one, two))
    length = sum(np.linalg.norm(b - a, axis=-1) for a, b in ((start, one), (one, two), (two, end)))
    return one, two, length


def path_length(states: np.ndarray) -> np.ndarray:
    """Length (...) of the shortest path from agent to goal in states (..., 5)."""
    return way_through(states[..., :2], states[..., 3:5], states[..., 2])[2]


def random_place(rng: np.random.Generator) -> np.ndarray:
    """A place (2,) in one of the rooms, uniformly."""
    x = rng.uniform(0, 2 * (NEAR - LOW))
    return np.array([LOW + x if x < NEAR - LOW else FAR + x - (NEAR - LOW), rng.uniform(LOW, HIGH)])


def random_state(rng: np.random.Generator, near: float | None = None) -> np.ndarray:
    """A state (5,) with door, goal and agent in random places; `near` puts the agent so far from the goal at most."""
    door, goal = rng.uniform(*DOOR_RANGE), random_place(rng)
    while True:
        agent = random_place(rng)
        distance = np.linalg.norm(agent - goal)
        if (distance > GOAL_RADIUS) if near is None else (distance <= near):
            return np.array([*agent, door, *goal])
