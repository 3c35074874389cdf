"""One camera of a dataset being written: its files, where episodes lie in them, and whether they came out right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from sana_wm.data import layout
from sana_wm.data.errors import DatasetError
from sana_wm.data.video import VideoEncoding, VideoFileReader, VideoFileWriter

# A decoded block of pixels may differ from what was encoded by this many levels on average. Loss in quality stays far
# below; a stale, shifted or missing picture, which some encoder presets produce, does not.
BLOCK_TOLERANCE = 24.0
BLOCK = 8  # pixels a side, more in pictures beyond 128 pixels


def describe_video(shape: Sequence[int], fps: float, encoding: VideoEncoding) -> dict[str, Any]:
    """The ``info`` entry of a camera's feature."""
    height, width, channels = shape
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": av.Codec(encoding.codec, "w").canonical_name,
        "video.pix_fmt": encoding.pix_fmt,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": channels,
        "has_audio": False,
    }


class CameraWriter:
    """Encodes the episodes of a part, rolling to a new file when one has grown past ``max_bytes``."""

    def __init__(
        self,
        root: Path,
        key: str,
        fps: float,
        shape: tuple[int, int, int],
        encoding: VideoEncoding,
        max_bytes: int,
        next_file: tuple[int, int] = (0, 0),
    ):
        self._root, self._key, self._fps, self._shape = root, key, fps, shape
        self._encoding, self._max_bytes = encoding, max_bytes
        self._next_file = next_file  # (chunk, file) index
        self._file: VideoFileWriter | None = None
        self._thumbnails: list[np.ndarray] = []  # of the open file, per episode
        self._finished: list[Path] = []  # complete, not yet committed

    def add(self, frames: np.ndarray) -> dict[str, Any]:
        """Encode one episode (T, H, W, 3) uint8 and return its columns of the episode table."""
        if self._file is not None and self._file.num_bytes > self._max_bytes:
            self._finish_file()
        if self._file is None:
            self._open_index = self._next_file
            path = self._path(self._open_index)
            height, width, _ = self._shape
            self._file = VideoFileWriter(layout.partial_path(path), self._fps, height, width, self._encoding)
            self._next_file = layout.next_file(*self._next_file, layout.CHUNKS_SIZE)
        start = self._file.num_frames
        self._file.write(frames)
        self._thumbnails.append(_block_means(frames))
        columns = {
            "chunk_index": self._open_index[0],
            "file_index": self._open_index[1],
            "from_timestamp": start / self._fps,
            "to_timestamp": self._file.num_frames / self._fps,
        }
        return {f"videos/{self._key}/{name}": value for name, value in columns.items()}

    def finish(self) -> None:
        """Complete the open file and check it."""
        if self._file is not None:
            self._finish_file()

    def commit(self) -> None:
        """Give the complete files their final names."""
        for path in self._finished:
            layout.commit_file(path)
        self._finished = []

    def abort(self) -> None:
        """Close what is open. The files have no final name yet and are deleted by whoever goes on with the dataset."""
        if self._file is not None:
            self._file.abort()

    def _path(self, index: tuple[int, int]) -> Path:
        name = layout.VIDEO_PATH.format(video_key=self._key, chunk_index=index[0], file_index=index[1])
        return self._root / name

    def _finish_file(self) -> None:
        self._file.close()
        self._check(layout.partial_path(self._path(self._open_index)))
        self._finished.append(self._path(self._open_index))
        self._file, self._thumbnails = None, []

    def _check(self, partial: Path) -> None:
        """Decode the file: every frame must be there and show what was put in."""
        reader = VideoFileReader(partial)
        expected = sum(map(len, self._thumbnails))
        if reader.num_frames != expected:
            raise DatasetError(f"{partial}: encoder wrote {reader.num_frames} frames of {expected}; try another codec")
        start = 0
        for thumbnails in self._thumbnails:
            decoded = _block_means(reader.read(start, start + len(thumbnails)))
            error = np.abs(decoded - thumbnails).reshape(len(thumbnails), -1).max(axis=1)
            if error.max() > BLOCK_TOLERANCE:
                frame = start + int(error.argmax())
                raise DatasetError(
                    f"{partial}: frame {frame} decodes to another picture (a block is off by {error.max():.0f} "
                    f"of 255); encoding was {self._encoding}, try a slower preset or a lower crf"
                )
            start += len(thumbnails)
        reader.close()


def _block_means(frames: np.ndarray) -> np.ndarray:
    """Mean colour of blocks of frames (T, H, W, 3), as (T, rows, columns, 3) float32, at most 31 x 31 of them.

    A rest of less than a block at the right and bottom is left out; a picture smaller than a block is one block.
    """
    length, height, width, channels = frames.shape
    block_h, block_w = (min(side, max(BLOCK, side // 16)) for side in (height, width))
    rows, columns = height // block_h, width // block_w
    whole = frames[:, : rows * block_h, : columns * block_w]
    # Rows first, in integers: numpy adds those far faster than strided floats.
    row_sums = whole.reshape(length, rows, block_h, -1).sum(axis=2, dtype=np.uint32)
    sums = row_sums.reshape(length, rows, columns, block_w, channels).sum(axis=3, dtype=np.float32)
    return sums / (block_h * block_w)
