"""What a run shows: a live line per stage in the terminal, scalars and videos in wandb."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sana_wm.data.video import VideoEncoding, VideoFileWriter


def format_seconds(seconds: float) -> str:
    """90 -> '1m30s'."""
    seconds = max(int(seconds), 0)
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds % 60:02d}s"


class RunLog:
    """Terminal, ``log.jsonl`` in the run folder, and wandb (``mode``: online, offline or disabled)."""

    def __init__(self, folder: Path, config: dict, mode: str = "disabled", project: str = "sana-wm"):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.console = folder, Console()
        self.file = (folder / "log.jsonl").open("a")
        self.wandb = wandb.init(project=project, dir=str(folder), config=config, mode=mode, resume="allow")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record numbers and print the ones that are worth a line (validation)."""
        values = {key: float(value) for key, value in values.items()}
        self.file.write(json.dumps({"time": round(time.time(), 1), "step": step} | values) + "\n")
        self.file.flush()
        self.wandb.log(values)
        if any("/val/" in key for key in values):
            shown: dict[str, str] = {}  # a quantity at several horizons, name_1 name_5 ..., takes one place
            for key, value in values.items():
                name = key.split("/val/")[-1].rstrip("0123456789").replace("_", " ").strip()
                shown[name] = f"{shown.get(name, name)} {value:.3g}"
            self.console.print(f"[dim]validation at step {step:,}:[/dim] {', '.join(shown.values())}", highlight=False)

    def video(self, name: str, frames: np.ndarray, fps: float) -> None:
        """Write frames, uint8 (T, H, W, 3), to ``videos/<name>.mp4`` of the run and show them in wandb."""
        import wandb

        path = self.folder / "videos" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        writer = VideoFileWriter(path, fps, *frames.shape[1:3], VideoEncoding())
        writer.write(frames)
        writer.close()
        self.wandb.log({name: wandb.Video(str(path), format="mp4")})

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """A progress line; the function it yields takes (step, seconds left or None, losses, share done or None).

        Without a share the bar shows step / total. The line shows the total loss; log.jsonl and wandb get every one.
        """
        columns = [
            SpinnerColumn(finished_text=" "), TextColumn("[bold]{task.description:<9}"), BarColumn(24),
            TextColumn("{task.percentage:>3.0f} %"), TextColumn("step {task.fields[step]:>6,}"), TimeElapsedColumn(),
            TextColumn("left {task.fields[left]:<6}"), TextColumn("{task.fields[loss]}"),
        ]  # fmt: skip
        smooth: dict[str, float] = {}
        with Progress(*columns, console=self.console, refresh_per_second=2) as progress:
            task = progress.add_task(name, total=1.0, step=0, left="?", loss="")
            began = time.monotonic()

            def show(step: int, left: float | None, losses: dict[str, float], share: float | None = None) -> None:
                if left is None:
                    left = (time.monotonic() - began) / step * (total - step)
                for key, value in losses.items():
                    smooth[key] = value if key not in smooth else 0.95 * smooth[key] + 0.05 * value
                loss = f"loss {smooth['loss']:.4g}" if "loss" in smooth else ""
                share = step / total if share is None else min(share, 1.0)
                progress.update(task, completed=share, step=step, left=format_seconds(left), loss=loss)
                if losses and step % 50 == 0:
                    self.scalars(step, {f"{name}/{key}": value for key, value in smooth.items()})

            try:
                yield show
            finally:
                progress.update(task, visible=progress.tasks[0].completed > 0)  # nothing to do, nothing to show

    def close(self) -> None:
        self.file.close()
        self.wandb.finish()
