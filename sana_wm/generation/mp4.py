"""An MP4 that can be played while it grows, and that says how it was made."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

# Fragments: the header comes first and every group of pictures is complete in itself, so a file that is cut off
# anywhere plays up to its last whole group.
CONTAINER = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
ENCODER = {"crf": "16", "preset": "medium", "tune": "zerolatency"}  # zerolatency: no frames held back
BT709 = 1  # in ITU-T H.273, of matrix, primaries and transfer alike


class Mp4Writer:
    """Writes frames as H.264 that browsers play; the file appears with the first frame.

    A context manager: whatever ends the block, the frames written so far are a whole video.

    Args:
        about: how the video was made, stored as JSON in the file's comment. group: frames from one key frame to the
            next: after so many the file on disk grows.
    """

    def __init__(self, path: Path, fps: float, title: str = "", about: dict[str, Any] | None = None, group: int = 8):
        self.path, self.num_frames, self.group = path, 0, group
        self._rate = Fraction(fps).limit_denominator(1001)
        self._metadata = {"title": title, "comment": json.dumps(about or {}, ensure_ascii=False)}
        self._container: av.container.OutputContainer | None = None

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(self, *problem) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 RGB frames (F, H, W, 3) with even sides."""
        if self._container is None:
            self._open(*frames.shape[1:3])
        for pixels in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture = self._reformatter.reformat(
                picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = self.num_frames, 1 / self._rate
            self._container.mux(self._stream.encode(picture))
            self.num_frames += 1

    def _open(self, height: int, width: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._reformatter = VideoReformatter()
        self._container = av.open(str(self.path), "w", format="mp4", container_options=CONTAINER)
        self._container.metadata.update(self._metadata)
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=ENCODER)
        codec = self._stream.codec_context
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        codec.gop_size, codec.max_b_frames = self.group, 0
        # Untagged, players take pictures of this size for BT.709 and libx264 is fed BT.601: reds would turn orange.
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = ColorRange.MPEG.value


def read_about(path: str | Path) -> dict[str, Any]:
    """How a video of :class:`Mp4Writer` was made.

    Raises:
        ValueError: a file that does not say.
    """
    try:
        with av.open(str(path)) as container:
            return json.loads(container.metadata["comment"])
    except (av.FFmpegError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: does not say how it was made ({error})") from error
