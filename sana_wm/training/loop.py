"""The training loop that every stage runs in: schedule, clipping, EMA, checkpoints, logging, resuming."""

import importlib.util
import logging
import math
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sana_wm.nn.widened import multiplies_bfloat16
from sana_wm.training.checkpoint import load_checkpoint, prefixed, save_checkpoint, under
from sana_wm.training.logging import RunLog
from sana_wm.training.optimizer import Optimizer, OptimizerConfig


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast. A stage ends at ``steps`` or after ``minutes`` of training, whichever comes first."""

    steps: int = 1000
    minutes: float | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    min_lr: float = 0.02  # of the peak, at the end of the cosine
    warmup: int = 100
    clip: float = 1.0
    ema: float = 0.999
    bf16: str = "auto"  # of tokenizer, dynamics and decoder. auto: where the hardware multiplies bf16 natively
    compile: str = "off"  # auto: torch.compile where it can be had (dynamics only; takes a minute at the start)
    checkpoint_every: float = 60.0  # seconds
    validate_every: float = 300.0  # seconds
    seed: int = 0

    def __post_init__(self):
        for name in ("bf16", "compile"):
            if getattr(self, name) not in ("auto", "on", "off"):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected 'auto', 'on' or 'off'")


def autocast(device: torch.device, bf16: str = "auto") -> torch.autocast:
    """bf16 autocast where it is faster: on CUDA, and on CPUs that multiply bf16 natively (emulation is far slower)."""
    native = device.type == "cuda" or multiplies_bfloat16()
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16 == "on" or (bf16 == "auto" and native))


def compiled(function: Callable, mode: str, device: torch.device) -> Callable:
    """``function`` through torch.compile; "auto": if what that needs is there, a C++ compiler and on CUDA Triton."""
    has_compiler = any(map(shutil.which, ("c++", "g++", "clang++")))
    possible = has_compiler and (device.type != "cuda" or importlib.util.find_spec("triton") is not None)
    if mode == "off" or (mode == "auto" and not possible):
        return function
    # frame layouts are built outside the compiled graph, from a cache: both are meant, and said on every start
    torch._logging.set_logs(dynamo=logging.ERROR)
    warnings.filterwarnings("ignore", message=".*lru_cache", category=UserWarning)
    return torch.compile(function)


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop; everything needed to resume is on disk."""


class Ema:
    """Exponential moving average of parameters, with the usual early warm-up (1 + n) / (10 + n)."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        names, params = zip(*model.named_parameters(), strict=True)
        torch._foreach_lerp_([self.shadow[n] for n in names], [p.detach() for p in params], 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(self.shadow[name])


def lr_factor(config: LoopConfig, step: int, progress: float) -> float:
    """Share of the peak rate: linear warm-up over ``warmup`` steps, times a cosine over the budget spent."""
    cosine = config.min_lr + (1 - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / max(config.warmup, 1)) * cosine


def _place(turn: int) -> str:
    """Where a checkpoint holds the optimizer of a player."""
    return f"optimizer{turn or ''}"


def run_stage(
    name: str,
    model: nn.Module,
    loss_fn: Callable[[int, float], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    log: RunLog,
    validate: Callable[[nn.Module], dict] | None = None,
    players: Sequence[nn.Module] | None = None,
) -> nn.Module:
    """Train ``model`` in place and return it with its EMA weights, frozen.

    Args:
        loss_fn: (step, progress 0..1) -> scalars, ``"loss"`` among them. Batches are pure functions of the step, so a
            resumed run sees the batches it would have seen.
        folder: holds ``<name>.safetensors``; a finished stage is only loaded.
        validate: called with the EMA weights in place -> scalars to log.
        players: parts of ``model`` that are trained in turns, step by step, each with an optimizer of its own; the
            loss of a step is that of the part whose turn it is, ``step % len(players)``. None: all of it at every step.
    Raises:
        Interrupted: after Ctrl-C or SIGTERM, once the checkpoint is written.
    """
    path = folder / f"{name}.safetensors"
    players = [model] if players is None else players
    optimizers = [Optimizer(player, config.optimizer) for player in players]
    ema, step, spent, done = Ema(model, config.ema), 0, 0.0, False
    if path.exists():
        tensors, meta = load_checkpoint(path)
        model.load_state_dict(under("model", tensors))
        ema.shadow = {k: v.to(next(model.parameters()).device) for k, v in under("ema", tensors).items()}
        ema.updates, step, spent, done = meta["updates"], meta["step"], meta["seconds"], meta["done"]
        if done:
            ema.copy_to(model)
            log.console.print(f"{name} was trained before ({step:,} steps): taken from {path}", highlight=False)
            return model.eval().requires_grad_(False)
        for turn, optimizer in enumerate(optimizers):
            optimizer.load(under(_place(turn), tensors))

    def save() -> None:
        tensors = prefixed("model", model.state_dict()) | prefixed("ema", ema.shadow)
        for turn, optimizer in enumerate([] if done else optimizers):
            tensors |= prefixed(_place(turn), optimizer.tensors())
        save_checkpoint(path, tensors, {"step": step, "updates": ema.updates, "seconds": spent, "done": done})

    def share_done() -> float:
        return max(step / config.steps, spent / 60 / config.minutes if config.minutes else 0.0)

    def check() -> dict:
        live = {k: p.detach().clone() for k, p in model.named_parameters()}
        ema.copy_to(model)
        model.eval()
        scores = validate(model) if validate else {}
        model.train()
        with torch.no_grad():
            for k, p in model.named_parameters():
                p.copy_(live[k])
        return scores

    stop: list[int] = []
    previous = {
        sig: signal.signal(sig, lambda number, _: stop.append(number)) for sig in (signal.SIGINT, signal.SIGTERM)
    }
    saved = validated = spent
    model.train()
    try:
        with log.stage(name, config.steps) as show:
            while not done:
                begin = time.monotonic()
                progress = share_done()
                turn = step % len(players)
                optimizer = optimizers[turn]
                optimizer.scale_lr(lr_factor(config, step, progress))
                losses = loss_fn(step, progress)
                optimizer.zero_grad()
                losses["loss"].backward()
                norm = nn.utils.clip_grad_norm_(players[turn].parameters(), config.clip)
                if not torch.isfinite(norm):
                    save()
                    raise FloatingPointError(
                        f"stage {name}: gradient is {norm} at step {step}; lower lr (now {config.optimizer.lr})"
                    )
                optimizer.step()
                ema.update(model)
                step += 1
                spent += time.monotonic() - begin
                done = step >= config.steps or (config.minutes is not None and spent >= 60 * config.minutes)
                left = spent / step * (config.steps - step)
                left = min(left, 60 * config.minutes - spent) if config.minutes else left
                shown = {k: float(v.detach()) for k, v in losses.items()} | {"grad_norm": float(norm)}
                if turn:  # the line shows the loss of the first
                    shown = {k: v for k, v in shown.items() if k not in ("loss", "grad_norm")}
                show(step, left, shown, share_done())
                if spent - validated > config.validate_every or done:
                    validated = spent
                    log.scalars(step, {f"{name}/val/{k}": v for k, v in check().items()})
                if spent - saved > config.checkpoint_every or done or stop:
                    saved = spent
                    save()
                if stop and not done:
                    raise Interrupted(f"stage {name} stopped at step {step}; run the same command to resume")
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)
    ema.copy_to(model)
    return model.eval().requires_grad_(False)
