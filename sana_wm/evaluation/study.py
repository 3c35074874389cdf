"""What is measured, and what its parts share: held-out windows of a dataset and what the world imagined from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.evaluation.physics import errors_by_step
from sana_wm.evaluation.tasks import SimulatedTask
from sana_wm.evaluation.windows import OUTCOMES, SIM_STATE, Imagined, Windows, cut_windows, imagine, reconstruct

if TYPE_CHECKING:
    from sana_wm.data import LeRobotDataset
    from sana_wm.world import WorldModel

# Columns of a LeRobot dataset that say what followed an action, where the world's recipe names no others.
LABELS = {"reward": "next.reward", "terminated": "next.done", "success": "next.success"}


class Unmeasured(Exception):
    """A part that cannot be measured for this world or dataset; the message says why, and the report prints it."""


@dataclass(frozen=True)
class Study:
    """One evaluation: see `sana_wm.evaluation.evaluate` for what the fields mean. What is expensive is made once."""

    world: "WorldModel"
    dataset: "LeRobotDataset"
    task: SimulatedTask | None
    episodes: Sequence[int]
    camera: str
    action: str
    windows_wanted: int
    horizon: int
    pairs: int
    policy_starts: int
    policy_horizon: int
    planner: Any
    quick: bool
    lanes: int
    workers: int
    seed: int
    show_progress: bool

    @cached_property
    def windows(self) -> Windows:
        named = self.world.config.extra.get("data", {}).get("columns", {})
        labels = {what: named.get(what) or LABELS[what] for what in OUTCOMES}
        return cut_windows(
            self.dataset,
            self.episodes,
            count=self.windows_wanted,
            context=self.world.config.context,
            horizon=self.horizon,
            camera=self.camera,
            action=self.action,
            labels={what: column for what, column in labels.items() if column in self.dataset.features},
            resolution=tuple(self.world.config.resolution),
            seed=self.seed,
            show_progress=self.show_progress,
        )

    @cached_property
    def imagined(self) -> Imagined:
        return imagine(self.world, self.windows, lanes=self.lanes, show_progress=self.show_progress)

    @cached_property
    def shuffled(self) -> Imagined:
        return imagine(
            self.world, self.windows.shuffled, lanes=self.lanes, what="shuffled actions",
            show_progress=self.show_progress,
        )  # fmt: skip

    @cached_property
    def reconstructed(self) -> Imagined:
        return reconstruct(self.world, self.windows.future, show_progress=self.show_progress)

    @cached_property
    def errors(self) -> dict[str, dict[int, dict[str, np.ndarray]]]:
        """Physical errors of every window, see `errors_by_step`."""
        return errors_by_step(
            self.simulator, self.windows, self.imagined, self.reconstructed, show_progress=self.show_progress
        )

    @property
    def simulator(self) -> SimulatedTask:
        """The task, where there is one.

        Raises:
            Unmeasured: there is none.
        """
        if self.task is None:
            raise Unmeasured("the dataset records no simulator that this package knows, or simulator=false was given")
        return self.task

    def trajectories(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Simulator states (T, D) and actions (T, A) of the held-out episodes; cameras are not decoded."""
        rows = (self.dataset.episode(int(index), keys=[SIM_STATE, self.action]) for index in self.episodes)
        return [(row[SIM_STATE], row[self.action]) for row in rows]
