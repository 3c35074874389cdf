"""Reads a whole dataset once and lists what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sana_wm.data.episode_files import EpisodeFiles
from sana_wm.data.episode_table import EpisodeRecord
from sana_wm.data.errors import DatasetError
from sana_wm.data.info import DatasetInfo
from sana_wm.data.layout import INFO_PATH
from sana_wm.data.tasks_and_stats import load_stats


class _Findings:
    """Findings in order; the same finding in several episodes is listed once, with all of them."""

    def __init__(self) -> None:
        self._episodes: dict[str, list[int]] = {}

    def add(self, finding: object, *episodes: int) -> None:
        known = self._episodes.setdefault(str(finding), [])
        known += [episode for episode in episodes if episode not in known]

    def lines(self) -> list[str]:
        return [finding + _name_episodes(episodes) for finding, episodes in self._episodes.items()]


def find_problems(
    info: DatasetInfo, records: Sequence[EpisodeRecord], files: EpisodeFiles, tasks: Mapping[int, str]
) -> list[str]:
    """Every damaged file and episode, one line each; empty for a sound dataset.

    Decodes every frame of every camera and reads every row: missing, unreadable and truncated files, lengths that do
    not agree with the metadata, gaps in frame_index and index, task indices without a task, NaN and infinite values.
    """
    findings = _Findings()
    try:
        load_stats(info)
    except DatasetError as error:
        findings.add(error)
    total = sum(record.length for record in records)
    if total != info.total_frames:
        findings.add(
            f"{info.root / INFO_PATH}: total_frames is {info.total_frames}, the episodes have {total} together"
        )
    first_index = 0
    for record in records:
        _check_columns(info, record, files, tasks, first_index, findings)
        first_index += record.length
    for path in dict.fromkeys(record.data_path for record in records):
        _check_strangers(path, files, {record.index for record in records if record.data_path == path}, findings)
    for key in info.video_cameras:
        for path, in_file in _by_file(records, key).items():
            _check_video(info, key, path, in_file, files, findings)
    return findings.lines()


def _check_columns(
    info: DatasetInfo,
    record: EpisodeRecord,
    files: EpisodeFiles,
    tasks: Mapping[int, str],
    first_index: int,
    findings: _Findings,
) -> None:
    stored = [key for key in info.features if key not in record.videos]
    path = record.data_path
    try:
        columns = files.columns(record, stored)
    except DatasetError as error:
        findings.add(error, record.index)
        return
    for key, first in (("frame_index", 0), ("index", first_index)):
        wrong = np.flatnonzero(columns[key].ravel() != first + np.arange(record.length))
        if len(wrong):
            frame = int(wrong[0])
            got = columns[key].ravel()[frame]
            findings.add(f"{path}: {key} is {got} at frame {frame}, expected {first + frame}", record.index)
    unknown = sorted(set(columns["task_index"].ravel().tolist()) - set(tasks))
    if unknown:
        findings.add(f"{path}: task_index {unknown} is not in the task list", record.index)
    for key, column in columns.items():
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            bad = np.flatnonzero(~np.isfinite(column).reshape(len(column), -1).all(axis=1))
            findings.add(f"{path}: {key} is NaN or infinite in {len(bad)} frames, first {bad[0]}", record.index)


def _check_strangers(path: Path, files: EpisodeFiles, expected: set[int], findings: _Findings) -> None:
    """Rows of episodes that the episode table does not put into the file."""
    try:
        strangers = files.data(path).episodes - expected
    except DatasetError:
        return  # found with its episodes already
    if strangers:
        findings.add(f"{path}: holds rows of episodes {sorted(strangers)}, the episode table does not put them there")


def _check_video(
    info: DatasetInfo,
    key: str,
    path: Path,
    records: Sequence[EpisodeRecord],
    files: EpisodeFiles,
    findings: _Findings,
) -> None:
    """Check one video file, reading the episodes in the order in which they lie in it."""
    indices = [record.index for record in records]
    try:
        num_frames = files.video(key, path).num_frames
    except DatasetError as error:
        findings.add(error, *indices)
        return
    if info.version == "v2.1" and num_frames > records[0].length:
        findings.add(f"{path}: holds {num_frames} frames, the episode has {records[0].length}", *indices)
    end, previous = 0, None
    for record in sorted(records, key=lambda record: record.videos[key].first_frame):
        first = record.videos[key].first_frame
        if first < end:
            findings.add(f"{path}: episodes share frames {first} to {end - 1}", previous, record.index)
        end, previous = first + record.length, record.index
        try:
            files.frames(record, key)
        except DatasetError as error:
            findings.add(error, record.index)


def _by_file(records: Iterable[EpisodeRecord], key: str) -> dict[Path, list[EpisodeRecord]]:
    grouped: dict[Path, list[EpisodeRecord]] = {}
    for record in records:
        grouped.setdefault(record.videos[key].path, []).append(record)
    return grouped


def _name_episodes(episodes: Sequence[int]) -> str:
    if not episodes:
        return ""
    ordered = sorted(episodes)
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f" (episodes {ordered[0]} to {ordered[-1]})"
    return f" (episode{'s' if len(ordered) > 1 else ''} {', '.join(map(str, ordered))})"
