"""Names of the files and columns of a LeRobot dataset, and writes that are either whole or absent.

Format facts: the LeRobot dataset v2.1 and v3.0 layouts as written by the ``lerobot`` package (0.4 wrote v3.0 first).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

CHUNKS_SIZE = 1000  # files per chunk folder (v3.0)

# Columns that every dataset has beside the user's features; all scalar.
AUTOMATIC_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": (1,), "names": None},
    "frame_index": {"dtype": "int64", "shape": (1,), "names": None},
    "episode_index": {"dtype": "int64", "shape": (1,), "names": None},
    "index": {"dtype": "int64", "shape": (1,), "names": None},
    "task_index": {"dtype": "int64", "shape": (1,), "names": None},
}

PARTIAL_SUFFIX = ".partial"  # files of a part that is still being written; never referenced by the metadata


def next_file(chunk_index: int, file_index: int, chunks_size: int) -> tuple[int, int]:
    """The (chunk, file) index after this one: ``chunks_size`` files fill a chunk folder."""
    return (chunk_index + 1, 0) if file_index + 1 >= chunks_size else (chunk_index, file_index + 1)


def partial_path(path: Path) -> Path:
    """Where ``path`` is written before it is complete (same folder, so that the rename is atomic)."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def commit_file(path: Path) -> None:
    """Make the finished partial file durable and visible under its own name."""
    partial = partial_path(path)
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a partial file, then put it in place of ``path`` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(partial_path(path))
    commit_file(path)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
