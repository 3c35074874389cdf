"""A dataset as flat arrays: every frame decoded once into a memory map, every column beside it."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from sana_wm.data.lerobot_dataset import LeRobotDataset


@dataclass(frozen=True)
class EpisodeArrays:
    """Episodes end to end.

    Attributes:
        frames: (N, H, W, 3) uint8, a read-only memory map.
        columns: key -> (N, ...) arrays.
        starts: (E + 1,) int64; episode e is rows ``starts[e]:starts[e + 1]``.
        fingerprint: of the dataset and of how it was decoded.
    """

    frames: np.ndarray
    columns: dict[str, np.ndarray]
    starts: np.ndarray
    fingerprint: str = ""

    @property
    def num_episodes(self) -> int:
        return len(self.starts) - 1

    def rows(self, episodes: range) -> np.ndarray:
        """Row numbers of a contiguous range of episodes."""
        return np.arange(self.starts[episodes.start], self.starts[episodes.stop])


def load_arrays(
    dataset: LeRobotDataset,
    camera: str,
    keys: list[str],
    resolution: tuple[int, int],
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> EpisodeArrays:
    """Decode ``camera`` and ``keys`` of the whole dataset into ``folder``, or open what is there.

    The folder is written under a temporary name and renamed when complete, and carries what it was made from.

    Args:
        resolution: (H, W) that frames are resized to, by area.
        progress: called with (episodes done, episodes in all).
    Raises:
        ValueError: a key or camera the dataset does not have.
        DatasetError: damaged files; all of them are named.
    """
    missing = [key for key in [camera, *keys] if key not in dataset.features]
    if missing:
        raise ValueError(f"the dataset has no {missing}; it has {sorted(dataset.features)}")
    lengths = [int(n) for n in dataset.episode_lengths]
    recipe = {"dataset": dataset.fingerprint, "camera": camera, "keys": keys, "resolution": list(resolution),
              "lengths": lengths}  # fmt: skip
    if not (folder.is_dir() and json.loads((folder / "recipe.json").read_text()) == recipe):
        dataset.validate()
        shutil.rmtree(folder, ignore_errors=True)
        _decode(dataset, recipe, folder, progress)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns = {key: np.load(folder / f"{i}.npy") for i, key in enumerate(keys)}
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    return EpisodeArrays(frames, columns, starts, f"{dataset.fingerprint}-{camera}-{resolution[0]}x{resolution[1]}")


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, height, width, 3), averaging over the area that a new pixel covers."""
    if frames.shape[1:3] == (height, width):
        return frames
    reformatter = VideoReformatter()
    pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames)
    return np.stack(
        [
            reformatter.reformat(picture, width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
            for picture in pictures
        ]
    )


def _decode(dataset: LeRobotDataset, recipe: dict, folder: Path, progress) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    camera, keys, lengths = recipe["camera"], recipe["keys"], recipe["lengths"]
    height, width = recipe["resolution"]
    shape = (sum(lengths), height, width, 3)
    frames = np.lib.format.open_memmap(partial / "frames.npy", mode="w+", dtype=np.uint8, shape=shape)
    columns = {key: [] for key in keys}
    row = 0
    for index, length in enumerate(lengths):
        episode = dataset.episode(index, keys=[camera, *keys])
        frames[row : row + length] = resize_frames(episode[camera], height, width)
        for key in keys:
            columns[key].append(episode[key])
        row += length
        if progress:
            progress(index + 1, len(lengths))
    frames.flush()
    for i, key in enumerate(keys):
        np.save(partial / f"{i}.npy", np.concatenate(columns[key]))
    (partial / "recipe.json").write_text(json.dumps(recipe))
    os.replace(partial, folder)
