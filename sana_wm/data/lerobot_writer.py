"""Writes a LeRobot v3.0 dataset, part by part, so that what is flushed stays readable whatever happens next."""

from __future__ import annotations

import getpass
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from sana_wm.data import layout
from sana_wm.data.camera_writer import CameraWriter, describe_video
from sana_wm.data.columns import check_episode, check_features
from sana_wm.data.video import VideoEncoding
from sana_wm.data.writer_part import Part
from sana_wm.data.writer_progress import EPISODE_COLUMNS, Progress, load_progress, remove_leftovers

Scalar = bool | int | float | str
DATA_FILE_MEGABYTES = 100


class LeRobotWriter:
    """Appends episodes to a LeRobot v3.0 dataset.

    Episodes gather in a *part*. `flush` writes it as one data file, one or more video files per camera and one file of
    the episode table, each under a temporary name first, and counts the episodes in ``meta/info.json`` last. That last
    rename is the commit: a killed run leaves the dataset as it was at the last flush, and a writer constructed on the
    same folder goes on from there. One writer at a time: a lock in the system's temporary folder sees to it.

    Args:
        root: the dataset's folder, made if absent; an existing dataset is continued.
        fps: frames per second.
        features: name -> ``{"dtype", "shape"[, "names"]}``. dtype is ``"video"`` or ``"image"`` with shape (H, W, 3), a
            numpy name, or ``"string"``. timestamp, frame_index, episode_index, index and task_index are added.
        robot_type: noted in the description.
        encoding: how videos are encoded.
        flush_every: episodes after which a part is flushed by itself.
        video_file_megabytes: a camera goes on in a new file when the current one has grown past this.

    Raises:
        ValueError: bad features, an existing dataset with other fps or features, or one that is being written.
        DatasetError: an existing dataset that cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        fps: float,
        features: Mapping[str, Mapping[str, Any]],
        robot_type: str | None = None,
        *,
        encoding: VideoEncoding | None = None,
        flush_every: int = 50,
        video_file_megabytes: float = 200.0,
    ):
        if not fps > 0:
            raise ValueError(f"fps is {fps!r}, expected a positive number")
        if flush_every < 1:
            raise ValueError(f"flush_every is {flush_every}, expected at least 1 episode")
        self.root = Path(root)
        self.fps = int(fps) if float(fps).is_integer() else float(fps)
        self.features = check_features(features)
        self.robot_type = robot_type
        self._flush_every = flush_every
        self._video_file_megabytes = video_file_megabytes
        self._encoding = encoding or VideoEncoding()
        self._lock = _locked(self.root)
        try:
            if not (self.root / layout.INFO_PATH).exists():
                self._begin()
            self._load()
        except BaseException:
            self._lock.release()
            raise

    @property
    def num_episodes(self) -> int:
        """Complete episodes on disk; those added since the last flush are not among them."""
        return self._progress.num_episodes

    @property
    def num_frames(self) -> int:
        """Frames of the complete episodes on disk."""
        return self._progress.num_frames

    @property
    def num_pending(self) -> int:
        """Episodes added since the last flush."""
        return len(self._part.rows)

    def add_episode(
        self,
        episode: Mapping[str, Any],
        task: str | Sequence[str],
        extra: Mapping[str, Scalar] | None = None,
    ) -> int:
        """Append one episode and return its index.

        Args:
            episode: one array of T rows for every feature: cameras (T, H, W, 3) uint8, others (T, *shape); (T,) will
                do for shape (1,). Nothing else: the automatic columns are made here.
            task: the instruction, or one for every frame.
            extra: scalars to note in the episode table (seed, policy ...), with the same names and types throughout.

        Raises:
            ValueError: a closed writer, a key too many or too few, wrong shape or dtype, unequal lengths, NaN or
                infinite values. The episode is not added, those before it are untouched.
        """
        if not self._lock.is_locked:
            raise ValueError(f"{self.root}: this writer is closed; make another one to go on with the dataset")
        columns, length = check_episode(episode, self.features)
        extra = self._check_extra(extra or {})
        task_of_frame = [task] * length if isinstance(task, str) else list(task)
        if len(task_of_frame) != length or not all(isinstance(text, str) for text in task_of_frame):
            raise ValueError(f"task is {task!r}, expected one string or a string for each of the {length} frames")

        columns = self._part.with_automatic_columns(columns, task_of_frame, self.fps)
        try:
            spans: dict[str, Any] = {}
            for key, camera in self._cameras.items():
                spans |= camera.add(columns[key])
            index = self._part.add(columns, task_of_frame, spans | extra)
        except BaseException:
            self._give_up_part()  # the videos may hold a piece of this episode by now
            raise
        self._extra_types = {name: type(value) for name, value in extra.items()}
        if self.num_pending >= self._flush_every or self._part.num_bytes > DATA_FILE_MEGABYTES * 2**20:
            self.flush()
        return index

    def flush(self) -> None:
        """Commit the episodes added so far: when this returns they are on disk and counted.

        Raises:
            DatasetError: a video does not decode to the frames that were put in; the part is given up.
        """
        part = self._part
        if not part.rows:
            return
        try:
            for camera in self._cameras.values():
                camera.finish()
            done = part.progress()
            for camera in self._cameras.values():
                camera.commit()
            layout.write_atomically(self._path(layout.DATA_PATH, part.data_file), part.write_data)
            layout.write_atomically(self.root / layout.TASKS_PATH, part.write_tasks)
            layout.write_json(
                self.root / layout.STATS_PATH,
                {key: {name: value.tolist() for name, value in entry.items()} for key, entry in done.stats.items()},
            )
            layout.write_atomically(self._path(layout.EPISODES_PATH, part.episodes_file), part.write_episode_table)
            layout.write_json(self.root / layout.INFO_PATH, self._info(done))
        except BaseException:
            self._give_up_part()
            raise
        self._progress, self._part = done, Part(self.features, done)

    def close(self) -> None:
        """Flush, and let others write here; this writer takes no more."""
        try:
            self.flush()
        finally:
            self._lock.release()

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Make an empty dataset, so that from here on the folder is known to be one."""
        taken = [name for name in ("data", "meta", "videos") if any((self.root / name).glob("*/*"))]
        if taken:
            raise ValueError(f"{self.root}: has {taken} but no {layout.INFO_PATH}; restore it or use another folder")
        empty = Progress()
        layout.write_atomically(self.root / layout.TASKS_PATH, Part(self.features, empty).write_tasks)
        layout.write_json(self.root / layout.INFO_PATH, self._info(empty))

    def _load(self) -> None:
        """Take up the dataset as it is on disk."""
        self._progress = load_progress(self.root, self.fps, self.features)
        remove_leftovers(self.root, self._progress)
        self._extra_types = self._progress.extra_types
        self._part = Part(self.features, self._progress)
        self._cameras = {
            key: CameraWriter(
                root=self.root,
                key=key,
                fps=self.fps,
                shape=self.features[key]["shape"],
                encoding=self._encoding,
                max_bytes=int(self._video_file_megabytes * 2**20),
                next_file=next_file,
            )
            for key, next_file in self._progress.next_video_files.items()
        }

    def _give_up_part(self) -> None:
        """After a failure: nothing doubtful is committed; whether the commit had happened already, the disk tells."""
        for camera in self._cameras.values():
            camera.abort()
        self._load()

    def _check_extra(self, extra: Mapping[str, Scalar]) -> dict[str, Scalar]:
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in extra.items()}
        for name, value in plain.items():
            if not isinstance(value, Scalar):
                raise ValueError(f"extra {name!r} is {value!r}, expected a bool, int, float or str")
            if "/" in name or name in EPISODE_COLUMNS:
                raise ValueError(f"extra {name!r} is taken by the format, choose another name without '/'")
        types = {name: type(value) for name, value in plain.items()}
        if self._extra_types is not None and types != self._extra_types:
            raise ValueError(f"extra has {types}, expected {self._extra_types} as in the episodes before")
        return plain

    def _path(self, template: str, index: tuple[int, int]) -> Path:
        return self.root / template.format(chunk_index=index[0], file_index=index[1])

    def _info(self, done: Progress) -> dict[str, Any]:
        features = {key: {**feature, "shape": list(feature["shape"])} for key, feature in self.features.items()}
        for feature in features.values():
            if feature["dtype"] == "video":
                feature["info"] = describe_video(feature["shape"], self.fps, self._encoding)
        return {
            "codebase_version": "v3.0",
            "robot_type": self.robot_type,
            "total_episodes": done.num_episodes,
            "total_frames": done.num_frames,
            "total_tasks": len(done.tasks),
            "chunks_size": layout.CHUNKS_SIZE,
            "data_files_size_in_mb": DATA_FILE_MEGABYTES,
            "video_files_size_in_mb": self._video_file_megabytes,
            "fps": self.fps,
            "splits": {"train": f"0:{done.num_episodes}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH if any(f["dtype"] == "video" for f in features.values()) else None,
            "features": features,
        }


def _locked(root: Path) -> FileLock:
    """The right to write the dataset; the system takes it back from a process that dies."""
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"sana-wm-{getpass.getuser()}-{name}.lock"
    lock = FileLock(path, thread_local=False)  # whoever has the writer has the right
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"{root}: another process or writer is writing this dataset; wait for it or end it") from error
    return lock
