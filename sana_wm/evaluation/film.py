"""Film strips: what truly happened above what the world imagined from the same start and actions."""

import numpy as np

from sana_wm.evaluation.drawing import FAINT, Sheet
from sana_wm.evaluation.windows import Imagined, Windows

SIDE, GAP, MARGIN, LEFT, TOP = 112, 4, 18, 92, 74


def film_strip(windows: Windows, imagined: Imagined, title: str, *, episodes: int = 5, frames: int = 9) -> Sheet:
    """Draw the windows in which most happens, each as a real row above an imagined row.

    Args:
        title: what stands on top.
        episodes: how many windows at most.
        frames: columns, the first of which is the last frame the world has seen.
    """
    shown = most_eventful(windows, episodes)
    steps = np.unique(np.linspace(0, windows.horizon, frames).round().astype(int))
    block = 2 * SIDE + GAP + MARGIN
    sheet = Sheet(LEFT + len(steps) * (SIDE + GAP) - GAP + MARGIN, TOP + len(shown) * block)
    sheet.text(title, MARGIN, 25, size=19)
    for column, step in enumerate(steps):
        label = "start" if step == 0 else f"+{step}"
        sheet.text(label, LEFT + column * (SIDE + GAP) + SIDE / 2, TOP - 14, colour=FAINT, anchor="mm")
    for row, window in enumerate(shown):
        top = TOP + row * block
        sheet.text("real", LEFT - 12, top + SIDE / 2, anchor="rm")
        sheet.text("imagined", LEFT - 12, top + SIDE * 1.5 + GAP, anchor="rm")
        for column, step in enumerate(steps):
            x = LEFT + column * (SIDE + GAP)
            start = windows.last_seen[window]
            sheet.frame(windows.future[window, step - 1] if step else start, x, top, SIDE)
            sheet.frame(imagined.frames[window, step - 1] if step else start, x, top + SIDE + GAP, SIDE)
    return sheet


def most_eventful(windows: Windows, count: int) -> list[int]:
    """Spread the choice over the most eventful half of the windows, by how much their last frame differs."""
    change = np.abs(windows.future[:, -1].astype(np.int16) - windows.last_seen).mean(axis=(1, 2, 3))
    eventful = np.argsort(-change, kind="stable")[: max(count, len(windows) // 2)]
    return sorted(int(eventful[k]) for k in np.linspace(0, len(eventful) - 1, min(count, len(eventful))).astype(int))
