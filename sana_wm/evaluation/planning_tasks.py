"""What `python -m sana_wm.plan` must know of a simulator: one value per environment, found by its Gymnasium id."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sana_wm.evaluation.acting import Run

# Named, not imported: PushT needs the `sim` extra, TwoRoom does not.
TASKS = {
    "sana_wm/PushT-v0": "sana_wm.evaluation.pusht_task",
    "sana_wm/TwoRoom-v0": "sana_wm.evaluation.tworoom_task",
}


@dataclass(frozen=True)
class PlanningTask:
    """How to plan for a simulator, and how to tell whether it worked.

    Attributes:
        name: for people.
        recording: settings of `sana_wm.collect.record_episode` for fresh episodes, but for seed and index.
        objectives: what can be wanted, by name; the first is the default.
        cut_pairs: (trajectories of states and actions, count, context=, seed=) -> held-out pairs, none of them solved.
        config: (settings as in configs/planner/*.yaml, objective) -> the task's own configuration, a dataclass.
        run: (world, pairs, config, objective) -> the run in the real simulator, its agents kept.
        baselines: (pairs, config, seed) -> runs by name that do not plan.
        success: (run, pairs) -> which pairs (N,) are solved, by what that means; what counts first.
        drawn: (run, pairs, count, size) -> goals, real frames and reached steps of `sana_wm.evaluation.plan_video`.
        budget: config -> environment steps.
    """

    name: str
    recording: Mapping[str, Any]
    objectives: Mapping[str, str]
    cut_pairs: Callable[..., Any]
    config: Callable[[Mapping[str, Any], str], Any]
    run: Callable[[Any, Any, Any, str], Run]
    baselines: Callable[[Any, Any, int], dict[str, Run]]
    success: Callable[[Run, Any], dict[str, np.ndarray]]
    drawn: Callable[[Run, Any, int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
    budget: Callable[[Any], int]

    def check_objective(self, name: str | None) -> str:
        """The objective of that name, the task's first for None.

        Raises:
            ValueError: the task has no such objective.
        """
        if name is None:
            return next(iter(self.objectives))
        if name not in self.objectives:
            known = "; ".join(f"{key}: {words}" for key, words in self.objectives.items())
            raise ValueError(f"objective: {self.name} has no {name!r}, it has {known}")
        return name


def planning_task(env: str) -> PlanningTask:
    """The task of an environment by its Gymnasium id.

    Raises:
        ValueError: planning acts in a simulator with settable state, and there is none of that name.
    """
    if env not in TASKS:
        raise ValueError(
            f"env: planning acts in a simulator with settable state and held-out pairs, one of {sorted(TASKS)}; "
            f"got {env!r}"
        )
    return importlib.import_module(TASKS[env]).TASK


def in_states(states: Iterable[np.ndarray], draw: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Trajectories of states (N, T, D) as frames (N, T, size, size, 3)."""
    return np.stack([np.stack([draw(state) for state in trajectory]) for trajectory in states])
