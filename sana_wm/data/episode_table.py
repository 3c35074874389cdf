"""The episode table: where each episode lies on disk, in either format version."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sana_wm.data.errors import DatasetError
from sana_wm.data.info import DatasetInfo
from sana_wm.data.layout import INFO_PATH
from sana_wm.data.metadata_files import read_json_lines, read_parquet, read_parquet_columns


@dataclass(frozen=True)
class VideoSpan:
    """Where one episode lies in one camera's video: frames ``first_frame`` to ``first_frame + length - 1``."""

    path: Path
    first_frame: int


@dataclass(frozen=True)
class EpisodeRecord:
    """Where one episode lies on disk."""

    index: int
    length: int
    data_path: Path
    data_key: tuple[int, int]  # (chunk, file) index of the data file; in v2.1 (chunk, episode)
    videos: dict[str, VideoSpan]
    video_keys: dict[str, tuple[int, int]]


def load_episodes(info: DatasetInfo) -> list[EpisodeRecord]:
    """Every episode that the metadata lists, ordered by index.

    Raises:
        DatasetError: a metadata file is missing or unreadable, or the indices are not 0, 1, 2 ... without gaps.
    """
    records = _episodes_v21(info) if info.version == "v2.1" else _episodes_v30(info)
    records.sort(key=lambda record: record.index)
    empty = [record.index for record in records if record.length < 1]
    if empty:
        raise DatasetError(f"{info.root / 'meta'}: episodes {_shorten(empty)} have no frames, expected at least one")
    indices = [record.index for record in records]
    if indices != list(range(len(indices))):
        missing = sorted(set(range(max(indices) + 1)) - set(indices))
        twice = sorted({index for index in indices if indices.count(index) > 1}) if not missing else []
        finding = f"episodes {_shorten(missing)} are missing" if missing else f"{_shorten(twice)} are listed twice"
        raise DatasetError(f"{info.root / 'meta'}: {finding}, expected episodes 0 to {max(indices)} once each")
    return records


def _episodes_v21(info: DatasetInfo) -> list[EpisodeRecord]:
    path = info.root / "meta/episodes.jsonl"
    records = []
    for row in read_json_lines(path):
        try:
            index, length = int(row["episode_index"]), int(row["length"])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path}: {row} needs whole numbers episode_index and length") from error
        chunk = index // info.chunks_size
        names = {"episode_chunk": chunk, "episode_index": index}
        videos = {key: VideoSpan(_fill(info, "video_path", video_key=key, **names), 0) for key in info.video_cameras}
        records.append(
            EpisodeRecord(
                index=index,
                length=length,
                data_path=_fill(info, "data_path", **names),
                data_key=(chunk, index),
                videos=videos,
                video_keys={key: (chunk, index) for key in videos},
            )
        )
    return records


def _episodes_v30(info: DatasetInfo) -> list[EpisodeRecord]:
    folder = info.root / "meta/episodes"
    paths = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not paths and info.total_episodes:
        raise DatasetError(
            f"{folder}: holds no chunk-*/file-*.parquet, info.json counts {info.total_episodes} episodes"
        )
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for key in info.video_cameras:
        columns += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    records = []
    for path in paths:
        names = read_parquet_columns(path)
        absent = [name for name in columns if name not in names]
        if absent:
            raise DatasetError(f"{path}: columns {absent} are missing")
        table = read_parquet(path, columns)
        holes = [name for name in columns if table[name].null_count]
        if holes:
            raise DatasetError(f"{path}: columns {holes} have empty cells")
        records += [_record_v30(info, row) for row in table.to_pylist()]
    return records


def _record_v30(info: DatasetInfo, row: dict[str, Any]) -> EpisodeRecord:
    data_key = (int(row["data/chunk_index"]), int(row["data/file_index"]))
    videos, video_keys = {}, {}
    for key in info.video_cameras:
        chunk, file = int(row[f"videos/{key}/chunk_index"]), int(row[f"videos/{key}/file_index"])
        start = row[f"videos/{key}/from_timestamp"]
        if not (math.isfinite(start) and start >= 0):
            raise DatasetError(
                f"{info.root / 'meta/episodes'}: episode {row['episode_index']} of {key} starts at {start} s"
            )
        path = _fill(info, "video_path", video_key=key, chunk_index=chunk, file_index=file)
        videos[key] = VideoSpan(path, round(start * info.fps))
        video_keys[key] = (chunk, file)
    return EpisodeRecord(
        index=int(row["episode_index"]),
        length=int(row["length"]),
        data_path=_fill(info, "data_path", chunk_index=data_key[0], file_index=data_key[1]),
        data_key=data_key,
        videos=videos,
        video_keys=video_keys,
    )


def _fill(info: DatasetInfo, key: str, **names: int | str) -> Path:
    """The path that a template of info.json stands for."""
    template = getattr(info, key)
    try:
        return info.root / template.format(**names)
    except (KeyError, IndexError, ValueError) as error:
        raise DatasetError(
            f"{info.root / INFO_PATH}: {key} is {template!r}, expected a template over {', '.join(names)}"
        ) from error


def _shorten(indices: list[int]) -> str:
    return ", ".join(map(str, indices[:10])) + (" ..." if len(indices) > 10 else "")
