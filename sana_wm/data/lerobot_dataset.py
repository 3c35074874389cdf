"""Reads LeRobot datasets, v2.1 and v3.0, episode by episode."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sana_wm.data.episode_files import EpisodeFiles
from sana_wm.data.episode_table import load_episodes
from sana_wm.data.errors import DatasetError
from sana_wm.data.info import load_info
from sana_wm.data.layout import INFO_PATH
from sana_wm.data.statistics import Stats
from sana_wm.data.tasks_and_stats import load_stats, load_tasks
from sana_wm.data.validation import find_problems


class LeRobotDataset:
    """A dataset of robot episodes: a local folder, or a dataset of the Hugging Face hub such as ``lerobot/pusht``.

    Construction reads the metadata; episodes are decoded when asked for. Instances may be pickled and used after a
    fork (every process opens the files for itself), but one instance is not to be shared between threads.

    Args:
        root_or_repo: the folder that holds ``meta/info.json``, or a hub id.
        revision: branch, tag or commit of a hub id.

    Raises:
        DatasetError: no such dataset, or metadata missing, unreadable, contradictory or of another format version.
    """

    def __init__(self, root_or_repo: str | Path, revision: str | None = None):
        self.root = _locate(root_or_repo, revision)
        self._info = load_info(self.root)
        self.tasks = load_tasks(self._info)  # task index -> instruction
        self._records = load_episodes(self._info)
        total, listed = self._info.total_episodes, len(self._records)
        if listed < total:
            raise DatasetError(f"{self.root / INFO_PATH}: counts {total} episodes, the episode table lists {listed}")
        if listed > total:
            warnings.warn(
                f"{self.root / INFO_PATH} counts {total} episodes, the episode table lists {listed}: a write was "
                "interrupted. The uncounted ones are left out; opening a LeRobotWriter there removes them.",
                stacklevel=2,
            )
            del self._records[total:]
        self._files = EpisodeFiles(self._info)

    @property
    def num_episodes(self) -> int:
        return len(self._records)

    @cached_property
    def episode_lengths(self) -> np.ndarray:
        """Frames of every episode, int64 (num_episodes,)."""
        return np.array([record.length for record in self._records], dtype=np.int64)

    @property
    def num_frames(self) -> int:
        return int(self.episode_lengths.sum())

    @property
    def fps(self) -> float:
        """Frames per second, as ``meta/info.json`` has it (a whole number in most sets)."""
        return self._info.fps

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """name -> ``{"dtype", "shape", "names", ...}``; shapes are tuples, cameras (H, W, C)."""
        return self._info.features

    @property
    def cameras(self) -> list[str]:
        """Names of the image and video features."""
        return self._info.cameras

    @cached_property
    def stats(self) -> dict[str, Stats]:
        """Statistics of every feature over the dataset; images as (3, 1, 1) in [0, 1]. Empty if it has none."""
        return load_stats(self._info)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the recording: a digest of its description, tasks and statistics (16 hex digits)."""
        digest = hashlib.sha256()
        for path in sorted(path for path in (self.root / INFO_PATH).parent.iterdir() if path.is_file()):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    def episode(self, index: int, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """One episode under the dataset's own keys.

        Args:
            index: 0 to num_episodes - 1.
            keys: the features to read (videos not asked for are not decoded), ``"task"`` among them; all by default.

        Returns:
            Cameras as (T, H, W, 3) uint8, other features as (T, *shape) in their own dtype, strings as (T,) objects,
            and ``"task"`` as a list of T strings.

        Raises:
            IndexError, KeyError: no such episode or feature.
            DatasetError: a file of the episode is missing or damaged; the message names file and episode.
        """
        if not 0 <= index < self.num_episodes:
            raise IndexError(f"episode {index}: the dataset has episodes 0 to {self.num_episodes - 1}")
        keys = [*self.features, "task"] if keys is None else list(keys)
        unknown = [key for key in keys if key not in self.features and key != "task"]
        if unknown:
            raise KeyError(f"{unknown} are not in {self.root}; it has {[*self.features, 'task']}")
        record = self._records[index]
        stored = [key for key in keys if key in self.features and key not in record.videos]
        try:
            columns = self._files.columns(record, [*stored, "task_index"])
            videos = {key: self._files.frames(record, key) for key in keys if key in record.videos}
            tasks = self._task_texts(record.data_path, columns["task_index"])
        except DatasetError as error:
            raise DatasetError(f"{error} (episode {index})") from error
        available = columns | videos | {"task": tasks}
        return {key: available[key] for key in keys}

    def validate(self) -> None:
        """Read everything once.

        Raises:
            DatasetError: one error listing every damaged file and episode (``.problems``).
        """
        problems = find_problems(self._info, self._records, self._files, self.tasks)
        if problems:
            raise DatasetError(f"{self.root}: the dataset has {len(problems)} damaged places", problems)

    def _task_texts(self, path: Path, task_index: np.ndarray) -> list[str]:
        indices = task_index.ravel().tolist()
        unknown = sorted(set(indices) - set(self.tasks))
        if unknown:
            raise DatasetError(f"{path}: task_index {unknown} is not in the task list")
        return [self.tasks[index] for index in indices]


def _locate(root_or_repo: str | Path, revision: str | None) -> Path:
    """The local folder, downloaded first if the name is that of a hub repository and of no folder."""
    folder = Path(root_or_repo).expanduser()
    if folder.exists() or isinstance(root_or_repo, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", root_or_repo):
        return folder
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(root_or_repo, repo_type="dataset", revision=revision))
    except Exception as error:  # the client's errors share no base class: network, HTTP, cache and id errors
        raise DatasetError(
            f"{root_or_repo}: there is no such folder, and downloading a dataset of that name from the Hugging Face "
            f"hub failed ({type(error).__name__}: {error}). Check name and network, or give the path of a local copy."
        ) from error
