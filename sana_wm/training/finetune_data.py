"""Clips of robot episodes for SANA-WM: their latents, encoded once, and the actions that lead to each."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sana_wm.data import LeRobotDataset
from sana_wm.data.splits import split_episodes
from sana_wm.models.video_vae import VideoVAE
from sana_wm.training.recipe import Bounds
from sana_wm.world import ActionCodec
from sana_wm.world.camera_image import CoverCrop

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class RobotData:
    """Which dataset, and how it is read; see ``configs/data/robot.yaml``."""

    name: str
    root: str
    episodes: int | None = None
    resolution: tuple[int, int] | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    bounds: Bounds = Bounds()
    unit: str = ""
    layout: str | None = None
    mapping: dict[str, str | int] = field(default_factory=dict)
    profile: str | None = None
    task: str = ""
    starts: int = 16
    max_episode_steps: int | None = None


@dataclass(frozen=True)
class ClipSettings:
    """frames: raw frames of a clip, stride k + 1. every: raw frames between starts. cache_gb: bound of the latents."""

    frames: int = 33
    every: int | None = None
    cache_gb: float = 50.0

    def check(self, stride: int) -> None:
        """Raises:
        ValueError: a clip that is no whole number of latent frames, or none after the first.
        """
        if self.frames <= stride or (self.frames - 1) % stride:
            raise ValueError(
                f"finetune.clips.frames={self.frames}: expected {stride} k + 1, such as {4 * stride + 1}: the first "
                f"latent frame holds one raw frame, every other one {stride}"
            )
        if self.every is not None and self.every < 1:
            raise ValueError(f"finetune.clips.every={self.every}: expected at least 1 raw frame between clips")


class RobotEpisodes:
    """The episodes of a dataset as SANA-WM sees them.

    Attributes:
        dataset: the LeRobot dataset. lengths: raw frames of the episodes that are used.
        camera, action: columns. resolution: (H, W) of the frames after cutting.
        actions, tasks: per episode (length, A) float32, and the text of every frame.

    Raises:
        ValueError: no camera, no actions, too few episodes.
    """

    def __init__(self, data: RobotData):
        self.dataset = LeRobotDataset(data.root)
        if not self.dataset.cameras:
            raise ValueError(f"{data.root}: the dataset has no camera; it has {sorted(self.dataset.features)}")
        columns = {"camera": None, "action": "action"} | data.columns
        self.camera, self.action = columns["camera"] or self.dataset.cameras[0], columns["action"]
        if self.camera not in self.dataset.cameras:
            raise ValueError(f"data.columns.camera={self.camera!r}: {data.root} has the cameras {self.dataset.cameras}")
        if self.action not in self.dataset.features:
            raise ValueError(
                f"{data.root} has no column {self.action!r} of actions; it has {sorted(self.dataset.features)}: name "
                "one with data.columns.action=..."
            )
        total = self.dataset.num_episodes
        if data.episodes is not None and not 3 <= data.episodes <= total:
            raise ValueError(f"data.episodes={data.episodes}: expected 3 to {total}, which {data.root} has")
        self.lengths = self.dataset.episode_lengths[: data.episodes]
        self.split = split_episodes(len(self.lengths))
        self.size = tuple(self.dataset.features[self.camera]["shape"][:2])
        self.resolution = self.size if data.resolution is None else tuple(data.resolution)
        if data.resolution is None:
            self.resolution = tuple(32 * max(1, round(side / 32)) for side in self.size)
        read = [self.dataset.episode(e, [self.action, "task"]) for e in range(len(self.lengths))]
        self.actions = [np.asarray(e[self.action]).reshape(len(e["task"]), -1).astype(np.float32) for e in read]
        self.tasks: list[list[str]] = [e["task"] for e in read]
        for number, actions in enumerate(self.actions):
            if not np.isfinite(actions).all():
                raise ValueError(f"{data.root}, episode {number}: column {self.action!r} has NaN or infinity")

    def frames(self, episode: int) -> np.ndarray:
        """Raw frames uint8 (length, *resolution, 3), scaled to cover the resolution and cut at the middle."""
        frames = self.dataset.episode(episode, [self.camera])[self.camera]
        if frames.shape[1:3] == self.resolution:
            return frames
        crop = CoverCrop.of(frames.shape[1:3], self.resolution)
        return np.stack([np.asarray(crop.apply(Image.fromarray(frame))) for frame in frames])

    @property
    def task(self) -> str:
        """The text that most frames have."""
        return Counter(text for tasks in self.tasks for text in tasks).most_common(1)[0][0]

    def codec(self, data: RobotData, per_latent: int) -> ActionCodec:
        """Names from the dataset, statistics from its training split, bounds as given or as seen in any episode.

        Raises:
            ValueError: bounds that the dataset's own actions break, or a layout that has no place for its columns.
        """
        everything = np.concatenate(self.actions)
        train = np.concatenate([self.actions[e] for e in self.split["train"]])
        low = everything.min(0) if data.bounds.low is None else data.bounds.low
        high = everything.max(0) if data.bounds.high is None else data.bounds.high
        settings = {"low": low, "high": high, "unit": data.unit, "per_latent": per_latent}
        names = self.column_names()
        if data.layout:
            if data.layout != "unified_robot80":
                raise ValueError(f"data.layout={data.layout!r}: expected null or unified_robot80")
            codec = ActionCodec.unified_robot80(train, names, data.mapping, data.profile, **settings)
        elif data.mapping or data.profile:
            raise ValueError("data.mapping and data.profile belong to data.layout=unified_robot80: set it, or neither")
        else:
            codec = ActionCodec.fit(train, names, **settings)
        outside = (everything < codec.low) | (everything > codec.high)
        if outside.any():
            row, column = np.argwhere(outside)[0]
            raise ValueError(
                f"data.bounds: {names[column]} is {everything[row, column]:g} in the dataset, outside "
                f"{codec.low[column]:g} to {codec.high[column]:g}"
            )
        return codec

    def column_names(self) -> list[str]:
        """One name per action column: the dataset's own, or action_0, action_1, ..."""
        width, names = self.actions[0].shape[1], self.dataset.features[self.action].get("names")
        if isinstance(names, dict) and len(names) == 1:  # v2.1: {"motors": [...]}
            (names,) = names.values()
        if isinstance(names, list) and len(names) == width:
            return [str(name) for name in names]
        return [f"action_{i}" for i in range(width)]


