"""Training of the peers: the house's schedule, optimizer and moving average, timed by the processor's clock.

A budget is minutes of processor time of one thread, so that other work on the machine takes nothing from a peer.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.peers.data import PeerData
from benchmarks.peers.jepa import JEPA
from benchmarks.peers.readout import FrameReadout, Readout
from benchmarks.peers.unet import Denoiser
from sana_wm.training.batches import noise_generator
from sana_wm.training.checkpoint import load_checkpoint, prefixed, save_checkpoint, under
from sana_wm.training.loop import Ema, Interrupted, LoopConfig, lr_factor
from sana_wm.training.optimizer import Optimizer, OptimizerConfig


@dataclass(frozen=True)
class Budget:
    """Minutes of processor time of one stage, and how it is optimised."""

    minutes: float
    lr: float
    batch: int  # frames, or windows
    ema: float = 0.999
    warmup: int = 100
    seed: int = 0
    checkpoint_every: float = 30.0  # seconds of processor time


def fit(
    name: str, model: nn.Module, loss_fn: Callable[[int, float], dict[str, Tensor]], budget: Budget, folder: Path,
    validate: Callable[[], dict[str, float]] | None = None, console: Console | None = None,
) -> dict:  # fmt: skip
    """Train in place, leave the averaged weights, say what it cost; goes on where ``<name>.safetensors`` stopped.

    Args:
        loss_fn: (step, progress 0..1) -> scalars, ``"loss"`` among them; batches are pure functions of the step.
        validate: scores of the averaged weights, at every fifth of the budget; its time does not count.
    Returns:
        {"updates", "cpu_seconds", "wall_seconds", "curve": [{"progress", "loss", validation scores}]}
    Raises:
        Interrupted: after Ctrl-C or SIGTERM, once the checkpoint is written.
    """
    console, path = console or Console(), folder / f"{name}.safetensors"
    loop = LoopConfig(warmup=budget.warmup, min_lr=0.02)
    optimizer = Optimizer(model, OptimizerConfig(lr=budget.lr))
    ema, done = Ema(model, budget.ema), False
    cost = {"updates": 0, "cpu_seconds": 0.0, "wall_seconds": 0.0, "curve": []}
    if path.exists():
        tensors, meta = load_checkpoint(path)
        model.load_state_dict(under("model", tensors))
        ema.shadow, ema.updates = under("ema", tensors), meta["averaged"]
        cost, done = meta["cost"], meta["done"]
        if not done:
            optimizer.load(under("optimizer", tensors))

    def save() -> None:
        tensors = prefixed("model", model.state_dict()) | prefixed("ema", ema.shadow)
        tensors |= {} if done else prefixed("optimizer", optimizer.tensors())
        save_checkpoint(path, tensors, {"cost": cost, "averaged": ema.updates, "done": done})

    def check(loss: float, progress: float) -> None:
        live = {key: p.detach().clone() for key, p in model.named_parameters()}
        ema.copy_to(model)
        model.eval()
        scores = validate() if validate else {}
        model.train()
        with torch.no_grad():
            for key, p in model.named_parameters():
                p.copy_(live[key])
        cost["curve"].append({"progress": round(progress, 3), "updates": cost["updates"], "loss": loss} | scores)
        shown = "  ".join(f"{key} {value:.4g}" for key, value in cost["curve"][-1].items())
        console.print(f"{name}  {shown}  cpu/wall {cost['cpu_seconds'] / cost['wall_seconds']:.2f}", highlight=False)

    model.train()
    saved, looked, recent, stop = cost["cpu_seconds"], len(cost["curve"]), [], []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.append(True)) for number in signals}
    while not done:
        if stop:
            save()
            raise Interrupted(f"{name} stopped at update {cost['updates']}; run the same command to resume")
        began, wall = time.process_time(), time.monotonic()
        progress = min(cost["cpu_seconds"] / (60 * budget.minutes), 1.0)
        optimizer.scale_lr(lr_factor(loop, cost["updates"], progress))
        losses = loss_fn(cost["updates"], progress)
        optimizer.zero_grad()
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"{name}: gradient is {norm} at update {cost['updates']}; lower lr {budget.lr}")
        optimizer.step()
        ema.update(model)
        cost["updates"] += 1
        cost["cpu_seconds"] += time.process_time() - began
        cost["wall_seconds"] += time.monotonic() - wall
        done = cost["cpu_seconds"] >= 60 * budget.minutes
        recent = [*recent[-99:], float(losses["loss"].detach())]
        if done or progress * 5 >= looked + 1:
            looked += 1
            check(float(np.mean(recent)), progress)
        if done or cost["cpu_seconds"] - saved > budget.checkpoint_every:
            saved = cost["cpu_seconds"]
            save()
    for number, handler in before.items():
        signal.signal(number, handler)
    ema.copy_to(model)
    model.eval().requires_grad_(False)
    return cost


def batch(data: PeerData, rows: np.ndarray, length: int = 1) -> tuple[Tensor, Tensor]:
    """Frames (B, T, H, W, 3) and the actions (B, T - 1, A) between them, of windows that begin at ``rows``."""
    at = rows[:, None] + np.arange(length)
    return data.take(at), torch.from_numpy(data.actions[at[:, :-1]])


def train_frame_readout(
    readout: FrameReadout, scale: nn.Module, data: PeerData, budget: Budget, folder: Path, console: Console,
    noise: float = 0.1,
) -> dict:  # fmt: skip
    """Fit the readout on true frames with a little noise, so that it forgives imagined ones."""
    train, held_out = data.rows("train"), data.rows("validation")[::7]
    readout.fit(torch.from_numpy(data.proprio[train]))

    def labels(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(data.proprio[rows]), torch.from_numpy(data.outcomes[rows])

    def losses(step: int, progress: float) -> dict[str, Tensor]:
        rows = data.batch(train, budget.seed, step, budget.batch)
        x = scale(data.take(rows))
        strength = noise * torch.rand(len(x), 1, 1, 1, generator=noise_generator(budget.seed, step, x.device))
        x = x + strength * torch.randn(x.shape, generator=noise_generator(budget.seed + 1, step, x.device))
        return readout.loss(x, *labels(rows))

    @torch.no_grad()
    def validate() -> dict[str, float]:
        read = readout(scale(data.take(held_out)))
        return readout_scores(read, data, held_out)

    return fit("unet-readout", readout, losses, budget, folder, validate, console)


def readout_scores(read: dict[str, Tensor], data: PeerData, rows: np.ndarray) -> dict[str, float]:
    """Distance of the agent in dataset units, absolute error of reward."""
    proprio, outcomes = torch.from_numpy(data.proprio[rows]), torch.from_numpy(data.outcomes[rows])
    return {
        "agent": float((read["proprio"] - proprio)[:, :2].norm(dim=-1).mean()),
        "reward": float((read["reward"] - outcomes[:, 0]).abs().mean()),
    }


def train_denoiser(
    denoiser: Denoiser, readout: FrameReadout, scale: nn.Module, data: PeerData, budget: Budget, folder: Path,
    console: Console, unroll: int = 4, horizon: int = 10, past_noise: float = 0.1,
) -> dict:  # fmt: skip
    """Fit the denoiser on ``unroll`` frames in a row, each after its own denoised ones: DIAMOND's way against drift."""
    context = denoiser.config.context
    starts, held_out = data.windows("train", context + unroll), data.windows("validation", context + horizon)[::40]

    def losses(step: int, progress: float) -> dict[str, Tensor]:
        frames, actions = batch(data, data.batch(starts, budget.seed, step, budget.batch), context + unroll)
        x, rng = scale(frames), noise_generator(budget.seed, step, frames.device)
        past, errors = x[:, :context], []
        for k in range(unroll):
            strength = past_noise * torch.rand(len(x), 1, 1, 1, 1, generator=rng)
            shown = past + strength * torch.randn(past.shape, generator=rng)
            error, guess = denoiser.loss(x[:, context + k], shown, actions[:, k : k + context], rng)
            errors.append(error)
            # 8 bits, as what it is given later; see DIAMOND's denoiser
            past = torch.cat([past[:, 1:], scale(scale.frames(guess))[:, None]], dim=1)
        return {"loss": torch.stack(errors).mean()}

    @torch.no_grad()
    def validate() -> dict[str, float]:
        frames, actions = batch(data, held_out, context + horizon)
        x, scores = scale(frames), {}
        past, rng = x[:, :context], torch.Generator().manual_seed(0)
        for k in range(horizon):
            noise = torch.randn(x[:, 0].shape, generator=rng)
            new = scale(scale.frames(denoiser.sample(past, actions[:, k : k + context], noise)))
            past = torch.cat([past[:, 1:], new[:, None]], dim=1)
            if k + 1 in (1, horizon):
                rows = held_out + context + k
                error = scale.frames(new).float() - frames[:, context + k].float()
                scores[f"psnr{k + 1}"] = float((10 * torch.log10(255**2 / error.pow(2).mean((1, 2, 3)))).mean())
                scores[f"agent{k + 1}"] = readout_scores(readout(new), data, rows)["agent"]
        return scores

    return fit("unet", denoiser, losses, budget, folder, validate, console)


