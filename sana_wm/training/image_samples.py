"""Pictures that a text-to-image network makes while it trains, on one sheet above the real ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sana_wm.generation.image import ImagePipeline
from sana_wm.generation.image_sampling import Sampling
from sana_wm.models.dc_ae import DCAE
from sana_wm.models.transformer import SanaTransformer
from sana_wm.training.image_texts import ImageTexts

GAP = 4  # pixels between pictures


def make_pictures(
    transformer: SanaTransformer,
    dcae: DCAE,
    texts: ImageTexts,
    captions: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    sampling: Sampling,
) -> list[Image.Image]:
    """A picture of each caption at its (height, width), by seeds 0, 1, ...

    Args:
        captions: of ``texts``, so that no text encoder is needed.
    """

    def known(prompts: Sequence[str], instruct: bool) -> tuple[Tensor, Tensor]:
        if not instruct:
            null = torch.from_numpy(texts.null_text.astype("float32")), torch.from_numpy(texts.null_mask)
            return tuple(part[None].expand(len(prompts), *part.shape) for part in null)
        rows = [texts.rows[prompt] for prompt in prompts]
        return torch.from_numpy(texts.text[rows].astype("float32")), torch.from_numpy(texts.mask[rows])

    pipeline = ImagePipeline(transformer, dcae, known, sampling, base=None)
    made = []
    for seed, (caption, size) in enumerate(zip(captions, sizes, strict=True)):
        made += pipeline([caption], seed, height=size[0], width=size[1])
    return made


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures in rows, each column as wide as its widest."""
    widths = [max(picture.width for picture in column) for column in zip(*rows, strict=True)]
    heights = [max(picture.height for picture in row) for row in rows]
    whole = Image.new("RGB", (sum(widths) + GAP * (len(widths) - 1), sum(heights) + GAP * (len(heights) - 1)), "white")
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            whole.paste(picture, (sum(widths[:j]) + GAP * j, sum(heights[:i]) + GAP * i))
    return whole


def save_picture(picture: Image.Image, path: Path) -> None:
    """A PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    picture.save(partial, format="PNG")
    os.replace(partial, path)
