"""One evaluation run, from a bundle on disk to a printed report: what `evaluate` and the end of training share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sana_wm.data import LeRobotDataset
from sana_wm.data.splits import split_episodes
from sana_wm.evaluation import PARTS, evaluate
from sana_wm.evaluation.card import write_card
from sana_wm.evaluation.report import print_report
from sana_wm.world import WorldModel


def evaluate_bundle(
    bundle: str | Path,
    dataset: str | Path,
    out: str | Path,
    *,
    quick: bool = False,
    split: str = "test",
    parts: Sequence[str] = PARTS,
    device: str = "auto",
    camera: str | None = None,
    planner: dict[str, Any] | None = None,
    card: bool = False,
    show_progress: bool = True,
    console: Console | None = None,
    **options: Any,
) -> dict:
    """Evaluate a world on the held-out episodes of a dataset, print the report, write it and a film strip into `out`.

    Args:
        bundle: shipped world, folder or hub id. dataset: LeRobot dataset, folder or hub id.
        split: "test" or "validation".
        camera: the one named in the bundle's recipe by default, else the dataset's first.
        planner: settings as in configs/planner/cem.yaml.
        card: write the numbers into the bundle's card.md (a local bundle).
        options: further arguments of `sana_wm.evaluation.evaluate`.

    Returns:
        What `evaluate` returns.

    Raises:
        ValueError: a world or dataset that cannot be read or do not fit each other, or an unknown split.
    """
    if split not in ("validation", "test"):
        raise ValueError(f"split must be 'validation' or 'test', got {split!r}: training episodes prove nothing")
    world = WorldModel.from_pretrained(bundle, device=device)
    episodes = LeRobotDataset(dataset)
    columns = world.config.extra.get("data", {}).get("columns", {})
    if planner is not None:
        from sana_wm.evaluation.planning import planning_config  # needs the `sim` extra

        options["planning"] = planning_config(planner)
    result = evaluate(
        world,
        episodes,
        episodes=split_episodes(episodes.num_episodes)[split],
        parts=parts,
        quick=quick,
        camera=camera or columns.get("camera"),
        action=columns.get("action", "action"),
        out=out,
        show_progress=show_progress,
        **options,
    )
    console = console or Console()
    print_report(result, console)
    if card:
        (Path(bundle) / "card.md").write_text(write_card(world.config, result))
    console.print(f"{Path(out) / 'evaluation.json'}  {Path(out) / 'film.png'}", highlight=False)
    return result
