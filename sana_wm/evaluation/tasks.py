"""Simulators that a world can be held against: one value per simulator, found by the state that a dataset recorded."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.evaluation.windows import SIM_STATE

if TYPE_CHECKING:
    from sana_wm.data import LeRobotDataset

# By a column that no other simulator's state has. Named, not imported: PushT needs the `sim` extra, TwoRoom does not.
_TASKS = {"block_angle": "sana_wm.evaluation.pusht", "door_y": "sana_wm.evaluation.tworoom"}

Places = Mapping[str, np.ndarray]  # name of a thing -> (N, D), or (N, 1) of an angle in radians


@dataclass(frozen=True)
class Thing:
    """Something whose place is measured.

    Attributes:
        words: what a table calls it. unit: of its error, in short.
        angle: a place (N, 1) in radians, whose error is given in degrees.
        moves: whether actions can move it.
    """

    words: str
    unit: str
    angle: bool = False
    moves: bool = True

    def error(self, places: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Distance (N,) of places (N, D) from the true ones, in `unit`."""
        gap = self.gap(places, truth)
        return np.abs(np.rad2deg(gap[:, 0])) if self.angle else np.linalg.norm(gap, axis=1)

    def gap(self, places: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """places - truth, (N, D); of angles the shorter way round."""
        gap = np.asarray(places, np.float64) - truth
        return (gap + np.pi) % (2 * np.pi) - np.pi if self.angle else gap


@dataclass(frozen=True)
class SimulatedTask:
    """What the report must know of a simulator. States are (N, D) float64, frames uint8 (N, size, size, 3).

    Attributes:
        name: as `sana_wm.envs.simulators` calls it. units: what the units of things mean.
        make_env: observation size -> the simulator, with `set_state` and `simulate`.
        proprio_names: of a world whose readings can be turned into states.
        things: what is measured, by name.
        main: the thing whose error ranks films. much: the error of all that moves, summed, from which on it is large.
        places_of_states, places_of_frames, places_of_proprio: where things are, exactly or as they are seen; frames
            also say whether everything was "found" (N,).
        visible: (states, thing) -> (N,) whether a thing can be seen at all; the others are not asked for.
        start: (generator, number) -> an unsolved state to begin from.
        probe: (generator, state, n) -> n different actions (n, A) that are worth telling apart.
        policies: graded ones from aimless to skilled: name -> make(generator) -> policy(state) -> action.
        state_of_proprio: readings (N, P) -> states that policies can act on.
        outcome: states (..., D) -> reward (...) and success (...).
        cut_pairs: (trajectories, count, context=, seed=) -> start-goal pairs.
        check_planning: raises ValueError for a world in which its planning table cannot be made.
        planning: (world, pairs, planner settings or None, workers=, show_progress=) -> planning table.
    """

    name: str
    units: str
    make_env: Callable[[int], Any]
    state_names: tuple[str, ...]
    proprio_names: tuple[str, ...]
    things: Mapping[str, Thing]
    main: str
    much: float
    places_of_states: Callable[[np.ndarray], Places]
    places_of_frames: Callable[[np.ndarray], Places]
    places_of_proprio: Callable[[np.ndarray], Places]
    visible: Callable[[np.ndarray, str], np.ndarray]
    start: Callable[[np.random.Generator, int], np.ndarray]
    probe: Callable[[np.random.Generator, np.ndarray, int], np.ndarray]
    policies: Mapping[str, Callable[[np.random.Generator], Callable[[np.ndarray], np.ndarray]]]
    state_of_proprio: Callable[[np.ndarray], np.ndarray]
    outcome: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    cut_pairs: Callable[..., Any]
    check_planning: Callable[[Any], None]
    planning: Callable[..., dict]

    def draw(self, states: np.ndarray, size: int) -> np.ndarray:
        """States (..., D) as frames (..., size, size, 3)."""
        env = self.make_env(size)
        frames = np.stack([env.set_state(state) for state in states.reshape(-1, states.shape[-1])])
        return frames.reshape(*states.shape[:-1], *frames.shape[1:])

    def reads(self, world: Any) -> bool:
        """Whether a world's readings are those of this simulator."""
        return tuple(world.config.proprio_names or ()) == self.proprio_names


def task_of(dataset: "LeRobotDataset") -> SimulatedTask | None:
    """The simulator that a dataset recorded, if it is a known one.

    Raises:
        ValueError: its package is not installed.
    """
    names = tuple((dataset.features.get(SIM_STATE) or {}).get("names") or ())
    for column, module in _TASKS.items():
        if column in names:
            try:
                task = importlib.import_module(module).TASK
            except ImportError as error:
                raise ValueError(
                    f"the dataset recorded a simulator that cannot be run here ({error}): pip install 'sana-wm[sim]', "
                    "or pass simulator=false to measure without it"
                ) from error
            return task if task.state_names == names else None
    return None
