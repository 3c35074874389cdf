"""PushT as the report sees it (see `sana_wm.evaluation.tasks`). Needs the `sim` extra."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.pusht_physics import (
    BLOCK_CENTRE,
    GOAL_POSE,
    STATE_NAMES,
    STATE_SIZE,
    SUCCESS_COVERAGE,
    TABLE,
    block_points,
    coverage,
    random_state,
)
from sana_wm.envs.pusht_policies import RandomExplore, ScriptedPush
from sana_wm.envs.pusht_pose import PushTPoseDecoder, pose_of_keypoints
from sana_wm.evaluation.pairs import cut_pairs
from sana_wm.evaluation.planning import PlanningConfig, check_world, planning_config, planning_table
from sana_wm.evaluation.tasks import Places, SimulatedTask, Thing

MATCH = 0.7  # below this share the decoder found no proper T in the frame
STEPS_PER_SECOND = PushTEnv.metadata["render_fps"]


def _places(agent: np.ndarray, block: np.ndarray) -> dict[str, np.ndarray]:
    return {"agent_px": agent, "block_px": block[:, :2], "block_degrees": block[:, 2:3]}


def _places_of_states(states: np.ndarray) -> Places:
    return _places(states[:, :2], states[:, 4:7])


def _places_of_frames(frames: np.ndarray) -> Places:
    pose = PushTPoseDecoder(frames.shape[-2])(frames)
    return _places(pose.agent, pose.block) | {"found": pose.block_match > MATCH}


def _places_of_proprio(proprio: np.ndarray) -> Places:
    return _places(proprio[:, :2], pose_of_keypoints(proprio[:, 2:]))


class PushToGoal(ScriptedPush):
    """Pushes the block towards the goal, never anywhere else."""

    def _draw_target(self, pose: np.ndarray) -> np.ndarray:
        self._close_enough = 2.0
        return GOAL_POSE


class Graded:
    """Pushes to the goal in a share `skill` of the time, explores in the rest; each for a second at a time.

    The two alternate in stretches, because a push that every other step interrupts arrives nowhere.
    """

    def __init__(self, rng: np.random.Generator, skill: float) -> None:
        self._rng, self._skill, self._left = rng, skill, 0
        self._skilled, self._aimless = PushToGoal(rng), RandomExplore(rng)

    def __call__(self, state: np.ndarray) -> np.ndarray:
        if self._left <= 0:
            self._left, self._pushes = STEPS_PER_SECOND, self._rng.random() < self._skill
        self._left -= 1
        intended = self._skilled(state)  # keeps its plan up to date while the other acts
        return intended if self._pushes else self._aimless(state)


def _start(rng: np.random.Generator, number: int) -> np.ndarray:
    """A block from 10 to 100 px away from its goal: far enough to be unsolved, near enough to be pushed there."""
    while True:
        scale = 10 ** rng.uniform(1, 2)
        state = random_state(rng, GOAL_POSE + rng.normal(0, [scale, scale, scale / 60]))
        if coverage(state) <= SUCCESS_COVERAGE:
            return state


def _probe(rng: np.random.Generator, state: np.ndarray, n: int) -> np.ndarray:
    """Half of them all around the agent, half of them towards and through the block."""
    around = n // 2
    angles = rng.uniform(0, 2 * np.pi) + np.arange(around) * (2 * np.pi / around)
    ring = state[:2] + rng.uniform(60, 140, (around, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centre = block_points(state[4:7], BLOCK_CENTRE[None])[0]
    through = centre + rng.normal(0, 45, (n - around, 2))
    return np.clip(np.concatenate([ring, through]), 0, TABLE)


def _state_of_proprio(proprio: np.ndarray) -> np.ndarray:
    """Readings (N, 18) as states (N, 10); velocities, which no policy looks at, are zero."""
    states = np.zeros((len(proprio), STATE_SIZE))
    states[:, :2], states[:, 4:7] = np.clip(proprio[:, :2], 0, TABLE), pose_of_keypoints(proprio[:, 2:])
    return states


def _outcome(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    covered = np.array([coverage(state) for state in states.reshape(-1, STATE_SIZE)]).reshape(states.shape[:-1])
    return np.minimum(covered / SUCCESS_COVERAGE, 1.0), covered > SUCCESS_COVERAGE


def _planning(
    world: Any,
    pairs: Any,
    config: PlanningConfig | Mapping[str, Any] | None = None,
    *,
    workers: int = 0,
    show_progress: bool = False,
) -> dict:
    config = planning_config(config) if isinstance(config, Mapping) else config or PlanningConfig()
    return planning_table(world, pairs, config, workers=workers, show_progress=show_progress)


TASK = SimulatedTask(
    name="pusht",
    units="the table is 512 px wide",
    make_env=lambda size: PushTEnv(observation_size=size),
    state_names=STATE_NAMES,
    proprio_names=("agent_x", "agent_y", *(f"keypoint_{k}_{axis}" for k in range(8) for axis in "xy")),
    things={
        "agent_px": Thing("agent", "px"),
        "block_px": Thing("block", "px"),
        "block_degrees": Thing("block angle", "°", angle=True),
    },
    main="block_px",
    much=20.0,
    places_of_states=_places_of_states,
    places_of_frames=_places_of_frames,
    places_of_proprio=_places_of_proprio,
    visible=lambda states, thing: np.ones(len(states), bool),
    start=_start,
    probe=_probe,
    policies={
        f"skill {skill:.2f}": partial(Graded, skill=skill) for skill in (0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.9, 1)
    },
    state_of_proprio=_state_of_proprio,
    outcome=_outcome,
    cut_pairs=cut_pairs,
    check_planning=check_world,
    planning=_planning,
)
