"""What a person sees while a video is made: one line per phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Phases:
    """Progress lines on stderr; a context manager. ``seconds`` of every phase are kept.

    Attributes:
        current: name of the phase that runs, or ran last.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False)
        self.seconds: dict[str, float] = {}
        self.current = "start"
        columns = [
            SpinnerColumn(finished_text=" "), TextColumn("{task.description:<22}"), BarColumn(24),
            TextColumn("{task.fields[count]:>9}"), TextColumn("{task.fields[rate]:>15}"), TimeElapsedColumn(),
        ]  # fmt: skip
        self._progress = Progress(*columns, console=self.console, refresh_per_second=4)

    def __enter__(self) -> Phases:
        self._progress.start()
        return self

    def __exit__(self, *problem) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        self.console.print(text, style="dim", markup=False)

    @contextmanager
    def phase(self, name: str, total: int | None = None, frames: int = 0) -> Iterator[Callable[..., None]]:
        """A line; the block tells the function it gets how much is done, of ``total`` or of a total of its own.

        Args:
            frames: raw frames of the video that ``total`` makes, for frames/s: those of a clip's denoising steps are
                done when the last step is, so that the number is the clip's frames over the phase's expected time.
        """
        task = self._progress.add_task(name, total=total, count="", rate="")
        self.current, began = name, time.monotonic()

        def tell(done: int, total: int = total) -> None:
            elapsed = max(time.monotonic() - began, 1e-9)
            rate = f"{frames * done / total / elapsed:.2f} frames/s" if frames else ""
            self._progress.update(task, completed=done, total=total, count=f"{done}/{total}", rate=rate)

        yield tell  # an error leaves the line as it stood
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
        if total is None:
            self._progress.update(task, total=1, completed=1)
