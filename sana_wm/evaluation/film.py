"""Film strips: what truly happened above what the world imagined from the same start and actions."""

from collections.abc import Sequence

import numpy as np

from sana_wm.evaluation.drawing import FAINT, Sheet
from sana_wm.evaluation.windows import Imagined, Windows

SIDE, GAP, MARGIN, LEFT, TOP = 112, 4, 18, 92, 74


def film_strip(
    windows: Windows, imagined: Imagined, title: str, shown: Sequence[int] | None = None, *, frames: int = 9
) -> Sheet:
    """Draw windows, each as a real row above an imagined row.

    Args:
        title: what stands on top, if anything.
        shown: which windows; by default five in which much happens.
        frames: columns, the first of which is the last frame the world has seen.
    """
    shown = most_eventful(windows, 5) if shown is None else shown
    steps = np.unique(np.linspace(0, windows.horizon, frames).round().astype(int))
    block, above = 2 * SIDE + GAP + MARGIN, TOP if title else TOP - 40
    sheet = Sheet(LEFT + len(steps) * (SIDE + GAP) - GAP + MARGIN, above + len(shown) * block)
    sheet.text(title, MARGIN, 25, size=19)
    for column, step in enumerate(steps):
        label = "start" if step == 0 else f"+{step}"
        sheet.text(label, LEFT + column * (SIDE + GAP) + SIDE / 2, above - 14, colour=FAINT, anchor="mm")
    for row, window in enumerate(shown):
        top = above + row * block
        sheet.text("real", LEFT - 12, top + SIDE / 2, anchor="rm")
        sheet.text("imagined", LEFT - 12, top + SIDE * 1.5 + GAP, anchor="rm")
        for column, step in enumerate(steps):
            x = LEFT + column * (SIDE + GAP)
            start = windows.last_seen[window]
            sheet.frame(windows.future[window, step - 1] if step else start, x, top, SIDE)
            sheet.frame(imagined.frames[window, step - 1] if step else start, x, top + SIDE + GAP, SIDE)
    return sheet


def best_median_worst(errors: np.ndarray) -> dict[str, int]:
    """Which of N windows with errors (N,) has the smallest, the middle and the largest; NaN counts as none."""
    order = np.argsort(np.where(np.isnan(errors), np.inf, errors), kind="stable")
    order = order[: max(1, int((~np.isnan(errors)).sum()))]
    return {"best": int(order[0]), "median": int(order[(len(order) - 1) // 2]), "worst": int(order[-1])}


def most_eventful(windows: Windows, count: int) -> list[int]:
    """Spread the choice over the most eventful half of the windows, by how much their last frame differs."""
    change = np.abs(windows.future[:, -1].astype(np.int16) - windows.last_seen).mean(axis=(1, 2, 3))
    eventful = np.argsort(-change, kind="stable")[: max(count, len(windows) // 2)]
    return sorted(int(eventful[k]) for k in np.linspace(0, len(eventful) - 1, min(count, len(eventful))).astype(int))
