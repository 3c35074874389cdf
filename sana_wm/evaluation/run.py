"""One evaluation run, from a bundle on disk to a printed report: what `evaluate` and the end of training share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sana_wm.evaluation import PARTS, evaluate
from sana_wm.evaluation.card import write_card
from sana_wm.evaluation.held_out import FRESH_EPISODES, held_out
from sana_wm.evaluation.page import PAGE
from sana_wm.evaluation.report import print_report
from sana_wm.world import WorldModel


def evaluate_bundle(
    bundle: str | Path,
    dataset: str | Path | None,
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
    """Evaluate a world on held-out episodes, print the report, write it as a page and as JSON into `out`.

    Args:
        bundle: shipped world, folder or hub id.
        dataset: LeRobot dataset, folder or hub id; None: see `sana_wm.evaluation.held_out`.
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
    if card and not Path(bundle).is_dir():
        raise ValueError(f"card=true writes into a bundle folder, and {str(bundle)!r} is none")
    console = console or Console()
    world = WorldModel.from_pretrained(bundle, device=device)
    data = world.config.extra.get("data", {})
    columns = data.get("columns", {})
    episodes, chosen, words = held_out(
        data, dataset, split, out, episodes=12 if quick else FRESH_EPISODES, seed=options.get("seed", 0),
        workers=options.get("workers", 0),
    )  # fmt: skip
    console.print(f"held out: {words}", highlight=False)
    result = evaluate(
        world,
        episodes,
        episodes=chosen,
        parts=parts,
        quick=quick,
        camera=camera or columns.get("camera"),
        action=columns.get("action", "action"),
        planning=planner,
        out=out,
        show_progress=show_progress,
        **options,
    )
    print_report(result, console)
    if card:
        (Path(bundle) / "card.md").write_text(write_card(world.config, result))
    console.print(f"\n{Path(out) / PAGE}  {Path(out) / 'evaluation.json'}", highlight=False)
    return result
