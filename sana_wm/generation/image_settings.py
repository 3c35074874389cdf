"""What images to make: every setting of the command, checked before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from sana_wm.diffusion.trigflow import scm_schedule
from sana_wm.generation.image_sampling import NULL_MASKS, Sampling, check_guidance, is_finite
from sana_wm.generation.resources import Resources

COMPRESSION = 32  # pixels along a side of a latent cell, of every member
_NOT_OF_SPRINT = ("shift", "guided", "null_mask")


@dataclass(frozen=True)
class Lane:
    """One picture to make."""

    prompt: str
    seed: int
    path: Path


@dataclass(frozen=True)
class ImageSettings(Resources):
    """What to make, and how; None leaves a value to the release.

    Attributes:
        model: a name of :data:`sana_wm.generation.image_release.RELEASES`, a folder, or a hub repository.
        prompt, prompts: one text; or a file with one text in each line. One of them.
        size: height and width, or the side of a square, in place of ``height`` and ``width``.
        images: pictures of each prompt, of seeds ``seed``, ``seed + 1``, ...
        picture, strength: where Sprint begins, and how much of it may change.
        batch: lanes that are denoised together. tile: pixels of a tile in decoding.
        device, dtype, quantise, quantise_text, plan: see :class:`~sana_wm.generation.resources.Resources`.
        cache: folder of prompts' features, see :class:`~sana_wm.models.prompt_cache.PromptCache`.
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
    size: int | tuple[int, int] | None = None
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
    quantise: str = "none"
    quantise_text: str = "none"
    plan: bool = False
    out: Path = Path("outputs")
    overwrite: bool = False

    def __post_init__(self):
        for name in ("prompts", "picture", "instruction", "cache", "out"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(str(value)))
        for name in ("times", "guided", "size"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        if (self.prompt is None) == (self.prompts is None):
            got = "neither" if self.prompt is None else "both"
            raise ValueError(f'got {got} of prompt and prompts, expected one: prompt="..." or prompts=file.txt')
        for name in ("prompts", "picture", "instruction"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name}={path}: no such file")
        self._set_size()
        self._check_numbers()
        if (self.height is None) != (self.width is None):
            raise ValueError(f"height={self.height}, width={self.width}: give both or neither")
        self.check_resources()
        if self.null_mask is not None and self.null_mask not in NULL_MASKS:
            raise ValueError(f"null_mask={self.null_mask}: expected one of {', '.join(NULL_MASKS)}")

    def _set_size(self) -> None:
        for name, side in zip(("height", "width"), sides_of(self.size, self.height, self.width), strict=True):
            object.__setattr__(self, name, side)

    def _check_numbers(self) -> None:
        least_of = {"seed": -(2**63), "images": 1, "batch": 1, "height": 1, "width": 1, "tile": 1, "steps": 1}
        for name, least in least_of.items():
            value = getattr(self, name)
            given = value is not None or name in ("seed", "images", "batch")
            if given and (not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63):
                raise ValueError(f"{name}={value}: expected a whole number{f' from {least} on' * (least > 0)}")
        if self.tile is not None and self.tile % COMPRESSION:
            raise ValueError(f"tile={self.tile}: expected a multiple of {COMPRESSION} pixels, such as 1024")
        if not is_finite(self.strength) or not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength}: expected more than 0 and at most 1")
        if self.shift is not None and not (is_finite(self.shift) and self.shift > 0):
            raise ValueError(f"shift={self.shift}: expected a number above 0, such as 3")
        check_guidance(1 if self.guidance is None else self.guidance, (0, 1) if self.guided is None else self.guided)
        if self.times is not None:
            if not isinstance(self.times, tuple) or not all(map(is_finite, self.times)):
                raise ValueError(f"times={self.times}: expected falling numbers to 0, as [1.57,1.0,0.0]")
            if self.steps is not None:
                raise ValueError(f"steps={self.steps}, times={list(self.times)}: give one; times are steps + 1 values")
            scm_schedule(times=self.times)

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
        if folders := [path for path in paths if path.is_dir()]:
            raise ValueError(f"{folders[0]} is a folder: name another out=")
        if not (self.overwrite or self.plan) and (taken := [path for path in paths if path.exists()]):
            raise ValueError(f"{taken[0]} exists: name another out=, or add overwrite=true")
        return [Lane(text, seed, path) for (text, seed), path in zip(wanted, paths, strict=True)]

    def sampling(self, released: Sampling) -> Sampling:
        """The release's, with what is given here in its place.

        Raises:
            ValueError: settings that the release's sampler would not read.
        """
        sprint = released.sampler == "scm"
        if sprint:
            unread = {"negative_prompt": self.negative_prompt or None} | {n: getattr(self, n) for n in _NOT_OF_SPRINT}
        else:
            unread = {"times": self.times, "picture": self.picture}
        if lost := [f"{name}={value}" for name, value in unread.items() if value is not None]:
            reads = "a Sprint member does not read" if sprint else "only Sprint members read"
            raise ValueError(f"{', '.join(lost)}: {reads} {' or '.join(unread)} (model={self.model}); leave it out")
        given = {name: getattr(self, name) for name in ("steps", "times", "shift", "guidance", "guided", "null_mask")}
        return replace(released, **{name: value for name, value in given.items() if value is not None})


def sides_of(size: int | tuple | None, height: int | None, width: int | None) -> tuple[int | None, int | None]:
    """Height and width in pixels of ``size``, or as they are given beside it; None: not said.

    Raises:
        ValueError: ``size`` and the other two, or a size of other than one or two sides.
    """
    if size is None:
        return height, width
    if height is not None or width is not None:
        raise ValueError(f"size={size}, height={height}, width={width}: give size, or the other two")
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size={list(sides)}: expected the side of a square, or [height,width]")
    return sides


def _short(text: str) -> str:
    """The first words of a prompt as part of a file's name."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:40].strip("-") or "image"
