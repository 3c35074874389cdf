"""How far a dataset on disk has come: what a writer has to know to go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sana_wm.data.columns import from_arrow
from sana_wm.data.episode_table import load_episodes
from sana_wm.data.errors import DatasetError
from sana_wm.data.info import load_info
from sana_wm.data.layout import CHUNKS_SIZE, INFO_PATH, PARTIAL_SUFFIX, next_file
from sana_wm.data.metadata_files import read_parquet
from sana_wm.data.statistics import RowSample, Stats, pool_stats
from sana_wm.data.tasks_and_stats import load_tasks

EPISODE_COLUMNS = (
    "episode_index",
    "tasks",
    "length",
    "dataset_from_index",
    "dataset_to_index",
)  # beside those with "/"
FileIndex = tuple[int, int]  # (chunk, file)


@dataclass(frozen=True)
class Progress:
    """The committed part of a dataset."""

    num_episodes: int = 0
    num_frames: int = 0
    tasks: Mapping[str, int] = field(default_factory=dict)
    stats: Mapping[str, Stats] = field(default_factory=dict)
    sample: RowSample = RowSample()
    extra_types: Mapping[str, type] | None = (
        None  # columns that the user adds to the episode table; None: not known yet
    )
    next_data_file: FileIndex = (0, 0)
    next_episodes_file: FileIndex = (0, 0)
    next_video_files: Mapping[str, FileIndex] = field(default_factory=dict)


def load_progress(root: Path, fps: float, features: Mapping[str, Mapping[str, Any]]) -> Progress:
    """Progress of the dataset below ``root``, which must have this ``fps`` and these ``features``.

    Raises:
        ValueError: the dataset there is another one.
        DatasetError: it cannot be read.
    """
    path = root / INFO_PATH
    info = load_info(root)
    if info.version != "v3.0":
        raise ValueError(f"{path}: the dataset is {info.version}, only v3.0 can be continued; use another folder")
    if info.fps != fps:
        raise ValueError(f"{path}: the dataset has {info.fps} fps, got {fps}; use another folder")
    wanted = {key: (feature["dtype"], feature["shape"]) for key, feature in features.items()}
    found = {key: (feature["dtype"], feature["shape"]) for key, feature in info.features.items()}
    if wanted != found:
        raise ValueError(f"{path}: the dataset has features {found}, got {wanted}; use another folder")
    records = load_episodes(info)[: info.total_episodes]
    if len(records) != info.total_episodes:
        raise DatasetError(f"{path}: counts {info.total_episodes} episodes, the episode table lists {len(records)}")
    if not records:
        return Progress(next_video_files=dict.fromkeys(info.video_cameras, (0, 0)))

    sample = RowSample()
    numeric = [key for key, feature in features.items() if feature["dtype"] not in ("video", "image", "string")]
    for data_path in dict.fromkeys(record.data_path for record in records):
        table = read_parquet(data_path, numeric)
        sample = sample.extended({key: from_arrow(table[key], features[key], f"{data_path}, {key}") for key in numeric})
    rows, next_episodes_file = _read_episode_table(root, info.total_episodes)
    with_stats = [key for key, feature in features.items() if feature["dtype"] != "string"]
    return Progress(
        num_episodes=info.total_episodes,
        num_frames=info.total_frames,
        tasks={text: index for index, text in load_tasks(info).items()},
        stats={key: pool_stats([_row_stats(row, key, path) for row in rows]) for key in with_stats},
        sample=sample,
        extra_types={
            name: type(value) for name, value in rows[-1].items() if "/" not in name and name not in EPISODE_COLUMNS
        },
        next_data_file=next_file(*max(record.data_key for record in records), CHUNKS_SIZE),
        next_episodes_file=next_episodes_file,
        next_video_files={
            key: next_file(*max(record.video_keys[key] for record in records), CHUNKS_SIZE)
            for key in info.video_cameras
        },
    )


def remove_leftovers(root: Path, progress: Progress) -> None:
    """Delete what a killed run left: partial files, and files of a part that was never counted."""
    firsts = {"data": progress.next_data_file, "meta/episodes": progress.next_episodes_file}
    firsts |= {f"videos/{key}": first for key, first in progress.next_video_files.items()}
    for folder in ("data", "meta", "videos"):
        for path in (root / folder).rglob(f"*{PARTIAL_SUFFIX}"):
            path.unlink()
    for folder, first in firsts.items():
        for path in (root / folder).glob("chunk-*/file-*"):
            if _file_index(path) >= first:
                path.unlink()


def _read_episode_table(root: Path, num_episodes: int) -> tuple[list[dict[str, Any]], FileIndex]:
    """The counted rows of the episode table in full, and the file in which it goes on."""
    rows: list[dict[str, Any]] = []
    following = (0, 0)
    for path in sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"), key=_file_index):
        counted = [row for row in read_parquet(path).to_pylist() if row["episode_index"] < num_episodes]
        if counted:
            rows += counted
            following = next_file(*_file_index(path), CHUNKS_SIZE)
    return rows, following


def _row_stats(row: Mapping[str, Any], key: str, path: Path) -> Stats:
    prefix = f"stats/{key}/"
    stats = {name.removeprefix(prefix): np.array(value) for name, value in row.items() if name.startswith(prefix)}
    if not stats:
        raise DatasetError(
            f"{path}: the episode table has no statistics of {key!r}, so the dataset cannot be continued"
        )
    return stats


def _file_index(path: Path) -> FileIndex:
    return int(path.parent.name.removeprefix("chunk-")), int(path.stem.removeprefix("file-"))