def train_jepa(
    jepa: JEPA, scale: nn.Module, data: PeerData, budget: Budget, folder: Path, console: Console, unroll: int = 2,
    horizon: int = 10,
) -> dict:  # fmt: skip
    """Fit encoder and predictor on windows of the context and ``unroll`` frames more."""
    context = jepa.config.context
    starts, held_out = data.windows("train", context + unroll), data.windows("validation", context + horizon)[::20]

    def losses(step: int, progress: float) -> dict[str, Tensor]:
        frames, actions = batch(data, data.batch(starts, budget.seed, step, budget.batch), context + unroll)
        return jepa.loss(scale(frames), actions, noise_generator(budget.seed, step, frames.device))

    @torch.no_grad()
    def validate() -> dict[str, float]:
        frames, actions = batch(data, held_out, context + horizon)
        z = jepa.encode(scale(frames))
        past, scores = z[:, :context], {}
        for k in range(horizon):
            new = jepa.predictor(past, actions[:, k : k + context])[:, -1:]
            past = torch.cat([past[:, 1:], new], dim=1)
            if k + 1 in (1, horizon):
                truth = z[:, context + k]
                scores[f"error{k + 1}"] = float((new[:, 0] - truth).square().mean() / truth.var(0).mean())
        scores["probe"] = linear_error(z.flatten(0, 1), held_out[:, None] + np.arange(context + horizon), data)
        return scores | {"spread": float(z.flatten(0, 1).std(0).mean())}

    return fit("jepa", jepa, losses, budget, folder, validate, console)


