"""The data that a shipped world was trained on, as a peer trains on it: same frames, labels and split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sana_wm.data import LeRobotDataset
from sana_wm.data.arrays import EpisodeArrays, load_arrays
from sana_wm.data.splits import split_episodes
from sana_wm.training.batches import batch_rng, take_frames, window_starts
from sana_wm.training.recipe import Columns, settings, transition_labels
from sana_wm.training.tokenizer_stage import median_background
from sana_wm.world import ActionCodec, WorldModel


@dataclass(frozen=True)
class PeerData:
    """Decoded episodes with their labels.

    Attributes:
        actions: (N, A) normalised; row t leads from frame t to frame t + 1.
        proprio: (N, P) dataset units. outcomes: (N, 3) reward, terminated, success of arriving at a frame.
        train, validation: rows of frames whose labels hold.
    """

    arrays: EpisodeArrays
    split: dict[str, range]
    codec: ActionCodec
    names: tuple[str, ...]
    actions: np.ndarray
    proprio: np.ndarray
    outcomes: np.ndarray

    @property
    def frames(self) -> np.ndarray:
        return self.arrays.frames

    def rows(self, part: str) -> np.ndarray:
        """Frames of a part of the split that a step led to: all but the first ones of episodes."""
        rows = self.arrays.rows(self.split[part])
        return rows[~np.isin(rows, self.arrays.starts)]

    def windows(self, part: str, length: int) -> np.ndarray:
        """Where windows of ``length`` frames may begin."""
        return window_starts(self.arrays.starts, self.split[part], length)

    def batch(self, rows: np.ndarray, seed: int, step: int, count: int) -> np.ndarray:
        """``count`` of these rows: a pure function of the seed and the step."""
        return batch_rng(seed, step).choice(rows, count)

    def take(self, rows: np.ndarray) -> Tensor:
        """uint8 frames (..., H, W, 3) at ``rows`` (...)."""
        return take_frames(self.frames, rows, torch.device("cpu"))


def load_data(world: WorldModel, dataset: str | Path, folder: Path) -> PeerData:
    """What ``world`` was trained on, decoded into ``folder``: columns, action statistics and split are the world's."""
    recorded = LeRobotDataset(dataset)
    columns = settings(Columns, world.config.extra["data"]["columns"])
    arrays = load_arrays(recorded, columns.camera, columns.keys, world.config.resolution, folder)
    labels = transition_labels(arrays, columns)
    actions = torch.from_numpy(arrays.columns[columns.action].reshape(len(arrays.frames), -1).astype(np.float32))
    return PeerData(
        arrays,
        split_episodes(arrays.num_episodes),
        world.codec,
        world.config.proprio_names,
        world.codec.normalise(actions).numpy(),
        labels["proprio"],
        np.stack([labels[name] for name in ("reward", "terminated", "success")], axis=1),
    )


class FrameScale(nn.Module):
    """uint8 frames <-> what networks see: less the median picture of the training data, scaled to a given deviation."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.register_buffer("background", torch.zeros(3, *size))  # in [-1, 1]
        self.register_buffer("gain", torch.ones(()))

    def fit(self, data: PeerData, deviation: float) -> None:
        rows = data.rows("train")
        self.background.copy_(median_background(data.frames, rows) / 127.5 - 1)
        self.gain.fill_(1.0)
        self.gain.fill_(deviation / float(self(data.take(rows[:: max(1, len(rows) // 512)])).std()))

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 (..., H, W, 3) -> float (..., 3, H, W)."""
        return (frames.movedim(-1, -3).float() / 127.5 - 1 - self.background) * self.gain

    def frames(self, x: Tensor) -> Tensor:
        """float (..., 3, H, W) -> uint8 (..., H, W, 3)."""
        pixels = (x / self.gain + self.background + 1) * 127.5
        return pixels.round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)
