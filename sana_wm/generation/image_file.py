"""Pixels to pictures, and pictures to PNG files that hold the settings they were made with."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

SETTINGS = "sana_wm"  # name of the text chunk


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in about [-1, 1] -> one picture each; values outside are clipped, others rounded to 1/255."""
    levels = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(one.permute(1, 2, 0).cpu().numpy()) for one in levels]


def to_pixels(picture: Image.Image, height: int, width: int) -> Tensor:
    """A picture -> (1, 3, height, width) in [-1, 1], scaled until it covers that and cropped about its centre."""
    picture = picture.convert("RGB")
    if picture.size != (width, height):
        scale = max(width / picture.width, height / picture.height)
        size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        picture = picture.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    levels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(height, width, 3)
    return levels.permute(2, 0, 1)[None].float() / 127.5 - 1


def write_png(picture: Image.Image, path: str | Path, settings: dict[str, Any]) -> Path:
    """Write a PNG with ``settings`` (what JSON holds) in it; the file appears whole or not at all."""
    path, info = Path(path), PngInfo()
    info.add_itxt(SETTINGS, json.dumps(settings, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        picture.save(partial, format="PNG", pnginfo=info)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings in a file of :func:`write_png`.

    Raises:
        ValueError: a picture without them.
    """
    with Image.open(path) as picture:
        picture.load()  # text may follow the pixels
        text = getattr(picture, "text", {}).get(SETTINGS)
    if text is None:
        raise ValueError(f"{path}: holds no settings; expected a PNG that python -m sana_wm.generate wrote")
    return json.loads(text)
