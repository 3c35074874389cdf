"""The data and video files of a dataset, kept open, and the pieces that belong to one episode cut out of them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sana_wm.data.columns import from_arrow
from sana_wm.data.episode_table import EpisodeRecord
from sana_wm.data.errors import DatasetError
from sana_wm.data.info import DatasetInfo
from sana_wm.data.video import VideoFileReader

OPEN_FILES = 32  # of each kind; beyond, the one unused for longest is closed


class DataFile:
    """One parquet file of rows. An episode's rows are those with its episode_index; they must lie together."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
            self._names = self._file.schema_arrow.names
            if "episode_index" not in self._names:
                raise DatasetError(f"{path}: column episode_index is missing")
            column = self._file.read(columns=["episode_index"])["episode_index"]
            if column.null_count or not pa.types.is_integer(column.type):
                raise DatasetError(f"{path}: episode_index has empty cells or is {column.type}, expected whole numbers")
            owners = column.to_numpy()
        except FileNotFoundError:
            raise DatasetError(f"{path}: missing") from None
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: not readable parquet, cut off while being written? ({error})") from error
        starts = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]]) if len(owners) else np.array([], int)
        stops = np.r_[starts[1:], len(owners)]
        self._runs: dict[int, list[tuple[int, int]]] = {}  # episode -> (first row, number of rows)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=False):
            self._runs.setdefault(int(owners[start]), []).append((start, stop - start))
        self._group_ends = np.cumsum(
            [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        )

    @property
    def episodes(self) -> set[int]:
        """Indices of the episodes that have rows here."""
        return set(self._runs)

    def read(self, episode: int, length: int, columns: Sequence[str]) -> pa.Table:
        """The rows of ``episode``, of which there must be ``length``; reads only the row groups they lie in."""
        missing = [name for name in columns if name not in self._names]
        if missing:
            raise DatasetError(f"{self.path}: columns {missing} are missing")
        runs = self._runs.get(episode, [])
        found = sum(count for _, count in runs)
        if found != length:
            raise DatasetError(f"{self.path}: holds {found} rows of the episode, the episode table says {length}")
        if len(runs) != 1:
            raise DatasetError(f"{self.path}: the rows of the episode lie in {len(runs)} separate places")
        first = runs[0][0]
        low, high = (int(np.searchsorted(self._group_ends, row, side="right")) for row in (first, first + length - 1))
        try:
            table = self._file.read_row_groups(list(range(low, high + 1)), columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{self.path}: damaged parquet ({error})") from error
        return table.slice(first - (int(self._group_ends[low - 1]) if low else 0), length)

    def close(self) -> None:
        self._file.close()


class EpisodeFiles:
    """Reads pieces of episodes. Errors name the file; the caller knows the episode."""

    def __init__(self, info: DatasetInfo):
        self._info = info
        self._forget()

    def columns(self, record: EpisodeRecord, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of the episode from its data file, each (T, *shape)."""
        table = self.data(record.data_path).read(record.index, record.length, list(dict.fromkeys(keys)))
        features = self._info.features
        return {key: from_arrow(table[key], features[key], f"{record.data_path}, {key}") for key in table.column_names}

    def frames(self, record: EpisodeRecord, key: str) -> np.ndarray:
        """The episode's frames of a video camera, (T, H, W, 3) uint8."""
        span = record.videos[key]
        return self.video(key, span.path).read(span.first_frame, span.first_frame + record.length)

    def data(self, path: Path) -> DataFile:
        return self._open("data", path, DataFile)

    def video(self, key: str, path: Path) -> VideoFileReader:
        """The reader of a camera's file, checked to have the size that the features say."""
        reader = self._open("video", path, VideoFileReader)
        size = self._info.features[key]["shape"][:2]
        if reader.size != size:
            raise DatasetError(f"{path}: pictures are (height, width) {reader.size}, info.json says {size}")
        return reader

    def _open(self, kind: str, path: Path, open_file: Callable[[Path], Any]) -> Any:
        if self._process != os.getpid():  # a forked child shares file positions with its parent: open anew
            self._forget()
        files = self._open_files[kind]
        if path not in files:
            files[path] = open_file(path)
            if len(files) > OPEN_FILES:
                files.popitem(last=False)[1].close()
        files.move_to_end(path)
        return files[path]

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open_files: dict[str, OrderedDict[Path, Any]] = {"data": OrderedDict(), "video": OrderedDict()}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_open_files"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