@dataclass(frozen=True)
class Clips:
    """Clips of the episodes, in the episodes' order; none reaches from one into the next.

    Attributes:
        episode, start: (N,) int64, row of the first raw frame within its episode.
        frames: raw frames of each.
    """

    episode: np.ndarray
    start: np.ndarray
    frames: int

    @classmethod
    def cut(cls, lengths: np.ndarray, settings: ClipSettings) -> Clips:
        """Every ``settings.every`` frames one, and one more that ends with the episode where frames are left over."""
        episodes, starts = [], []
        for episode, length in enumerate(lengths):
            last = int(length) - settings.frames
            if last < 0:
                continue
            here = list(range(0, last + 1, settings.every or settings.frames - 1))
            here += [last] if here[-1] != last else []
            starts += here
            episodes += [episode] * len(here)
        return cls(np.array(episodes, np.int64), np.array(starts, np.int64), settings.frames)

    def __len__(self) -> int:
        return len(self.episode)

    def of(self, episodes: range) -> np.ndarray:
        """Numbers of the clips of a range of episodes."""
        return np.flatnonzero((self.episode >= episodes.start) & (self.episode < episodes.stop))

    def check(self, split: dict[str, range], lengths: np.ndarray) -> None:
        """Raises:
        ValueError: a part of the split has no episode that is long enough.
        """
        for part in PARTS:
            if not len(self.of(split[part])):
                longest = int(lengths[split[part].start : split[part].stop].max())
                raise ValueError(
                    f"the longest of {len(split[part])} {part} episodes has {longest} frames, a clip "
                    f"{self.frames}: choose a smaller finetune.clips.frames, or record longer episodes"
                )

    def actions(self, episodes: RobotEpisodes, codec: ActionCodec) -> np.ndarray:
        """In dataset units, (N, k, *codec.shape): row i - 1 holds the actions that lead to latent frame i.

        Those are of the rows before raw frames 8 i - 7 ... 8 i: action t leads from frame t to t + 1.
        """
        rows = zip(self.episode, self.start, strict=True)
        flat = [episodes.actions[e][s : s + self.frames - 1] for e, s in rows]
        return np.stack(flat).reshape(len(self), -1, *codec.shape)

    def tasks(self, episodes: RobotEpisodes) -> list[str]:
        """The text at every clip's start."""
        return [episodes.tasks[e][s] for e, s in zip(self.episode, self.start, strict=True)]


