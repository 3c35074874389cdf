"""Small pictures with words on them: what film strips and videos are drawn with."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT, GOOD = "#f3f4f6", "#1f2937", "#8b93a1", "#15803d"


class Sheet:
    """A sheet of paper to put frames and words on; coordinates in pixels from the top left corner.

    >>> sheet = Sheet(80, 40)
    >>> sheet.frame(np.zeros((8, 8, 3), np.uint8), 4, 4, 32)
    >>> sheet.pixels.shape
    (40, 80, 3)
    """

    def __init__(self, width: int, height: int):
        self._image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def frame(self, frame: np.ndarray, x: int, y: int, side: int, outline: str | None = None) -> None:
        """Place a uint8 frame (height, width, 3), enlarged to `side` pixels of height, with an outline if given."""
        width = round(side * frame.shape[1] / frame.shape[0])
        self._image.paste(Image.fromarray(frame).resize((width, side), Image.Resampling.BICUBIC), (x, y))
        if outline:
            self._draw.rectangle((x - 3, y - 3, x + width + 2, y + side + 2), outline=outline, width=3)

    def text(self, words: str, x: float, y: float, size: int = 15, colour: str = INK, anchor: str = "lm") -> None:
        """Write at a point; `anchor` as in Pillow (l, m, r and t, m, b)."""
        self._draw.text((x, y), words, fill=colour, font=ImageFont.load_default(size), anchor=anchor)

    @property
    def pixels(self) -> np.ndarray:
        return np.asarray(self._image)

    def save(self, path: str | Path) -> None:
        self._image.save(path, format="PNG", optimize=True)


def write_mp4(path: str | Path, frames: list[np.ndarray], fps: int) -> None:
    """Write frames (height, width, 3) uint8 with even sides as an H.264 video that browsers play."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "16", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
