"""One progress bar for every loop of the evaluation."""

from collections.abc import Iterable

from rich.console import Console
from rich.progress import track as rich_track


def track(steps: Iterable, what: str, show: bool) -> Iterable:
    """Iterate with a progress bar on stderr when `show`, silently otherwise."""
    if not show:
        return steps
    return rich_track(steps, description=what.ljust(24), console=Console(stderr=True))
