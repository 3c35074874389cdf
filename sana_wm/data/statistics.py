"""Feature statistics in the form LeRobot stores them: per episode, and pooled over a dataset.

A statistics entry is a dict of numpy arrays ``min, max, mean, std, count, q01, q10, q50, q90, q99``. Arrays have the
feature's shape; images have (C, 1, 1) in [0, 1] whatever their size. ``count`` is (1,) and counts frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Stats = dict[str, np.ndarray]


def column_stats(values: np.ndarray) -> Stats:
    """Statistics of a numeric column ``values`` (T, ...) over its frames; std is the population's."""
    values_f64 = values.astype(np.float64)
    quantiles = np.quantile(values_f64, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values_f64.mean(axis=0),
        "std": values_f64.std(axis=0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def image_stats(frames: np.ndarray, max_frames: int = 100, max_side: int = 160) -> Stats:
    """Statistics per colour channel of ``frames`` (T, H, W, C) uint8, as (C, 1, 1) in [0, 1].

    Long or large videos are thinned by whole steps to at most ``max_frames`` frames and ``max_side`` pixels a side;
    ``count`` is the number of frames looked at. Exact on what is left, by a histogram over the 256 levels.
    """
    step_t = -(-len(frames) // max_frames)
    step_y, step_x = (-(-side // max_side) for side in frames.shape[1:3])
    thinned = frames[::step_t, ::step_y, ::step_x]
    levels = np.arange(256) / 255.0
    per_channel = []
    for channel in range(frames.shape[-1]):
        histogram = np.bincount(thinned[..., channel].ravel(), minlength=256)
        present = np.flatnonzero(histogram)
        total = histogram.sum()
        mean = (histogram @ levels) / total
        cumulative = np.cumsum(histogram)
        per_channel.append(
            {
                "min": levels[present[0]],
                "max": levels[present[-1]],
                "mean": mean,
                "std": np.sqrt((histogram @ (levels - mean) ** 2) / total),
                **{name: levels[np.searchsorted(cumulative, q * total)] for name, q in QUANTILES.items()},
            }
        )
    stats = {name: np.array([entry[name] for entry in per_channel]).reshape(-1, 1, 1) for name in per_channel[0]}
    return stats | {"count": np.array([len(thinned)])}


def pool_stats(entries: Sequence[Stats]) -> Stats:
    """Statistics of a dataset from those of its episodes, weighted by their counts.

    min, max, mean and std are exact. The quantiles are the weighted mean of the episodes' quantiles, as the format's
    own writer stores them: an approximation, poor where episodes differ (see `RowSample`). Quantiles that any entry
    lacks are left out.
    """
    counts = np.array([entry["count"][0] for entry in entries], dtype=np.float64)
    weights = (counts / counts.sum()).reshape(-1, *[1] * np.ndim(entries[0]["mean"]))
    means = np.stack([entry["mean"] for entry in entries]).astype(np.float64)
    stds = np.stack([entry["std"] for entry in entries]).astype(np.float64)
    mean = (weights * means).sum(axis=0)
    pooled = {
        "min": np.stack([entry["min"] for entry in entries]).min(axis=0),
        "max": np.stack([entry["max"] for entry in entries]).max(axis=0),
        "mean": mean,
        "std": np.sqrt((weights * (stds**2 + (means - mean) ** 2)).sum(axis=0)),
        "count": np.array([int(counts.sum())]),
    }
    for name in QUANTILES:
        if all(name in entry for entry in entries):
            pooled[name] = (weights * np.stack([entry[name] for entry in entries])).sum(axis=0)
    return pooled


@dataclass(frozen=True)
class RowSample:
    """Every ``stride``-th row of a dataset, so that its quantiles can be told without keeping all of it.

    The stride doubles whenever the sample has outgrown its bounds; up to there the quantiles are exact.
    """

    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    stride: int = 1
    max_rows: int = 2**15
    max_bytes: int = 2**26

    def extended(self, columns: Mapping[str, np.ndarray]) -> RowSample:
        """With further rows; ``columns`` (T, ...) has ``index``, the row numbers within the dataset, among them."""
        stride = self.stride
        rows = {key: np.concatenate([self.rows[key], new]) if self.rows else new for key, new in columns.items()}
        while True:
            kept = rows["index"].ravel() % stride == 0
            num_bytes = sum(column[kept].nbytes for column in rows.values())
            if kept.sum() <= max(1, self.max_rows) and num_bytes <= self.max_bytes or kept.sum() <= 1:
                return RowSample({key: c[kept] for key, c in rows.items()}, stride, self.max_rows, self.max_bytes)
            stride *= 2

    def quantiles(self) -> dict[str, Stats]:
        """The quantiles of every column of the sample."""
        return {
            key: dict(
                zip(QUANTILES, np.quantile(column.astype(np.float64), list(QUANTILES.values()), axis=0), strict=True)
            )
            for key, column in self.rows.items()
        }
