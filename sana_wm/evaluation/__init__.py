"""Measures a world: how far it can be trusted, each figure with a baseline and an interval."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_wm.data.splits import split_episodes
from sana_wm.evaluation.about import about
from sana_wm.evaluation.page import write_page
from sana_wm.evaluation.parts import FROM_WINDOWS, MEASURES, film_strips
from sana_wm.evaluation.study import Study, Unmeasured
from sana_wm.evaluation.tasks import task_of
from sana_wm.evaluation.windows import SIM_STATE

if TYPE_CHECKING:
    from sana_wm.data import LeRobotDataset
    from sana_wm.evaluation.planning import PlanningConfig
    from sana_wm.world import WorldModel

PARTS = tuple(MEASURES)


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
    policy_starts: int = 50,
    policy_horizon: int = 80,
    camera: str | None = None,
    action: str = "action",
    planning: "PlanningConfig | Mapping[str, Any] | None" = None,
    lanes: int = 64,
    workers: int = 0,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = False,
) -> dict:
    """Measure a world on held-out episodes of a dataset.

    Args:
        simulator: whether to measure against the simulator that the dataset recorded; by default whether it recorded a
            known one (`sana_wm.evaluation.tasks`). PushT's needs the `sim` extra.
        episodes: indices of held-out episodes; the test split of `split_episodes` by default.
        parts: what to measure, among `PARTS`.
        quick: a look rather than a claim: at most 24 windows, 12 starts of policies, no planning, short timings.
        windows: start moments for open-loop prediction over `horizon` steps.
        pairs: start-goal pairs for planning.
        policy_starts, policy_horizon: from how many states, and for how many steps policies act to be ranked.
        camera, action: columns of the dataset; by default its first camera, and "action".
        planning: planner, cost and budget of PushT, or settings as in configs/planner.
        lanes: windows imagined in one batch.
        workers: processes for planning on the true simulator.
        out: folder for `report.html`, `evaluation.json`, `film.png` and `films/`; written after every part, so that
            what is measured is kept whatever happens later.
        show_progress: progress bars on stderr.

    Returns:
        One JSON-able dict with an entry for every part that was measured (see the functions of this package for their
        content); "skipped", with the reason, for every part that could not be; "about" and "seconds".

    Raises:
        ValueError: for unknown parts, or a dataset that does not fit the world.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"unknown parts {unknown}; choose among {PARTS}")
    task = None if simulator is False else task_of(dataset)
    if simulator and task is None:
        raise ValueError(f"simulator=True, but the dataset has no {SIM_STATE!r} of a known simulator to compare with")
    if quick:
        windows, policy_starts, policy_horizon = min(windows, 24), min(policy_starts, 12), min(policy_horizon, 40)
    study = Study(
        world=world,
        dataset=dataset,
        task=task,
        episodes=split_episodes(dataset.num_episodes)["test"] if episodes is None else episodes,
        camera=camera or dataset.cameras[0],
        action=action,
        windows_wanted=windows,
        horizon=horizon,
        pairs=pairs,
        policy_starts=policy_starts,
        policy_horizon=policy_horizon,
        planner=planning,
        quick=quick,
        lanes=lanes,
        workers=workers,
        seed=seed,
        show_progress=show_progress,
    )
    result: dict[str, Any] = {"about": about(study), "windows": windows, "horizon": horizon, "quick": quick,
                              "skipped": {}, "seconds": {}}  # fmt: skip
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        if set(parts) & set(FROM_WINDOWS):
            began = time.perf_counter()
            result["films"] = film_strips(study, Path(out))
            result["seconds"]["imagining"] = round(time.perf_counter() - began, 1)
    for name, measure in MEASURES.items():
        if name not in parts:
            continue
        began = time.perf_counter()
        try:
            result[name] = finite(measure(study))
        except Unmeasured as reason:
            result["skipped"][name] = str(reason)
        result["seconds"][name] = round(time.perf_counter() - began, 1)
        if out is not None:
            write(result, Path(out))
    return result


def write(result: dict, folder: Path) -> None:
    """`evaluation.json` and `report.html` of what is measured so far, into an existing folder."""
    (folder / "evaluation.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    write_page(result, folder)


def finite(value: Any) -> Any:
    """The same with None in place of every number that is not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
