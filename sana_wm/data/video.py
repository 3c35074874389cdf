"""Video files through PyAV: frames in, frames out, each found by its number."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from sana_wm.data.errors import DatasetError

SMALL_PICTURE = 128 * 128  # pixels below which a thread per picture costs more than it gives


@dataclass(frozen=True)
class VideoEncoding:
    """How a camera is encoded.

    The default keeps full colour resolution: flat 64 px graphics come back at 52 dB (49 dB at worst), where yuv420p
    at the same rate factor stays at 38 dB, for 460 bytes a frame. A group of 2 pictures makes every frame cheap
    to reach.
    """

    codec: str = "libx264"
    pix_fmt: str = "yuv444p"
    gop: int = 2
    options: dict[str, str] = field(default_factory=lambda: {"crf": "10"})

    def __post_init__(self) -> None:
        try:
            av.Codec(self.codec, "w")
        except av.codec.codec.UnknownCodecError:
            raise ValueError(
                f"video encoder {self.codec!r} is unknown here; try libx264, libx265, libsvtav1 or libvpx-vp9"
            ) from None


class VideoFileWriter:
    """Encodes frames into one mp4 file; frame n is shown at n / fps."""

    def __init__(self, path: Path, fps: float, height: int, width: int, encoding: VideoEncoding):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.num_frames = 0
        self.num_bytes = 0  # encoded so far; the encoder may hold back some frames
        self._rate = Fraction(fps).limit_denominator(1001)
        self._reformatter = VideoReformatter()
        self._container = av.open(str(path), "w", format="mp4")
        try:
            self._stream = self._container.add_stream(encoding.codec, rate=self._rate, options=dict(encoding.options))
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, encoding.pix_fmt
            self._stream.gop_size = encoding.gop
            if height * width <= SMALL_PICTURE:
                self._stream.codec_context.thread_count = 1
            self._stream.codec_context.open()
        except (av.FFmpegError, ValueError) as error:
            self.abort()
            raise ValueError(
                f"frames of {height} x {width} cannot be encoded with {encoding} ({error}); odd sizes need yuv444p"
            ) from error

    def write(self, frames: np.ndarray) -> None:
        """Append ``frames`` (T, H, W, 3) uint8 RGB."""
        for pixels in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture = self._reformatter.reformat(picture, format=self._stream.pix_fmt, threads=1)
            picture.pts, picture.time_base = self.num_frames, 1 / self._rate
            self._mux(self._stream.encode(picture))
            self.num_frames += 1

    def close(self) -> None:
        """Finish the file: without this it has no index and cannot be read."""
        self._mux(self._stream.encode())
        self._container.close()

    def abort(self) -> None:
        """Close without caring for the contents, and delete the file."""
        self._container.close()
        self.path.unlink(missing_ok=True)

    def _mux(self, packets: list[av.Packet]) -> None:
        self.num_bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)


class VideoFileReader:
    """Reads ranges of frames of one video file by frame number.

    The frame number is the rank of a picture's presentation time among all pictures of the file, taken from the
    packets: it holds for any frame rate, start time and picture order. Reading on from the last range decodes
    straight ahead; any other range seeks to the key frame before it.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise DatasetError(f"{path}: missing")
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise DatasetError(f"{path}: not a readable video ({error})") from error
        if not self._container.streams.video:
            raise DatasetError(f"{path}: holds no video stream")
        self._stream = self._container.streams.video[0]
        if self._stream.height * self._stream.width <= SMALL_PICTURE:
            self._stream.codec_context.thread_count = 1
        self._reformatter = VideoReformatter()
        try:
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in self._container.demux(self._stream)
                if packet.pts is not None and not packet.is_discard
            ]
        except av.FFmpegError as error:
            raise DatasetError(f"{path}: damaged video ({error})") from error
        if not packets:
            raise DatasetError(f"{path}: not a readable video, it has no frames (cut off while being written?)")
        packets.sort()
        self._pts = np.array([pts for pts, _ in packets], dtype=np.int64)
        self._key_frames = np.flatnonzero([is_key for _, is_key in packets])
        self._pictures: Iterator[av.VideoFrame] = iter(())
        self._position = -1  # number of the frame that the running decoder gives next; -1 where a seek is due

    @property
    def num_frames(self) -> int:
        return len(self._pts)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the pictures."""
        return self._stream.height, self._stream.width

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start`` to ``stop - 1`` as (T, H, W, 3) uint8 RGB.

        Raises:
            DatasetError: the file holds fewer frames than that, or they do not decode.
        """
        if not 0 <= start <= stop <= self.num_frames:
            raise DatasetError(
                f"{self.path}: frames {start} to {stop - 1} are needed, the video holds {self.num_frames} frames"
            )
        frames = np.empty((stop - start, *self.size, 3), dtype=np.uint8)
        reads_on, self._position = self._position == start, -1  # unknown until the range is through
        try:
            if not reads_on:
                self._seek(start)
            for number in range(start, stop):
                frames[number - start] = self._next(number)
        except (av.FFmpegError, StopIteration) as error:
            detail = str(error) or "the stream ends early"
            raise DatasetError(f"{self.path}: frames {start} to {stop - 1} do not decode ({detail})") from error
        self._position = stop
        return frames

    def _seek(self, start: int) -> None:
        before = self._key_frames[self._key_frames <= start]
        key_frame = int(before[-1]) if len(before) else 0
        self._container.seek(int(self._pts[key_frame]), stream=self._stream, backward=True)
        self._pictures = self._container.decode(self._stream)

    def _next(self, number: int) -> np.ndarray:
        """Decode up to frame ``number``; a missing or damaged picture ends it, its neighbour never takes its place."""
        while True:
            picture = next(self._pictures)
            if picture.pts is None or picture.pts < self._pts[number]:
                continue  # between the key frame and the range
            if picture.pts > self._pts[number]:
                raise StopIteration(f"frame {number} is missing from the stream")
            if picture.is_corrupt:  # the decoder has filled in what it could not read
                raise StopIteration(f"frame {number} is damaged")
            return self._reformatter.reformat(picture, format="rgb24", threads=1).to_ndarray()

    def close(self) -> None:
        self._container.close()


def decode_image(data: bytes, where: str) -> np.ndarray:
    """One PNG or JPEG as (H, W, 3) uint8 RGB; ``where`` names its place in the error."""
    try:
        with av.open(io.BytesIO(data)) as container:
            return next(container.decode(video=0)).to_ndarray(format="rgb24")
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise DatasetError(f"{where}: embedded image does not decode ({error})") from error


def encode_png(pixels: np.ndarray) -> bytes:
    """One frame (H, W, 3) uint8 RGB as PNG."""
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = pixels.shape[1], pixels.shape[0], "rgb24"
    context.time_base = Fraction(1, 1)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])
