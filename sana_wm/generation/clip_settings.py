"""What videos to make: every setting of the command, checked before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sana_wm.generation.clip_sampling import SAMPLING, ClipSampling
from sana_wm.generation.image_sampling import NULL_MASKS, check_guidance, is_finite
from sana_wm.generation.image_settings import sides_of
from sana_wm.generation.resources import Resources

CHOICES = {
    "offload": ("auto", "sequential", "none"),
    "tiling": ("auto", "on", "off"),
    "null_mask": (None, *NULL_MASKS),
    "preset": (None, *SAMPLING),
}
SAMPLED = ("steps", "shift", "guidance", "guided", "null_mask", "motion", "fps")  # what a release says too
_PATHS = ("prompts", "script", "image", "instruction", "cache", "transformer", "out")
_NOT_OF_STREAMS = ("guided",)


@dataclass(frozen=True)
class ClipLane:
    """One video to make: prompts, each from so many seconds on; a seed; the file."""

    scenes: tuple[tuple[float, str], ...]
    seed: int
    path: Path

    @property
    def title(self) -> str:
        return self.scenes[0][1]


@dataclass(frozen=True)
class ClipSettings(Resources):
    """What to make, and how; None leaves a value to the release. ``configs/generate/clip.yaml`` says what each is for.

    Raises:
        ValueError: values that cannot be meant, files that are not there, outputs that are there already.
    """

    model: str
    prompt: str | None = None
    prompts: Path | None = None
    script: Path | None = None
    negative_prompt: str = ""
    image: Path | None = None
    frames: int | None = None
    seconds: float | None = None
    fps: float | None = None
    height: int | None = None
    width: int | None = None
    size: int | tuple[int, int] | None = None
    seed: int = 0
    videos: int = 1
    steps: int | tuple[float, ...] | None = None
    shift: float | None = None
    guidance: float | None = None
    guided: tuple[float, float] | None = None
    null_mask: str | None = None
    motion: int | None = None
    instruction: Path | None = None
    lowercase: bool = False
    cache: Path | None = None
    transformer: Path | None = None
    preset: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    offload: str = "auto"
    tiling: str = "auto"
    quantise: str = "none"
    quantise_text: str = "none"
    plan: bool = False
    out: Path = Path("outputs")
    overwrite: bool = False

    def __post_init__(self):
        for name in _PATHS:
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(str(value)))
        for name in ("steps", "guided", "size"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        given = [name for name in ("prompt", "prompts", "script") if getattr(self, name) is not None]
        if not given and self.image is not None:
            object.__setattr__(self, "prompt", "")  # the picture says enough
        elif len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(
                f'got {got} of prompt, prompts and script, expected one: prompt="...", prompts=file.txt (one in each '
                "line), or script=file.txt (lines of a time in seconds and what is told from then on); or only image="
            )
        for name in ("prompts", "script", "image", "instruction"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name}={path}: no such file")
        if self.transformer is not None and not self.transformer.exists():
            raise ValueError(f"transformer={self.transformer}: no such file or folder of weights")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                expected = ", ".join("null" if choice is None else choice for choice in known)
                raise ValueError(f"{name}={getattr(self, name)}: expected one of {expected}")
        self.check_resources()
        self._set_size()
        self._check_numbers()

    def _set_size(self) -> None:
        for name, side in zip(("height", "width"), sides_of(self.size, self.height, self.width), strict=True):
            object.__setattr__(self, name, side)
        if (self.height is None) != (self.width is None):
            raise ValueError(f"height={self.height}, width={self.width}: give both or neither")
        for name in ("height", "width"):
            side = getattr(self, name)
            if side is not None and (not _whole(side, 2) or side % 2):
                raise ValueError(f"{name}={side}: expected an even number of pixels, as videos have")

    def _check_numbers(self) -> None:
        for name, least in {"seed": -(2**63), "videos": 1, "frames": 1, "motion": 0}.items():
            value = getattr(self, name)
            if (value is not None or name in ("seed", "videos")) and not _whole(value, least):
                raise ValueError(f"{name}={value}: expected a whole number{f' from {least} on' * (least >= 0)}")
        if self.frames is not None and self.seconds is not None:
            raise ValueError(f"frames={self.frames}, seconds={self.seconds}: give one; they say the same")
        for name, usual in {"seconds": 5, "fps": 16, "shift": 8}.items():
            value = getattr(self, name)
            if value is not None and not (is_finite(value) and 0 < value < 1e6):
                raise ValueError(f"{name}={value}: expected a number above 0, such as {usual}")
        if self.fps is not None and self.fps < 1:
            raise ValueError(f"fps={self.fps}: expected 1 or more frames a second, such as 16")
        check_guidance(1 if self.guidance is None else self.guidance, (0, 1) if self.guided is None else self.guided)
        steps = self.steps
        listed = isinstance(steps, tuple) and len(steps) > 1 and all(map(is_finite, steps))
        if steps is not None and not listed and not _whole(steps, 1):
            raise ValueError(f"steps={steps}: expected a whole number from 1 on, or timesteps that fall to 0")

    def lanes(self) -> list[ClipLane]:
        """Every video to make.

        Raises:
            ValueError: files without prompts, a script that does not begin at 0; outputs that exist.
        """
        wanted = [(scenes, self.seed + i) for scenes in self._stories() for i in range(self.videos)]
        if self.out.suffix.lower() == ".mp4":
            if len(wanted) > 1:
                raise ValueError(f"out={self.out} names one file and {len(wanted)} videos are asked for: name a folder")
            paths = [self.out]
        else:
            digits = len(str(len(wanted) - 1))
            paths = [
                self.out / f"{i:0{digits}}-{self._stem(scenes[0][1])}-{seed}.mp4"
                for i, (scenes, seed) in enumerate(wanted)
            ]
        for path in paths:
            if path.is_dir() or (path.exists() and not (self.overwrite or self.plan)):
                raise ValueError(f"{path} exists: name another out=, or add overwrite=true")
        return [ClipLane(scenes, seed, path) for (scenes, seed), path in zip(wanted, paths, strict=True)]

    def _stories(self) -> list[tuple[tuple[float, str], ...]]:
        if self.prompt is not None:
            return [((0.0, str(self.prompt)),)]
        if self.script is not None:
            return [read_script(self.script)]
        texts = [line for line in map(str.strip, self.prompts.read_text().splitlines()) if line]
        if not texts:
            raise ValueError(f"prompts={self.prompts}: holds no text; expected one prompt in each line")
        return [((0.0, text),) for text in texts]

    def _stem(self, text: str) -> str:
        """The first words of a prompt, or else the picture's name, as part of a file's name."""
        for told in (text, "" if self.image is None else self.image.stem):
            if stem := "-".join(re.findall(r"\w+", told.lower()))[:40].strip("-"):
                return stem
        return "video"

    def sampling(self, released: ClipSampling) -> ClipSampling:
        """The release's, with what is given here in its place.

        Raises:
            ValueError: settings that the release's sampler would not read.
        """
        if not released.streams and self.script is not None:
            raise ValueError(
                f"script={self.script}: only LongSANA, which goes block by block, changes its prompt on the way "
                f"(model={self.model} makes whole clips); take model=longsana-2b, or prompt="
            )
        if not released.streams and isinstance(self.steps, tuple):
            raise ValueError(f"steps={list(self.steps)}: only LongSANA reads a list of timesteps; give a number")
        unread = [f"{name}={getattr(self, name)}" for name in _NOT_OF_STREAMS if getattr(self, name) is not None]
        if released.streams and unread:
            raise ValueError(f"{', '.join(unread)}: LongSANA does not read it (model={self.model}); leave it out")
        given = {name: getattr(self, name) for name in SAMPLED}
        return replace(released, **{name: value for name, value in given.items() if value is not None})

    def num_frames(self, sampling: ClipSampling, stride: int) -> int:
        """Frames to make: those asked for, or as near to ``seconds`` as latent frames of ``stride`` frames come."""
        if self.seconds is None:
            return sampling.frames if self.frames is None else self.frames
        return stride * max(1, round(self.seconds * sampling.fps / stride)) + 1


def read_script(path: Path) -> tuple[tuple[float, str], ...]:
    """Lines ``SECONDS PROMPT`` -> (seconds, prompt), in order; blank lines are passed over.

    Raises:
        ValueError: a line of another form, times that do not rise from 0.
    """
    scenes = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        time, _, text = line.strip().partition(" ")
        seconds = float(time) if re.fullmatch(r"\d+(\.\d*)?", time) else None
        if seconds is None or not text.strip():
            raise ValueError(
                f"{path}, line {number}: {line!r}; expected a time in seconds and a prompt, as '5 It rains'"
            )
        if seconds <= scenes[-1][0] if scenes else seconds != 0:
            last = f"after {scenes[-1][0]:g}" if scenes else "0, for the first"
            raise ValueError(f"{path}, line {number}: begins at {seconds:g} seconds; expected a time {last}")
        scenes.append((seconds, text.strip()))
    if not scenes:
        raise ValueError(f"{path}: holds no scenes; expected lines of a time in seconds and a prompt, as '0 A street'")
    return tuple(scenes)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63
