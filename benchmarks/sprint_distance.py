"""A one-step student beside its teacher, by the distance of what they make to held-out frames: docs/sprint.md.

OMP_NUM_THREADS=1 python -m benchmarks.sprint_distance runs/sprint

The run is one of ``python -m sana_wm.train stage=sprint data=pusht-states``. Pictures are made for the states of every
other held-out frame, and compared with the very frames (in the tokenizer's latents). The frames between, real ones of
the same scenes at other times, say how near two sets of real frames are. What is made is kept in the
run, so that a command that was stopped goes on, and the numbers are its distance.json.
"""

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from rich.console import Console

from sana_wm.data import LeRobotDataset
from sana_wm.envs.pusht_pose import PushTPoseDecoder
from sana_wm.evaluation.drawing import Sheet
from sana_wm.evaluation.feature_distance import distance_intervals, feature_distance
from sana_wm.evaluation.intervals import mean_interval
from sana_wm.generation.image_sampling import Prompt, Sampling, image_latents, sprint_latents
from sana_wm.models.transformer import SanaTransformer
from sana_wm.training.claim import weights_fingerprint
from sana_wm.training.logging import RunLog
from sana_wm.training.sprint import states_of
from sana_wm.training.state_images import told_values
from sana_wm.world import WorldModel

TEACHER = "teacher, 20 steps"
STEPS = (1, 2, 4)
BATCH = 250
SIDE, GAP, LEFT, TOP = 96, 4, 150, 16


