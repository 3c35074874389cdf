"""What images to make: every setting of the command, checked before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sana_wm.generation.image_sampling import Sampling

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Lane:
    """One picture to make."""

    prompt: str
    seed: int
    path: Path


@dataclass(frozen=True)
class ImageSettings:
    """What to make, and how; None leaves a value to the release.

    Attributes:
        model: a name of :data:`sana_wm.generation.image_release.RELEASES`, a folder, or a hub repository.
        prompt, prompts: one text; or a file with one text in each line. One of them.
        images: pictures of each prompt, of seeds ``seed``, ``seed + 1``, ...
        picture, strength: where Sprint begins, and how much of it may change.
        batch: lanes that are denoised together. tile: pixels of a tile in decoding.
        cache: folder of prompts' features, see :class:`~sana_wm.models.text_encoder.PromptCache`.
        out: a folder, or for a single picture the name of a file that ends in .png.

    Raises:
        ValueError: values that cannot be meant, files that are not there, outputs that are there already.
    """

    model: str
    prompt: str | None = None
    prompts: Path | None = None
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    seed: int = 0
    images: int = 1
    batch: int = 1
    steps: int | None = None
    times: tuple[float, ...] | None = None
    shift: float | None = None
    guidance: float | None = None
    guided: tuple[float, float] | None = None
    null_mask: str | None = None
    picture: Path | None = None
    strength: float = 0.6
    instruction: Path | None = None
    lowercase: bool = False
    cache: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    tile: int | None = None
    out: Path = Path("outputs")
    overwrite: bool = False

    def __post_init__(self):
        for name in ("prompts", "picture", "instruction", "cache", "out"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(str(value)))
        for name in ("times", "guided"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        if (self.prompt is None) == (self.prompts is None):
            got = "neither" if self.prompt is None else "both"
            raise ValueError(f'got {got} of prompt and prompts, expected one: prompt="..." or prompts=file.txt')
        for name in ("prompts", "picture", "instruction"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name}={path}: no such file")
        self._check_numbers()
        if (self.height is None) != (self.width is None):
            raise ValueError(f"height={self.height}, width={self.width}: give both or neither")
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype={self.dtype}: expected one of auto, {', '.join(DTYPES)}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength}: expected more than 0 and at most 1")

    def _check_numbers(self) -> None:
        for name, least in {"seed": -(2**63), "images": 1, "batch": 1, "height": 1, "width": 1, "tile": 1}.items():
            value = getattr(self, name)
            given = value is not None or name in ("seed", "images", "batch")
            if given and (not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63):
                raise ValueError(f"{name}={value}: expected a whole number{f' from {least} on' * (least > 0)}")

    def lanes(self) -> list[Lane]:
        """Every picture to make.

        Raises:
            ValueError: a file without prompts; outputs that exist.
        """
        texts = [self.prompt]
        if self.prompts is not None:
            texts = [line for line in map(str.strip, self.prompts.read_text().splitlines()) if line]
            if not texts:
                raise ValueError(f"prompts={self.prompts}: holds no text; expected one prompt in each line")
        wanted = [(text, self.seed + i) for text in texts for i in range(self.images)]
        if self.out.suffix.lower() == ".png":
            if len(wanted) > 1:
                raise ValueError(
                    f"out={self.out} names one file and {len(wanted)} pictures are asked for: name a folder"
                )
            paths = [self.out]
        else:
            paths = [
                self.out / f"{i:0{len(str(len(wanted) - 1))}}-{_short(t)}-{s}.png" for i, (t, s) in enumerate(wanted)
            ]
        if not self.overwrite and (taken := [path for path in paths if path.exists()]):
            raise ValueError(f"{taken[0]} exists: name another out=, or add overwrite=true")
        return [Lane(text, seed, path) for (text, seed), path in zip(wanted, paths, strict=True)]

    def sampling(self, released: Sampling) -> Sampling:
        """The release's, with what is given here in its place."""
        given = {name: getattr(self, name) for name in ("steps", "times", "shift", "guidance", "guided", "null_mask")}
        return replace(released, **{name: value for name, value in given.items() if value is not None})


def _short(text: str) -> str:
    """The first words of a prompt as part of a file's name."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:40].strip("-") or "image"
