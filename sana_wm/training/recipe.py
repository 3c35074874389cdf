"""The parts of the recipe: data -> tokenizer -> latents -> heads -> refiner -> dynamics -> decoder."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange

from sana_wm.data import LeRobotDataset
from sana_wm.data.arrays import EpisodeArrays, load_arrays
from sana_wm.data.latent_cache import load_latents
from sana_wm.data.splits import split_episodes
from sana_wm.evaluation.fidelity import psnr
from sana_wm.models.dc_ae import DCAEConfig
from sana_wm.models.heads import Heads
from sana_wm.models.refiner import Refiner
from sana_wm.nn.proprio import pack
from sana_wm.training.batches import noise_generator, window_starts
from sana_wm.training.decoder_stage import DecoderLoss, DecoderTraining
from sana_wm.training.dynamics_stage import DynamicsLoss, DynamicsTraining
from sana_wm.training.heads_stage import HeadsLoss, HeadsTraining
from sana_wm.training.logging import RunLog
from sana_wm.training.loop import LoopConfig, run_stage
from sana_wm.training.refiner_stage import RefinerLoss, RefinerTraining
from sana_wm.training.tokenizer_stage import (
    TokenizerLoss,
    TokenizerTraining,
    calibrate,
    median_background,
    reconstruction_psnr,
)
from sana_wm.world import ActionCodec, Starts, WorldModel
from sana_wm.world.tokenizer import FrameTokenizer

Settings = TypeVar("Settings")
VALIDATION_HORIZON = 16  # steps


def settings(cls: type[Settings], values: dict[str, Any]) -> Settings:
    """A settings dataclass from a configuration section.

    Raises:
        ValueError: a name the section does not know.
    """
    known = {field.name for field in fields(cls)}
    if unknown := set(values) - known:
        raise ValueError(f"{cls.__name__}: unknown settings {sorted(unknown)}; known: {sorted(known)}")
    return cls(**values)


@dataclass(frozen=True)
class Columns:
    """Which columns of the dataset mean what. A label that the dataset lacks is given as None."""

    camera: str
    action: str = "action"
    proprio: tuple[str, ...] = ()
    reward: str | None = None
    terminated: str | None = None
    success: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "proprio", tuple(self.proprio))

    @property
    def keys(self) -> list[str]:
        labels = [key for key in (self.reward, self.terminated, self.success) if key]
        return [self.action, *self.proprio, *labels]


@dataclass(frozen=True)
class Bounds:
    """Bounds of the action space in dataset units, a number or one per column; None takes what the data shows."""

    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None


def check_lengths(dataset: LeRobotDataset, context: int, window: int) -> None:
    """Whether the split has episodes long enough to train on (``window`` frames) and to validate with.

    Raises:
        ValueError: it has not.
    """
    split = split_episodes(dataset.num_episodes)
    for part, needed in (("train", window), ("validation", context + VALIDATION_HORIZON)):
        longest = int(dataset.episode_lengths[split[part].start : split[part].stop].max())
        if longest < needed:
            raise ValueError(
                f"the longest {part} episode has {longest} frames, {needed} are needed: record longer ones, or choose "
                "a shorter recipe.dynamics.loss.frames and data.context"
            )


def load_data(
    dataset: LeRobotDataset, columns: Columns, resolution: tuple[int, int], folder: Path, log: RunLog
) -> EpisodeArrays:
    """Validate and decode the dataset once, with a progress line."""
    with log.stage("decode", dataset.num_episodes) as show:
        return load_arrays(
            dataset, columns.camera, columns.keys, resolution, folder, lambda done, _: show(done, None, {})
        )


def proprio_of(arrays: EpisodeArrays, columns: Columns) -> np.ndarray:
    """(N, P) float32: the proprioceptive columns side by side."""
    rows = len(arrays.frames)
    parts = [arrays.columns[key].reshape(rows, -1) for key in columns.proprio] or [np.zeros((rows, 0))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def train_tokenizer(
    config: DCAEConfig,
    loss: TokenizerLoss,
    loop: LoopConfig,
    arrays: EpisodeArrays,
    columns: Columns,
    folder: Path,
    device: torch.device,
    log: RunLog,
) -> FrameTokenizer:
    """Fit the autoencoder on the training split and measure its latents."""
    split = split_episodes(arrays.num_episodes)
    train, held_out = arrays.rows(split["train"]), arrays.rows(split["validation"])[::97]
    torch.manual_seed(loop.seed)
    tokenizer = FrameTokenizer(config, arrays.frames.shape[1:3])
    tokenizer.background.copy_(median_background(arrays.frames, train))
    training = TokenizerTraining(tokenizer, arrays, proprio_of(arrays, columns), train, loss, loop.seed, loop.bf16)
    training = training.to(device).to(memory_format=torch.channels_last)

    def validate(model: TokenizerTraining) -> dict:
        calibrate(tokenizer, arrays.frames, train, count=256)
        return {"psnr": reconstruction_psnr(tokenizer, arrays.frames, held_out)}

    run_stage("tokenizer", training, training.losses, loop, folder, log, validate)
    calibrate(tokenizer, arrays.frames, train)
    return tokenizer


def fingerprint(tokenizer: FrameTokenizer) -> str:
    """Identifies a tokenizer's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def encode_dataset(tokenizer: FrameTokenizer, arrays: EpisodeArrays, folder: Path, log: RunLog) -> np.ndarray:
    """Every frame's latent, (N, C, h, w) float16 memory map."""
    device = tokenizer.background.device

    @torch.no_grad()
    def encode(frames: np.ndarray) -> np.ndarray:
        return tokenizer.encode(torch.from_numpy(np.array(frames)).to(device)).float().cpu().numpy()

    with log.stage("latents", len(arrays.frames)) as show:
        made_of = f"{arrays.fingerprint} {fingerprint(tokenizer)}"
        return load_latents(arrays.frames, encode, made_of, folder, lambda n, _: show(n, None, {}))


