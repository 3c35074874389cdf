"""The part of a dataset that a writer is gathering: episodes added since the last flush."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sana_wm.data.columns import to_arrow
from sana_wm.data.layout import CHUNKS_SIZE, next_file
from sana_wm.data.statistics import Stats, column_stats, image_stats, pool_stats
from sana_wm.data.writer_progress import Progress


class Part:
    """Episodes on top of ``done``, the committed progress. Video frames are not kept here: they are encoded already."""

    def __init__(self, features: Mapping[str, Mapping[str, Any]], done: Progress):
        self._features, self._done = features, done
        self.data_file, self.episodes_file = done.next_data_file, done.next_episodes_file
        self.rows: list[dict[str, Any]] = []  # of the episode table
        self._tasks = dict(done.tasks)
        self._tables: list[pa.Table] = []
        self._numeric: list[dict[str, np.ndarray]] = []
        self._stats: list[dict[str, Stats]] = []

    @property
    def num_frames(self) -> int:
        return sum(table.num_rows for table in self._tables)

    @property
    def num_bytes(self) -> int:
        """Size of the rows before compression."""
        return sum(table.nbytes for table in self._tables)

    def with_automatic_columns(
        self, columns: Mapping[str, np.ndarray], task_of_frame: Sequence[str], fps: float
    ) -> dict[str, np.ndarray]:
        """The next episode's columns with timestamp, frame_index, episode_index, index and task_index."""
        for text in task_of_frame:
            self._tasks.setdefault(text, len(self._tasks))
        frame_index = np.arange(len(task_of_frame))
        return {
            **columns,
            "timestamp": (frame_index / fps).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(len(frame_index), self._done.num_episodes + len(self.rows)),
            "index": self._done.num_frames + self.num_frames + frame_index,
            "task_index": np.array([self._tasks[text] for text in task_of_frame]),
        }

    def add(self, columns: Mapping[str, np.ndarray], task_of_frame: Sequence[str], notes: Mapping[str, Any]) -> int:
        """Take in an episode and return its index; ``notes`` are further cells of its row in the episode table."""
        kinds = {key: self._features[key]["dtype"] for key in columns}
        numeric = {
            key: column.reshape(len(column), *self._features[key]["shape"])
            for key, column in columns.items()
            if kinds[key] not in ("video", "image", "string")
        }
        stats = {key: column_stats(column) for key, column in numeric.items()}
        stats |= {key: image_stats(column) for key, column in columns.items() if kinds[key] in ("video", "image")}
        table = pa.table(
            {key: to_arrow(column, self._features[key]) for key, column in columns.items() if kinds[key] != "video"}
        )
        index, first = int(columns["episode_index"][0]), int(columns["index"][0])
        row = {
            "episode_index": index,
            "tasks": list(dict.fromkeys(task_of_frame)),
            "length": table.num_rows,
            "data/chunk_index": self.data_file[0],
            "data/file_index": self.data_file[1],
            "dataset_from_index": first,
            "dataset_to_index": first + table.num_rows,
            "meta/episodes/chunk_index": self.episodes_file[0],
            "meta/episodes/file_index": self.episodes_file[1],
            **{f"stats/{key}/{name}": value.tolist() for key, entry in stats.items() for name, value in entry.items()},
            **notes,
        }
        self.rows.append(row)
        self._tables.append(table)
        self._numeric.append(numeric)
        self._stats.append(stats)
        return index

    def progress(self) -> Progress:
        """The progress once this part is committed."""
        done = self._done
        numeric = {key: np.concatenate([columns[key] for columns in self._numeric]) for key in self._numeric[0]}
        sample = done.sample.extended(numeric)
        quantiles = sample.quantiles()
        entries = [*([done.stats] if done.stats else []), *self._stats]
        return replace(
            done,
            num_episodes=done.num_episodes + len(self.rows),
            num_frames=done.num_frames + self.num_frames,
            tasks=self._tasks,
            stats={key: pool_stats([e[key] for e in entries]) | quantiles.get(key, {}) for key in self._stats[0]},
            sample=sample,
            next_data_file=next_file(*self.data_file, CHUNKS_SIZE),
            next_episodes_file=next_file(*self.episodes_file, CHUNKS_SIZE),
        )

    def write_data(self, path: Path) -> None:
        with pq.ParquetWriter(path, self._tables[0].schema, compression="snappy") as writer:
            for table in self._tables:  # a row group each, so that one episode is read without the others
                writer.write_table(table, row_group_size=table.num_rows)

    def write_tasks(self, path: Path) -> None:
        """A pandas frame whose index is the task text, which is how the format's own reader looks a task up."""
        texts, indices = list(self._tasks), list(self._tasks.values())
        table = pa.table({"task_index": pa.array(indices, pa.int64()), "task": pa.array(texts, pa.string())})
        columns = [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
            for name, kind, numpy_kind in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ]
        description = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
        pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(description)}), path)

    def write_episode_table(self, path: Path) -> None:
        pq.write_table(pa.Table.from_pylist(self.rows), path)
