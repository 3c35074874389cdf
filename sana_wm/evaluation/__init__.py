"""Measures a world: fidelity, physics, action following, planning and speed, each with a baseline and an interval."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sana_wm.data.splits import split_episodes
from sana_wm.evaluation.fidelity import action_shuffle_ratio, fidelity
from sana_wm.evaluation.speed import speed
from sana_wm.evaluation.tworoom import evaluate_tworoom, is_tworoom
from sana_wm.evaluation.windows import cut_windows, imagine, reconstruct

if TYPE_CHECKING:
    from sana_wm.data import LeRobotDataset
    from sana_wm.evaluation.planning import PlanningConfig
    from sana_wm.world import WorldModel

PARTS = ("fidelity", "physics", "action_shuffle", "planning", "speed")


def evaluate(
    world: "WorldModel",
    dataset: "LeRobotDataset",
    simulator: bool | None = None,
    *,
    episodes: Sequence[int] | None = None,
    parts: Sequence[str] = PARTS,
    quick: bool = False,
    windows: int = 200,
    pairs: int = 200,
    horizon: int = 25,
    camera: str | None = None,
    action: str = "action",
    planning: "PlanningConfig | None" = None,
    lanes: int = 64,
    workers: int = 0,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = False,
) -> dict:
    """Measure a world on held-out episodes of a dataset.

    Args:
        simulator: whether to measure against PushT's simulator (`physics`, `planning`); by default whether the dataset
            recorded its states. Needs the `sim` extra.
        episodes: indices of held-out episodes; the test split of `split_episodes` by default.
        parts: what to measure, among `PARTS`.
        quick: a look rather than a claim: at most 24 windows, no planning, short timings.
        windows: start moments for open-loop prediction over `horizon` steps.
        pairs: start-goal pairs for planning.
        camera, action: columns of the dataset; by default its first camera, and "action".
        planning: planner, cost and budget.
        lanes: windows imagined in one batch.
        workers: processes for planning on the true simulator.
        out: folder for `evaluation.json` and `film.png`.
        show_progress: progress bars on stderr.

    Returns:
        One JSON-able dict with an entry for every part; see the functions of this package for their content.

    Raises:
        ValueError: for unknown parts, or a dataset that does not fit the world.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"unknown parts {unknown}; choose among {PARTS}")
    recorded = "observation.sim_state" in dataset.features
    if simulator and not recorded:
        raise ValueError("simulator=True, but the dataset has no 'observation.sim_state' to compare with")
    simulator = recorded if simulator is None else simulator
    tworoom = simulator and is_tworoom(dataset)
    simulator = simulator and not tworoom
    if quick:
        windows, parts = min(windows, 24), [part for part in parts if part != "planning"]
    episodes = split_episodes(dataset.num_episodes)["test"] if episodes is None else episodes
    context, began, cut, imagined, reconstructed = world.config.context, time.time(), None, None, None
    result: dict = {"windows": windows, "horizon": horizon, "quick": quick}

    if {"fidelity", "physics", "action_shuffle"} & set(parts):
        cut = cut_windows(
            dataset,
            episodes,
            count=windows,
            context=context,
            horizon=horizon,
            camera=camera or dataset.cameras[0],
            action=action,
            resolution=tuple(world.config.resolution),
            seed=seed,
            show_progress=show_progress,
        )
        imagined = imagine(world, cut, lanes=lanes, show_progress=show_progress)
        reconstructed = reconstruct(world, cut.future, show_progress=show_progress)
        if "fidelity" in parts:
            result["fidelity"] = fidelity(cut, imagined, reconstructed)
        if "physics" in parts and simulator:
            from sana_wm.evaluation.physics import physical_errors  # needs the `sim` extra

            result["physics"] = physical_errors(cut, imagined, reconstructed)
        if "action_shuffle" in parts:
            shuffled = imagine(world, cut.shuffled, lanes=lanes, what="shuffled actions", show_progress=show_progress)
            result["action_shuffle"] = action_shuffle_ratio(cut, imagined, shuffled, reconstructed)
        if out is not None:
            from sana_wm.evaluation.film import film_strip

            title = f"Held-out episodes, {horizon} steps open loop"
            film_strip(cut, imagined, title).save(_folder(out) / "film.png")
        _write(result, out)  # what is measured is kept, whatever happens later
    if "planning" in parts and simulator:
        from sana_wm.evaluation.pairs import cut_pairs, recorded_trajectories
        from sana_wm.evaluation.planning import PlanningConfig, planning_table

        held_out = cut_pairs(recorded_trajectories(dataset, episodes), pairs, context=context, seed=seed)
        result["planning"] = planning_table(
            world, held_out, planning or PlanningConfig(), workers=workers, show_progress=show_progress
        )
        _write(result, out)
    if tworoom:
        result["tworoom"] = evaluate_tworoom(
            world, dataset, episodes, parts, cut, imagined, reconstructed,
            pairs=pairs, lanes=lanes, seed=seed, show_progress=show_progress,
        )  # fmt: skip
        _write(result, out)
    if "speed" in parts:
        result["speed"] = speed(world, quick=quick, show_progress=show_progress)
    result["seconds"] = round(time.time() - began, 1)
    _write(result, out)
    return result


def _write(result: dict, out: str | Path | None) -> None:
    if out is not None:
        (_folder(out) / "evaluation.json").write_text(json.dumps(result, indent=1))


def _folder(out: str | Path) -> Path:
    Path(out).mkdir(parents=True, exist_ok=True)
    return Path(out)
