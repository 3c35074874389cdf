"""Task texts and statistics of a dataset, from the files of either format version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sana_wm.data.errors import DatasetError
from sana_wm.data.info import DatasetInfo
from sana_wm.data.layout import STATS_PATH, TASKS_PATH
from sana_wm.data.metadata_files import read_json, read_json_lines, read_parquet
from sana_wm.data.statistics import Stats, pool_stats


def load_tasks(info: DatasetInfo) -> dict[int, str]:
    """Task index -> task text. v3.0 keeps the text as the index of a pandas frame, whose column name varies."""
    if info.version == "v2.1":
        path = info.root / "meta/tasks.jsonl"
        rows = read_json_lines(path)
        if any("task_index" not in row or "task" not in row for row in rows):
            raise DatasetError(f"{path}: every line needs task_index and task")
        return {int(row["task_index"]): str(row["task"]) for row in rows}
    path = info.root / TASKS_PATH
    table = read_parquet(path)
    text_columns = [name for name in ("task", "__index_level_0__") if name in table.column_names]
    if "task_index" not in table.column_names or not text_columns:
        raise DatasetError(
            f"{path}: columns are {table.column_names}, expected task_index and the text as task or __index_level_0__"
        )
    indices, texts = table["task_index"].to_pylist(), table[text_columns[0]].to_pylist()
    return {int(index): str(text) for index, text in zip(indices, texts, strict=True)}


def load_stats(info: DatasetInfo) -> dict[str, Stats]:
    """Statistics per feature over the dataset, empty where it has none; in v2.1 pooled from those of the episodes."""
    if info.version == "v2.1":
        path = info.root / "meta/episodes_stats.jsonl"
        if not path.exists():
            return {}
        episodes = [_stats_arrays(path, row.get("stats")) for row in read_json_lines(path)]
        shared = [key for key in (episodes[0] if episodes else ()) if all(key in episode for episode in episodes)]
        return {key: pool_stats([episode[key] for episode in episodes]) for key in shared}
    path = info.root / STATS_PATH
    return _stats_arrays(path, read_json(path)) if path.exists() else {}


def _stats_arrays(path: Path, raw: Any) -> dict[str, Stats]:
    if not isinstance(raw, dict) or not all(isinstance(entry, dict) for entry in raw.values()):
        raise DatasetError(f"{path}: expected an object of feature -> min, max, mean, std, count")
    return {key: {name: np.array(value) for name, value in entry.items()} for key, entry in raw.items()}