def encode_clips(
    episodes: RobotEpisodes,
    clips: Clips,
    vae: VideoVAE,
    vae_fingerprint: str,
    folder: Path,
    limit_gb: float,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    """Latents of every clip, encoded as a clip of its own; or what is in ``folder`` for the same data and autoencoder.

    After every episode what is done is on disk: the same call goes on from there. The size of the file is known, and
    held against its bound and the room on the disk, before anything is encoded.

    Args:
        progress: called with (clips done, clips in all).
    Returns:
        (N, C, T, h, w) float16, a read-only memory map.

    Raises:
        ValueError: more than ``limit_gb``, or than there is room for.
    """
    frames = 1 + (clips.frames - 1) // vae.stride
    shape = (len(clips), vae.channels, frames, *vae.grid(episodes.resolution))
    recipe = {
        "dataset": episodes.dataset.fingerprint, "camera": episodes.camera, "vae": vae_fingerprint,
        "resolution": list(episodes.resolution), "shape": list(shape),
        "clips": np.stack([clips.episode, clips.start]).tolist(),
    }  # fmt: skip
    if _recipe(folder) == recipe:
        return np.load(folder / "latents.npy", mmap_mode="r")
    partial = folder.with_name(folder.name + ".partial")
    done = 0
    if _recipe(partial) == recipe and (partial / "done").is_file():
        done = int((partial / "done").read_text())
        latents = np.load(partial / "latents.npy", mmap_mode="r+")
    else:
        shutil.rmtree(partial, ignore_errors=True)
        _check_room(shape, limit_gb, folder.parent)
        partial.mkdir(parents=True)
        latents = np.lib.format.open_memmap(partial / "latents.npy", mode="w+", dtype=np.float16, shape=shape)
        (partial / "recipe.json").write_text(json.dumps(recipe))
    while done < len(clips):
        episode = int(clips.episode[done])
        pictures = episodes.frames(episode)
        while done < len(clips) and clips.episode[done] == episode:
            start = int(clips.start[done])
            latents[done] = vae.encode(pictures[None, start : start + clips.frames])[0].cpu().numpy()
            done += 1
            progress(done, len(clips))
        latents.flush()
        (partial / "done.partial").write_text(str(done))
        os.replace(partial / "done.partial", partial / "done")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return np.load(folder / "latents.npy", mmap_mode="r")


def _recipe(folder: Path) -> dict | None:
    try:
        return json.loads((folder / "recipe.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None


def _check_room(shape: tuple[int, ...], limit_gb: float, folder: Path) -> None:
    needed = 2 * int(np.prod(shape, dtype=np.int64)) / 1e9
    if needed > limit_gb:
        raise ValueError(
            f"the latents of {shape[0]:,} clips take {needed:.1f} GB, finetune.clips.cache_gb={limit_gb:g} allows "
            "less: raise it, or take fewer episodes (data.episodes) or clips (finetune.clips.every)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    if needed > free:
        raise ValueError(
            f"the latents of {shape[0]:,} clips take {needed:.1f} GB, {folder} has room for {free:.1f}: choose another "
            "folder (out=...), or take fewer episodes (data.episodes)"
        )