class Scene:
    """What a run was told and what it left."""

    def __init__(self, run: Path, seed: int, guidance: tuple[float, ...]):
        release = run / "release"
        self.values = json.loads((release / "sprint.json").read_text()) | {"out": str(run)}
        self.run, self.seed, self.guidance = run, seed, guidance
        self.student = SanaTransformer.from_pretrained(release / "transformer")
        self.teacher = SanaTransformer.from_pretrained(run / "teacher" / "transformer")
        self.world = WorldModel.from_pretrained(self.values["states"]["world"], trust=False)
        log = SimpleNamespace(stage=RunLog.stage, console=Console())
        log.stage = lambda name, total: RunLog.stage(log, name, total)
        pictures, held_out = states_of(self.values, torch.device("cpu"), log)
        self.null = Prompt(torch.from_numpy(pictures.null_text)[None], torch.from_numpy(pictures.null_mask)[None])
        told, between = slice(0, None, 2), slice(1, None, 2)
        count = len(held_out.latents) // 2 * 2
        self.real = held_out.latents[:count][told].astype(np.float32)
        self.other = held_out.latents[:count][between].astype(np.float32)
        self.text, self.rows = held_out.text[:count][told], held_out.rows[:count][told]

    def made(self, network: str, steps: int, guidance: float) -> np.ndarray:
        """Latents (N, C, h, w) for the told states; kept in the run, by the weights that made them."""
        weights = self.run / ("teacher" if network == "teacher" else "release") / "transformer"
        name = f"{network}-{steps}-{guidance:g}-{self.seed}-{weights_fingerprint(weights)}.npy"
        path = self.run / "distance" / name
        if not path.exists():
            latents = np.concatenate([self._make(network, steps, guidance, i) for i in range(0, len(self.text), BATCH)])
            path.parent.mkdir(exist_ok=True)
            np.save(path, latents)
        return np.load(path)

    def _make(self, network: str, steps: int, guidance: float, start: int) -> np.ndarray:
        text = torch.from_numpy(self.text[start : start + BATCH])
        prompt = Prompt(text, torch.ones(text.shape[:2], dtype=torch.bool))
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + start)
        noise = torch.randn(len(text), *self.real.shape[1:], generator=random)
        if network == "teacher":
            shift = self.values["teach"]["loss"]["shift"]
            sampling = Sampling(steps=steps, shift=shift, guidance=guidance)
            return image_latents(self.teacher, noise, prompt, self.null, sampling).numpy()
        fresh = lambda _: torch.randn(noise.shape, generator=random)  # noqa: E731
        return sprint_latents(
            self.student, noise, prompt, Sampling("scm", steps=steps, guidance=guidance), fresh
        ).numpy()

    def milliseconds(self, network: str, steps: int) -> float:
        """Of the processor, a picture in a batch: the fastest of three batches."""
        times = []
        for _ in range(3):
            began = time.process_time()
            self._make(network, steps, 1.0, 0)
            times.append(time.process_time() - began)
        return 1000 * min(times) / BATCH

    def sets(self) -> dict[str, tuple[str, int, float]]:
        """What is compared: name -> network, steps, scale of guidance."""
        sets = {TEACHER: ("teacher", 20, 1.0), "teacher, 1 step": ("teacher", 1, 1.0)}
        sets |= {_named("student", steps): ("student", steps, 1.0) for steps in STEPS}
        for scale in self.guidance:
            sets[f"{TEACHER}, guidance {scale:g}"] = "teacher", 20, scale
            sets[f"student, 1 step, guidance {scale:g}"] = "student", 1, scale
        return sets

    @torch.no_grad()
    def block_errors(self, latents: np.ndarray) -> np.ndarray:
        """(N,) px: mean distance of the block's corners, as the world's heads read them, to where they were told."""
        heads = self.world.heads
        read = heads(torch.from_numpy(latents))["proprio"] * heads.proprio_std + heads.proprio_mean
        difference = read[:, 2:].numpy() - self.corners()
        return np.linalg.norm(difference.reshape(len(latents), 8, 2), axis=2).mean(1)

    def corners(self) -> np.ndarray:
        """(N, 16) of the told frames."""
        if not hasattr(self, "_corners"):
            dataset = LeRobotDataset(self.values["states"]["root"])
            column = "observation.environment_state"
            names = tuple(f"{column}/{name}" for name in dataset.features[column]["names"])
            every = self.values["states"]["every"]
            values = told_values(dataset, names, every)
            self._corners = values[-len(self.real) * 2 :][::2]
        return self._corners

    @torch.no_grad()
    def whole(self, latents: np.ndarray, count: int = 500) -> dict[str, float]:
        """Share of pictures with the whole of the agent's disc, and of the block, in them."""
        frames = self.world.tokenizer.decode(torch.from_numpy(latents[:: max(1, len(latents) // count)][:count]))
        pose = PushTPoseDecoder(frames.shape[1])(frames)
        return {"agent": float((pose.agent_match > 0.8).mean()), "block": float((pose.block_match > 0.8).mean())}


def measure(scene: Scene, draws: int, console: Console) -> tuple[dict, dict[str, np.ndarray]]:
    """Numbers by row, and the latents that they are of."""
    latents = {}
    for name, how in scene.sets().items():
        latents[name] = scene.made(*how)
        console.print(f"made: {name}", highlight=False)
    latents["real frames between"], latents["real frames themselves"] = scene.other, scene.real
    groups = scene.rows[:, 0]
    compared = {name: rows for name, rows in latents.items() if name != "real frames themselves"}
    distances = distance_intervals(compared, scene.real, groups, over=TEACHER, draws=draws)
    episodes = np.unique(groups)
    half = np.isin(groups, episodes[::2])
    rows = {}
    for name, made in latents.items():
        rows[name] = {"distance": distances.get(name), "whole": scene.whole(made)}
        if name != "real frames between":
            rows[name]["block_error"] = mean_interval(scene.block_errors(made))
        if name in (TEACHER, "student, 1 step"):
            rows[name]["ms"] = scene.milliseconds(*scene.sets()[name][:2])
    about = {
        "pictures": len(scene.real),
        "episodes": len(episodes),
        "real, half of the episodes to the other half": feature_distance(scene.real[half], scene.real[~half]),
        "variance of real latents": float(scene.real.reshape(len(scene.real), -1).var(0).sum()),
    }
    for scale in scene.guidance:
        mine, theirs = (distances[f"{n}, guidance {scale:g}"]["distance"] for n in ("student, 1 step", TEACHER))
        about[f"student over teacher, guidance {scale:g}"] = mine / theirs
    return {"about": about, "rows": rows}, latents


def table(result: dict) -> str:
    """Markdown."""
    lines = ["| | distance | over the teacher's | block, px (median) | agent / block whole | ms |", "|---" * 6 + "|"]
    for name, row in result["rows"].items():
        d, block, ms = row["distance"], row.get("block_error"), row.get("ms")
        cells = [
            f"{d['distance']:.2f} ({d['low']:.2f} to {d['high']:.2f})" if d else "0",
            f"{d['ratio']:.2f} ({d['ratio_low']:.2f} to {d['ratio_high']:.2f})" if d else "",
            f"{block['mean']:.1f} ({block['median']:.1f})" if block else "",
            f"{100 * row['whole']['agent']:.0f} / {100 * row['whole']['block']:.0f} %",
            f"{ms:.2f}" if ms is not None else "",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{name}: {value:.6g}" for name, value in result["about"].items())])


def film(scene: Scene, latents: dict[str, np.ndarray], path: Path, columns: int = 9) -> None:
    """Real frames, and what was made for the same states."""
    shown = ["real frames themselves", TEACHER, "student, 1 step", "student, 2 steps", "teacher, 1 step"]
    rows = np.linspace(0, len(scene.real) - 1, columns + 2).astype(int)[1:-1]
    sheet = Sheet(LEFT + columns * (SIDE + GAP) + TOP, 2 * TOP + len(shown) * (SIDE + GAP))
    for line, name in enumerate(shown):
        top = TOP + line * (SIDE + GAP)
        sheet.text(name.removesuffix(" frames themselves"), LEFT - 12, top + SIDE / 2, anchor="rm")
        for column, frame in enumerate(scene.world.tokenizer.decode(torch.from_numpy(latents[name][rows]))):
            sheet.frame(frame, LEFT + column * (SIDE + GAP), top, SIDE)
    sheet.save(path)


def _named(network: str, steps: int) -> str:
    return f"{network}, {steps} step{'s' * (steps > 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of the run, with release/ and teacher/ in it")
    parser.add_argument("--seed", type=int, default=1, help="of the noise")
    parser.add_argument("--guidance", type=float, nargs="*", default=[], help="scales to compare at besides none")
    parser.add_argument("--draws", type=int, default=100, help="halves of the episodes, for the intervals")
    args = parser.parse_args()
    console = Console()
    scene = Scene(args.run, args.seed, tuple(args.guidance))
    result, latents = measure(scene, args.draws, console)
    (args.run / "distance.json").write_text(json.dumps(result, indent=1) + "\n")
    with torch.no_grad():
        film(scene, latents, args.run / "distance.png")
    console.print(table(result), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