def linear_error(z: Tensor, rows: np.ndarray, data: PeerData) -> float:
    """Distance (dataset units) at which a ridge regression on latents (N, D), fitted on one half, places the agent."""
    places = torch.from_numpy(data.proprio[rows.reshape(-1), :2])
    given = torch.cat([z, torch.ones(len(z), 1)], dim=1)
    half = len(z) // 2
    a, b = given[:half], places[:half]
    fitted = torch.linalg.solve(a.T @ a + 1e-2 * half * torch.eye(a.shape[1]), a.T @ b)
    return float((given[half:] @ fitted - places[half:]).norm(dim=-1).mean())


def train_probe(
    probe: Readout, jepa: JEPA, scale: nn.Module, data: PeerData, budget: Budget, folder: Path, console: Console,
    noise: float = 0.1,
) -> dict:  # fmt: skip
    """Fit the probe on latents of true frames with a little noise; the encoder stays as it is, its pass is counted."""
    train, held_out = data.rows("train"), data.rows("validation")[::7]
    probe.fit(torch.from_numpy(data.proprio[train]))

    @torch.no_grad()
    def latents(rows: np.ndarray) -> Tensor:
        return jepa.encode(scale(data.take(rows)))

    def losses(step: int, progress: float) -> dict[str, Tensor]:
        rows = data.batch(train, budget.seed, step, budget.batch)
        z = latents(rows)
        z = z + noise * torch.randn(z.shape, generator=noise_generator(budget.seed, step, z.device))
        return probe.loss(z, torch.from_numpy(data.proprio[rows]), torch.from_numpy(data.outcomes[rows]))

    @torch.no_grad()
    def validate() -> dict[str, float]:
        return readout_scores(probe(latents(held_out)), data, held_out)

    return fit("jepa-probe", probe, losses, budget, folder, validate, console)