def action_codec(
    dataset: LeRobotDataset, arrays: EpisodeArrays, columns: Columns, bounds: Bounds, unit: str
) -> ActionCodec:
    """Names from the dataset, statistics from its training split, bounds as given or as seen in any split.

    Raises:
        ValueError: given bounds that the dataset's own actions break.
    """
    actions = arrays.columns[columns.action].reshape(len(arrays.frames), -1)
    names = dataset.features[columns.action].get("names")
    names = [str(name) for name in names] if isinstance(names, list) and len(names) == actions.shape[1] else None
    train = arrays.rows(split_episodes(arrays.num_episodes)["train"])
    low = actions.min(0) if bounds.low is None else bounds.low
    high = actions.max(0) if bounds.high is None else bounds.high
    codec = ActionCodec.fit(actions[train], names, low, high, unit)
    try:
        codec.check(actions)
    except ValueError as error:
        raise ValueError(f"data.bounds do not hold for column {columns.action!r} of the dataset: {error}") from error
    return codec


def column_names(dataset: LeRobotDataset, keys: tuple[str, ...]) -> tuple[str, ...]:
    """One name per value of the columns: the dataset's own, or key[i]."""
    names: list[str] = []
    for key in keys:
        width = int(np.prod(dataset.features[key]["shape"]))
        own = dataset.features[key].get("names")
        names += map(str, own) if isinstance(own, list) and len(own) == width else (f"{key}[{i}]" for i in range(width))
    return tuple(names)


def transition_labels(arrays: EpisodeArrays, columns: Columns) -> dict[str, np.ndarray]:
    """Labels of the frame that a transition led to: row t holds what the dataset wrote at row t - 1.

    The first row of an episode has no such transition; training never asks for it.
    """
    labels = {"proprio": proprio_of(arrays, columns)}
    for name in ("reward", "terminated", "success"):
        if key := getattr(columns, name):
            values = arrays.columns[key].reshape(len(arrays.frames)).astype(np.float32)
            labels[name] = np.concatenate([values[:1], values[:-1]])
    return labels


def with_proprio(latents: np.ndarray, heads: Heads, proprio: np.ndarray) -> np.ndarray:
    """Latents (N, C, h, w) with the recorded proprioception, standardised, as further channels; float16."""
    if not heads.config.proprio_dim:
        return latents
    packed = pack(torch.from_numpy(standardised(heads, proprio)), heads.config.grid).numpy().astype(np.float16)
    return np.concatenate([latents, packed], axis=1)


@torch.no_grad()
def read_proprio(latents: np.ndarray, heads: Heads, batch: int = 4096) -> np.ndarray | None:
    """What the heads read from latents (N, C, h, w), as channels (N, K, h, w) float16; None: nothing to read."""
    if not heads.config.proprio_dim:
        return None
    device = heads.proprio_mean.device
    parts = [latents[i : i + batch].astype(np.float32) for i in range(0, len(latents), batch)]
    read = [pack(heads(torch.from_numpy(part).to(device))["proprio"], heads.config.grid).cpu() for part in parts]
    return torch.cat(read).numpy().astype(np.float16)


