"""Measures a TwoRoom world: what `sana_wm.evaluation.evaluate` adds where the recorded simulator is TwoRoom."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sana_wm.envs.tworoom_physics import STATE_NAMES
from sana_wm.evaluation.tworoom_outcomes import imagine_outcomes, outcome_errors
from sana_wm.evaluation.tworoom_pairs import cut_tworoom_pairs
from sana_wm.evaluation.tworoom_physics import tworoom_errors
from sana_wm.evaluation.tworoom_planning import planning_table
from sana_wm.evaluation.windows import SIM_STATE, Imagined, Windows

if TYPE_CHECKING:
    from sana_wm.data import LeRobotDataset
    from sana_wm.world import WorldModel


def is_tworoom(dataset: "LeRobotDataset") -> bool:
    """Whether a dataset recorded TwoRoom's simulator."""
    names = (dataset.features.get(SIM_STATE) or {}).get("names")
    return names is not None and list(names) == list(STATE_NAMES)


def evaluate_tworoom(
    world: "WorldModel",
    dataset: "LeRobotDataset",
    episodes: Sequence[int],
    parts: Sequence[str],
    windows: Windows | None = None,
    imagined: Imagined | None = None,
    reconstructed: Imagined | None = None,
    *,
    pairs: int = 200,
    lanes: int = 64,
    seed: int = 0,
    show_progress: bool = False,
) -> dict:
    """The parts that need TwoRoom's simulator.

    Args:
        parts: "physics" (needs the windows, and what was imagined from them) and "planning" count.

    Returns:
        {"physics": see `tworoom_errors`, "outcomes": see `outcome_errors`, "planning": see `planning_table`}
    """
    result: dict = {}
    if "physics" in parts and windows is not None:
        result["physics"] = tworoom_errors(windows, imagined, reconstructed)
        outcomes = imagine_outcomes(world, windows, lanes=lanes, show_progress=show_progress)
        result["outcomes"] = outcome_errors(outcomes, windows)
    if "planning" in parts:
        rows = (dataset.episode(int(index), keys=[SIM_STATE, "action"]) for index in episodes)
        trajectories = ((row[SIM_STATE], row["action"]) for row in rows)
        held_out = cut_tworoom_pairs(trajectories, pairs, context=world.config.context, seed=seed)
        result["planning"] = planning_table(world, held_out, show_progress=show_progress)
    return result
