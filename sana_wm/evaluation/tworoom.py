"""TwoRoom as the report sees it (see `sana_wm.evaluation.tasks`). Lengths are units of 1/64 of the square's side."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_physics import (
    AGENT_RADIUS,
    DOOR_RANGE,
    FAR,
    GOAL_RADIUS,
    HIGH,
    LOW,
    NEAR,
    PASSAGE_HALF,
    SIDE,
    STATE_NAMES,
    path_length,
    random_state,
)
from sana_wm.envs.tworoom_policies import GRADED
from sana_wm.envs.tworoom_pose import decode_pose
from sana_wm.evaluation.tasks import Places, SimulatedTask, Thing
from sana_wm.evaluation.tworoom_pairs import cut_tworoom_pairs, goal_reached
from sana_wm.evaluation.tworoom_planning import PROPRIO_NAMES, SEARCHES, check_world, planning_table

if TYPE_CHECKING:
    pass

MATCH = 0.7  # below this share of its area there is no proper disc in the frame


def _places(states: np.ndarray) -> Places:
    """Of states and of readings: they have the same columns."""
    return {"agent": states[:, :2], "goal": states[:, 3:5], "door": states[:, 2:3]}


def _places_of_frames(frames: np.ndarray) -> Places:
    pose = decode_pose(frames)
    return {"agent": pose.agent, "goal": pose.goal, "door": pose.door[:, None], "found": pose.agent_match > MATCH}


def _visible(states: np.ndarray, thing: str) -> np.ndarray:
    """A goal that the agent covers has no centre to see."""
    apart = np.linalg.norm(states[:, :2] - states[:, 3:5], axis=1) > AGENT_RADIUS + GOAL_RADIUS
    return apart if thing == "goal" else np.ones(len(states), bool)


def _start(rng: np.random.Generator, number: int) -> np.ndarray:
    return random_state(rng)  # never inside the goal


def _probe(rng: np.random.Generator, state: np.ndarray, n: int) -> np.ndarray:
    """Headings all around at full speed."""
    angles = rng.uniform(0, 2 * np.pi) + np.arange(n) * (2 * np.pi / n)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _state_of_proprio(proprio: np.ndarray) -> np.ndarray:
    """Readings (N, 5) as states; what was read from inside a wall is put to the nearest place outside of it."""
    states = np.array(proprio, np.float64)
    states[:, 2] = np.clip(states[:, 2], *DOOR_RANGE)
    states[:, :2] = np.clip(states[:, :2], LOW, HIGH)
    states[:, 3:5] = np.clip(states[:, 3:5], 0, SIDE)
    x, beside = states[:, 0], np.abs(states[:, 1] - states[:, 2]) > PASSAGE_HALF
    in_wall = beside & (x > NEAR) & (x < FAR)
    states[in_wall, 0] = np.where(x[in_wall] < SIDE / 2, NEAR, FAR)
    return states


def _outcome(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return -path_length(states) / SIDE, goal_reached(states)


def _check_planning(world: Any) -> None:
    for want in ("reward", "image"):
        check_world(world, want)


def _planning(world: Any, pairs: Any, config: Any = None, *, workers: int = 0, show_progress: bool = False) -> dict:
    """TwoRoom has searches of its own, one for each objective: `config` (as in configs/planner/) changes them.

    Its simulator is too quick to be shared among `workers`.
    """
    config = dict(config or {})
    name = config.get("name") or "cem"
    settings = {key: value for key, value in (config.get("search") or {}).items() if value is not None}
    searches = SEARCHES if name == "cem" and not settings else {w: s.of(name, settings) for w, s in SEARCHES.items()}
    return planning_table(world, pairs, searches=searches, show_progress=show_progress)


TASK = SimulatedTask(
    name="tworoom",
    units="a unit is 1/64 of the square's side",
    make_env=lambda size: TwoRoomEnv(observation_size=size),
    state_names=STATE_NAMES,
    proprio_names=PROPRIO_NAMES,
    things={
        "agent": Thing("agent", "units"),
        "goal": Thing("goal", "units", moves=False),
        "door": Thing("door", "units", moves=False),
    },
    main="agent",
    much=2.0,
    places_of_states=_places,
    places_of_frames=_places_of_frames,
    places_of_proprio=_places,
    visible=_visible,
    start=_start,
    probe=_probe,
    policies=GRADED,
    state_of_proprio=_state_of_proprio,
    outcome=_outcome,
    cut_pairs=cut_tworoom_pairs,
    check_planning=_check_planning,
    planning=_planning,
)