def standardised(heads: Heads, proprio: np.ndarray) -> np.ndarray:
    """Proprioception (N, P) in dataset units -> zero mean and unit deviation over the training split."""
    return ((torch.from_numpy(proprio) - heads.proprio_mean.cpu()) / heads.proprio_std.cpu()).numpy()


def train_dynamics(
    world: WorldModel,
    loss: DynamicsLoss,
    loop: LoopConfig,
    latents: np.ndarray,
    arrays: EpisodeArrays,
    columns: Columns,
    folder: Path,
    device: torch.device,
    log: RunLog,
    validate: Callable[[], dict],
) -> None:
    """Fit the world's transformer on the training split, in place; its heads and its refiner are trained already."""
    heads, codec = world.heads, world.codec
    train = split_episodes(arrays.num_episodes)["train"]
    actions = arrays.columns[columns.action].reshape(len(arrays.frames), -1).astype(np.float32)
    normalised = codec.normalise(torch.from_numpy(actions)).numpy()
    starts = window_starts(arrays.starts, train, loss.frames)
    everything = with_proprio(latents, heads, proprio_of(arrays, columns))
    training = DynamicsTraining(
        world.transformer, world.config.flow, loss, everything, normalised, starts, latents.shape[1], loop.seed,
        loop.bf16, read_proprio(latents, heads), world.config.context, world.refiner, loop.compile,
    ).to(device)  # fmt: skip
    run_stage("dynamics", training, training.losses, loop, folder, log, lambda _: validate())


def measure_proprio(heads: Heads, proprio: np.ndarray) -> None:
    """Mean and standard deviation of training proprioception (N, P) into the heads."""
    if heads.config.proprio_dim:
        heads.proprio_mean.copy_(torch.from_numpy(proprio.mean(0)))
        heads.proprio_std.copy_(torch.from_numpy(proprio.std(0) + 1e-6))


def train_heads(
    heads: Heads, loss: HeadsLoss, loop: LoopConfig, latents: np.ndarray, arrays: EpisodeArrays, columns: Columns,
    folder: Path, device: torch.device, log: RunLog,
) -> None:  # fmt: skip
    """Fit the heads on the training split's latents, in place."""
    train, validation = (split_episodes(arrays.num_episodes)[part] for part in ("train", "validation"))
    labels = transition_labels(arrays, columns)
    measure_proprio(heads, labels["proprio"][arrays.rows(train)])
    rows = np.setdiff1d(arrays.rows(train), arrays.starts)  # the first frame of an episode was led to by nothing
    training = HeadsTraining(heads, loss, latents, labels, rows, loop.seed).to(device)
    held_out = np.setdiff1d(arrays.rows(validation), arrays.starts)[::7]
    true = {name: torch.from_numpy(values[held_out]).to(device) for name, values in labels.items()}

    @torch.no_grad()
    def validate(_: HeadsTraining) -> dict[str, float]:
        seen = torch.from_numpy(latents[held_out].astype(np.float32)).to(device)
        scores = {name: float(value) for name, value in heads.loss(seen, true).items()}
        if heads.config.proprio_dim:
            read = heads(seen)["proprio"] * heads.proprio_std + heads.proprio_mean
            scores["proprio_error"] = float((read - true["proprio"]).abs().mean())
        return scores

    run_stage("heads", training, training.losses, loop, folder, log, validate)


def train_refiner(
    refiner: Refiner, heads: Heads, loss: RefinerLoss, loop: LoopConfig, latents: np.ndarray, arrays: EpisodeArrays,
    columns: Columns, folder: Path, device: torch.device, log: RunLog,
) -> None:  # fmt: skip
    """Fit the refiner on the training split's latents, in place; ``heads`` know how proprioception is scaled."""
    train, validation = (arrays.rows(split_episodes(arrays.num_episodes)[part]) for part in ("train", "validation"))
    proprio = standardised(heads, proprio_of(arrays, columns))
    training = RefinerTraining(refiner, loss, latents, proprio, train, loop.seed).to(device)
    held_out = RefinerTraining(refiner, replace(loss, batch_size=1024), latents, proprio, validation, loop.seed)

    @torch.no_grad()
    def validate(_: RefinerTraining) -> dict[str, float]:
        return {"loss": float(held_out.losses(0, 1.0)["loss"])}

    run_stage("refiner", training, training.losses, loop, folder, log, validate)


