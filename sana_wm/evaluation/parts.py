"""The parts of an evaluation: what each takes from a study, and when it cannot be measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sana_wm.evaluation.calibration import calibration
from sana_wm.evaluation.fidelity import action_shuffle_ratio, fidelity
from sana_wm.evaluation.film import best_median_worst, film_strip
from sana_wm.evaluation.physics import physical_errors
from sana_wm.evaluation.speed import speed
from sana_wm.evaluation.study import Study, Unmeasured

FILMS = "films"  # folder of the strips, beside the report


def _fidelity(study: Study) -> dict:
    return fidelity(study.windows, study.imagined, study.reconstructed)


def _physics(study: Study) -> dict:
    return physical_errors(study.simulator, study.errors)


def _action_shuffle(study: Study) -> dict:
    if len(study.windows) < 2:
        raise Unmeasured("a single window has no other one to take actions from")
    return action_shuffle_ratio(study.windows, study.imagined, study.shuffled, study.reconstructed)


def _counterfactual(study: Study) -> dict:
    from sana_wm.evaluation.counterfactual import counterfactual

    return counterfactual(
        study.world, study.simulator, study.windows, seed=study.seed, show_progress=study.show_progress
    )


def _calibration(study: Study) -> dict:
    measured = calibration(study.windows, study.imagined, study.reconstructed)
    if not measured:
        raise Unmeasured("the world predicts no reward, termination or success that the dataset labels")
    return measured


def _trust(study: Study) -> dict:
    if not getattr(study.world, "signal_names", ()):
        raise Unmeasured("this world carries no trust calibration")
    from sana_wm.evaluation.trust import trust_correlation

    task = study.task if study.task is not None and study.task.reads(study.world) else None
    return trust_correlation(
        study.world, study.dataset, study.episodes, task=task, windows=min(100, study.windows_wanted),
        horizon=study.horizon, seed=study.seed, show_progress=study.show_progress, camera=study.camera,
        action=study.action, lanes=study.lanes,
    )  # fmt: skip


def _policy_ranking(study: Study) -> dict:
    from sana_wm.evaluation.ranking import check_world, policy_ranking

    task = study.simulator
    try:
        check_world(study.world, task)
    except ValueError as error:
        raise Unmeasured(str(error)) from error
    return policy_ranking(
        study.world, task, starts=study.policy_starts, horizon=study.policy_horizon, seed=study.seed,
        show_progress=study.show_progress,
    )  # fmt: skip


def _planning(study: Study) -> dict:
    task = study.simulator
    if study.quick:
        raise Unmeasured("quick=true leaves planning out")
    try:
        task.check_planning(study.world)
    except ValueError as error:
        raise Unmeasured(str(error)) from error
    held_out = task.cut_pairs(study.trajectories(), study.pairs, context=study.world.config.context, seed=study.seed)
    return task.planning(study.world, held_out, study.planner, workers=study.workers, show_progress=study.show_progress)


def _speed(study: Study) -> dict:
    return speed(study.world, task=study.task, quick=study.quick, show_progress=study.show_progress)


# In the order in which they are measured: what is cheap and tells most comes first.
MEASURES: dict[str, Callable[[Study], dict]] = {
    "fidelity": _fidelity,
    "physics": _physics,
    "action_shuffle": _action_shuffle,
    "calibration": _calibration,
    "counterfactual": _counterfactual,
    "policy_ranking": _policy_ranking,
    "trust": _trust,
    "planning": _planning,
    "speed": _speed,
}
FROM_WINDOWS = ("fidelity", "physics", "action_shuffle", "calibration", "counterfactual")


def film_strips(study: Study, folder: Path) -> dict[str, Any]:
    """Draw the best, the median and the worst window, and some in which much happens, into a folder.

    Returns:
        {"by": what they are ranked by, "unit": its unit, "windows": {"best" | "median" | "worst": {"window", "error"}}}
    """
    if study.task is None:
        gap = study.imagined.frames.astype(np.float32) - study.windows.future
        errors = np.sqrt(np.square(gap).reshape(len(gap), -1).mean(axis=1))
        by, unit = "root mean squared error of pixels", "of 255"
    else:
        thing = study.task.things[study.task.main]
        errors = np.nanmean([of_step[study.task.main] for of_step in study.errors["world"].values()], axis=0)
        by, unit = f"error of the {thing.words}", thing.unit
    title = f"Held-out episodes, {study.horizon} steps open loop"
    film_strip(study.windows, study.imagined, title).save(folder / "film.png")
    (folder / FILMS).mkdir(exist_ok=True)
    chosen = best_median_worst(errors)
    for name, window in chosen.items():
        film_strip(study.windows, study.imagined, "", [window]).save(folder / FILMS / f"{name}.png")
    found = {name: {"window": k, "error": float(errors[k])} for name, k in chosen.items()}
    return {"by": by, "unit": unit, "windows": found}
