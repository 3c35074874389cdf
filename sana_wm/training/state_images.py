"""Frames of a robot's dataset as pictures, each told by a part of its state: text-to-image in small, without text.

A value of the state is a token of fixed Fourier features. What is not told the picture is free to choose, so that
sampling is a matter of distributions: told where the block lies, a model has to invent where the agent is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from sana_wm.data.latent_cache import load_latents
from sana_wm.data.lerobot_dataset import LeRobotDataset
from sana_wm.data.splits import split_episodes
from sana_wm.training.image_set import Bucket, ImageSet
from sana_wm.training.recipe import fingerprint
from sana_wm.world.tokenizer import FrameTokenizer

WAVES = 8  # of a value: lengths of twice its range, halved seven times; of an angle: one to eight turns


@dataclass(frozen=True)
class StateImages:
    """Attributes:
    root: a LeRobot dataset. camera: the key of its frames.
    told, angles: values of the state that are told, as ``<column>/<name>`` of the dataset; those in radians apart.
    every: one frame in so many of an episode is a picture; its neighbours show nearly the same.
    """

    root: str
    camera: str = "observation.image"
    told: tuple[str, ...] = ("observation.sim_state/block_x", "observation.sim_state/block_y")
    angles: tuple[str, ...] = ("observation.sim_state/block_angle",)
    every: int = 2

    def __post_init__(self):
        object.__setattr__(self, "told", tuple(self.told))
        object.__setattr__(self, "angles", tuple(self.angles))
        if self.every < 1 or not self.told + self.angles:
            raise ValueError(f"{self}: expected every from 1 on, and a value at least in told or angles")


@dataclass(frozen=True)
class HeldOut:
    """Pictures of episodes that nothing was trained on, in their order.

    Attributes:
        latents: (N, C, h, w) float16. text: (N, L, E) float32, what is told of each. rows: (N, 2) episode and frame.
    """

    latents: np.ndarray
    text: np.ndarray
    rows: np.ndarray


class PickedFrames:
    """Frames (N, H, W, 3) uint8 of a dataset as an array that is decoded where it is sliced, in order."""

    def __init__(self, dataset: LeRobotDataset, camera: str, every: int):
        self.dataset, self.camera, self.every = dataset, camera, every
        counts = -(-dataset.episode_lengths // every)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self._episode = lru_cache(maxsize=1)(self._decode)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _decode(self, episode: int) -> np.ndarray:
        return self.dataset.episode(episode, keys=[self.camera])[self.camera][:: self.every]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        parts = []
        for episode in range(first, last + 1):
            offset = self.starts[episode]
            parts.append(self._episode(episode)[max(start - offset, 0) : stop - offset])
        return np.concatenate(parts)

    def rows(self) -> np.ndarray:
        """(N, 2): episode and frame of each."""
        counts = np.diff(self.starts)
        episodes = np.repeat(np.arange(len(counts)), counts)
        return np.stack([episodes, (np.arange(len(self)) - self.starts[episodes]) * self.every], axis=1)


def state_images(
    settings: StateImages,
    tokenizer: FrameTokenizer,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageSet, HeldOut]:
    """Encode the pictures once (into ``folder``) -> those of the training episodes, and the others.

    Raises:
        ValueError: a column, name or camera that the dataset lacks; frames of another size than the tokenizer's.
    """
    dataset = LeRobotDataset(settings.root)
    if settings.camera not in dataset.cameras:
        raise ValueError(f"{settings.root}: no camera {settings.camera!r}; it has {dataset.cameras}")
    picked = PickedFrames(dataset, settings.camera, settings.every)
    values, angles = (told_values(dataset, names, settings.every) for names in (settings.told, settings.angles))
    device = tokenizer.background.device

    @torch.no_grad()
    def encode(frames: np.ndarray) -> np.ndarray:
        return tokenizer.encode(torch.from_numpy(frames).to(device)).float().cpu().numpy()

    made_of = f"{dataset.fingerprint} {settings.camera} every {settings.every} {fingerprint(tokenizer)}"
    latents = load_latents(picked, encode, made_of, folder, progress)
    train = int(picked.starts[split_episodes(dataset.num_episodes)["train"].stop])
    text = state_tokens(values, values[:train].min(0), values[:train].max(0), angles)
    mask = np.ones((train, text.shape[1]), bool)
    null = np.zeros(text.shape[1:], np.float32)  # unlike any state, whose waves have length 1
    bucket = Bucket(latents[:train], np.arange(train)[:, None])
    return (
        ImageSet((bucket,), text[:train], mask, null, mask[0]),
        HeldOut(latents[train:], text[train:], picked.rows()[train:]),
    )


def state_tokens(values: np.ndarray, low: np.ndarray, high: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Values (N, P) that run from low to high (P,), and angles (N, Q) in radians -> tokens (N, P + Q, E) float32.

    Sines and cosines, and which of the values it is.
    """
    share = (values - low) / np.maximum(high - low, 1e-9)
    place = share[..., None] * np.pi * 2.0 ** np.arange(WAVES)
    turn = angles[..., None] * (1 + np.arange(WAVES))
    phase = np.concatenate([place, turn], axis=1)
    which = np.broadcast_to(np.eye(phase.shape[1]), (*phase.shape[:2], phase.shape[1]))
    return np.concatenate([np.sin(phase), np.cos(phase), which], axis=-1).astype(np.float32)


def told_values(dataset: LeRobotDataset, names: tuple[str, ...], every: int) -> np.ndarray:
    """(N, P) float64: columns of the dataset by ``<column>/<name>``, of the picked frames.

    Raises:
        ValueError: there is no such value.
    """
    places = [_place(dataset, name) for name in names]
    columns = sorted({column for column, _ in places})
    parts = []
    for episode in range(dataset.num_episodes):
        read = dataset.episode(episode, keys=columns)
        length = int(dataset.episode_lengths[episode])
        parts.append(
            np.stack([read[c].reshape(length, -1)[::every, i] for c, i in places], axis=1)
            if places
            else np.zeros((len(range(0, length, every)), 0))
        )
    return np.concatenate(parts).astype(np.float64)


def _place(dataset: LeRobotDataset, name: str) -> tuple[str, int]:
    column, _, value = name.partition("/")
    known = dataset.features.get(column, {}).get("names")
    if not isinstance(known, list) or value not in known:
        listed = [f"{key}/{n}" for key, f in dataset.features.items() if isinstance(f.get("names"), list)
                  for n in f["names"] if f["dtype"].startswith("float")]  # fmt: skip
        raise ValueError(f"told {name!r}: the dataset has no such value; it has {listed}")
    return column, known.index(value)