def train_decoder(
    world: WorldModel, loss: DecoderLoss, first_stage: RefinerLoss, loop: LoopConfig, latents: np.ndarray,
    arrays: EpisodeArrays, columns: Columns, folder: Path, device: torch.device, log: RunLog,
) -> None:  # fmt: skip
    """Fit the decoder of the world's tokenizer to what its refiner draws, in place."""
    train, validation = (arrays.rows(split_episodes(arrays.num_episodes)[part]) for part in ("train", "validation"))
    proprio = standardised(world.heads, proprio_of(arrays, columns))
    training = DecoderTraining(
        world.tokenizer, world.refiner, loss, first_stage, arrays, latents, proprio, train, loop.seed, loop.bf16
    )
    training = training.to(device).to(memory_format=torch.channels_last)
    rows = validation[:: max(1, len(validation) // 256)][:256]

    @torch.no_grad()
    def validate(_: DecoderTraining) -> dict[str, float]:
        redrawn = torch.ones(len(rows), dtype=torch.bool, device=device)
        decoded = world.tokenizer.decode(training.shown(rows, redrawn, noise_generator(0, 0, device)))
        return {
            "psnr_redrawn": float(psnr(decoded, arrays.frames[rows]).mean()),
            "psnr": reconstruction_psnr(world.tokenizer, arrays.frames, rows),
        }

    run_stage("decoder", training, training.losses, loop, folder, log, validate)


def start_bank(arrays: EpisodeArrays, columns: Columns, context: int, count: int, seed: int) -> Starts:
    """Context frames and actions from held-out (validation) episodes, one or more per episode."""
    episodes = split_episodes(arrays.num_episodes)["validation"]
    rows = np.random.default_rng(seed).permutation(window_starts(arrays.starts, episodes, context))[:count]
    index = rows[:, None] + np.arange(context)
    actions = arrays.columns[columns.action].reshape(len(arrays.frames), -1)
    return Starts(arrays.frames[index], actions[index[:, :-1]].astype(np.float32))


def imagined_errors(
    world: WorldModel, arrays: EpisodeArrays, columns: Columns, windows: int = 96, horizon: int = VALIDATION_HORIZON
) -> dict:
    """Open-loop quality on validation episodes at steps 1, 5 and the last: latent error over that of copying the last
    frame, and the mean error of proprioception as the heads read it from imagined latents (dataset units).
    """
    context = world.config.context
    episodes = split_episodes(arrays.num_episodes)["validation"]
    starts = window_starts(arrays.starts, episodes, context + horizon)
    rows = starts[np.linspace(0, len(starts) - 1, windows).astype(np.int64)]
    index = rows[:, None] + np.arange(context + horizon)
    actions = arrays.columns[columns.action].reshape(len(arrays.frames), -1)[index].astype(np.float32)
    state = world.begin(arrays.frames[index[:, :context]], actions[:, : context - 1], seeds=np.arange(windows))
    imagined = world.rollout(state, actions[:, context - 1 : -1])
    true = world.encode(arrays.frames[index[:, context:]])
    proprio = torch.from_numpy(proprio_of(arrays, columns)[index[:, context:]]).to(world.device)
    scores = {}
    for step in sorted({1, 5, horizon}):
        error = (imagined.latents[:, step - 1] - true[:, step - 1]).pow(2).mean()
        copy = (state.latent - true[:, step - 1]).pow(2).mean()
        scores[f"latent_ratio_{step}"] = float(error / copy)
        if imagined.proprio is not None:
            scores[f"proprio_error_{step}"] = float((imagined.proprio[:, step - 1] - proprio[:, step - 1]).abs().mean())
    return scores


def sample_video(
    world: WorldModel, arrays: EpisodeArrays, columns: Columns, lanes: int = 6, horizon: int = 24
) -> np.ndarray:
    """Validation episodes side by side, real above imagined: uint8 (T, 2 H, lanes W, 3)."""
    context = world.config.context
    starts = window_starts(arrays.starts, split_episodes(arrays.num_episodes)["validation"], context + 1)
    rows = starts[np.linspace(0, len(starts) - 1, lanes).astype(np.int64)]
    ends = arrays.starts[np.searchsorted(arrays.starts, rows, side="right")]
    horizon = min(horizon, int((ends - rows).min()) - context)
    index = rows[:, None] + np.arange(context + horizon)
    actions = arrays.columns[columns.action].reshape(len(arrays.frames), -1)[index].astype(np.float32)
    state = world.begin(arrays.frames[index[:, :context]], actions[:, : context - 1], seeds=np.arange(lanes))
    imagined = world.decode(world.rollout(state, actions[:, context - 1 : -1]).latents)
    real = arrays.frames[index[:, context:]]
    both = np.concatenate([real, imagined], axis=2)  # lanes T 2H W 3
    return rearrange(both, "b t h w c -> t h (b w) c")
