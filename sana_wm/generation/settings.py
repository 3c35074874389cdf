"""What to generate: every setting of the command, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sana_wm.models.presets import PRESETS
from sana_wm.models.release import NEEDS
from sana_wm.world.camera_actions import KEY_MAPPINGS, parse_actions

COMPRESSION = 32  # pixels of the LTX-2 autoencoder's latent cell
CHOICES = {
    "keys": tuple(KEY_MAPPINGS),
    "dtype": ("auto", "bfloat16", "float32"),
    "offload": ("auto", "sequential", "none"),
    "tiling": ("auto", "on", "off"),
    "preset": (None, *PRESETS),
    "streaming": (None, True, False),
    "force": (True, False),
    "refine": (True, False),
    "overwrite": (True, False),
}


@dataclass(frozen=True)
class GenerateSettings:
    """The settings of ``configs/generate/generate.yaml``, which says what each is for.

    Raises:
        ValueError: values that cannot be meant, files that are not there, an output that is there already.
    """

    image: Path
    prompt: str
    model: str = "sana-wm"
    negative_prompt: str = ""
    action: str | None = None
    camera: Path | None = None
    keys: str = "ad-turn"
    intrinsics: Any = None
    fov: float | None = None
    num_frames: int | None = None
    streaming: bool | None = None
    preset: str | None = None
    force: bool = False
    steps: int | tuple[float, ...] | None = None
    shift: float = 9.8
    guidance: float | None = None
    refine: bool = False
    seed: int = 0
    resolution: tuple[int, int] | None = None
    fps: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    offload: str = "auto"
    tiling: str = "auto"
    out: Path | None = None
    overwrite: bool = False
    components: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def from_config(cls, values: dict[str, Any]) -> GenerateSettings:
        """From the composed configuration, in which paths of components stand among the others."""
        values = dict(values)
        components = {name: Path(values.pop(name)) for name in NEEDS if values.get(name) is not None}
        return cls(**{name: value for name, value in values.items() if name not in NEEDS}, components=components)

    def __post_init__(self):
        for name in ("image", "camera", "out"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(str(value)))
        for name in ("steps", "resolution"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if not any(value is choice or (isinstance(value, str) and value == choice) for choice in known):
                expected = ", ".join("null" if choice is None else str(choice).lower() for choice in known)
                raise ValueError(f"{name}={value}: expected one of {expected}")
        self._check_numbers()
        self._check_camera()
        if not isinstance(self.prompt, str) or not isinstance(self.negative_prompt, str):
            raise ValueError(f"prompt={self.prompt!r}: expected one text")
        if not self.image.is_file():
            raise ValueError(f"image={self.image}: no such file; expected the picture that the video begins with")
        self._check_out()

    def _check_numbers(self) -> None:
        """Numbers and lists of numbers."""
        whole = {"seed": (-(2**63), "a whole number"), "num_frames": (2, "a number of frames, such as 161")}
        for name, (least, meant) in whole.items():
            value = getattr(self, name)
            if value is not None and (not _is(value, int) or not least <= value < 2**63):
                raise ValueError(f"{name}={value}: expected {meant}")
        for name, most in {"fov": 180.0, "fps": 1000.0, "shift": math.inf}.items():
            value = getattr(self, name)
            if value is not None and not (_is(value, int, float) and 0 < value < most):
                raise ValueError(f"{name}={value}: expected a number above 0{f' and below {most:g}' * (most < 1e9)}")
        if self.guidance is not None and not (_is(self.guidance, int, float) and math.isfinite(self.guidance)):
            raise ValueError(f"guidance={self.guidance}: expected a number; 1 is none")
        steps = self.steps
        listed = isinstance(steps, tuple) and len(steps) > 1 and all(_is(t, int, float) for t in steps)
        if steps is not None and not listed and not (_is(steps, int) and steps > 0):
            raise ValueError(f"steps={steps}: expected a number of steps, or timesteps that fall to 0")
        size = self.resolution
        if size is not None and (
            len(size) != 2 or not all(_is(s, int) and s > 0 and not s % COMPRESSION for s in size)
        ):
            raise ValueError(f"resolution={list(size)}: expected [height, width], multiples of {COMPRESSION} pixels")

    def _check_camera(self) -> None:
        if (self.action is None) == (self.camera is None):
            got = "neither" if self.action is None else "both"
            raise ValueError(f'got {got} of action and camera, expected one: action="w-100,dw-60" or camera=poses.npy')
        if self.fov is not None and self.intrinsics is not None:
            raise ValueError("got both fov and intrinsics, expected one: they say the same")
        if self.action is not None:
            parse_actions(str(self.action))
        elif not self.camera.is_file():
            raise ValueError(f"camera={self.camera}: no such file; expected poses (F, 4, 4) as .npy or .npz")
        if isinstance(self.intrinsics, str) and not Path(self.intrinsics).is_file():
            raise ValueError(f"intrinsics={self.intrinsics}: no such file; expected [fx,fy,cx,cy], or .npy or .npz")

    def _check_out(self) -> None:
        if self.out is None:
            object.__setattr__(self, "out", self._default_out())
        if self.out.suffix.lower() != ".mp4":
            raise ValueError(f"out={self.out}: expected a name that ends in .mp4")
        if self.out.is_dir() or (self.out.exists() and not self.overwrite):
            raise ValueError(f"out={self.out} exists: name another file, or add overwrite=true")

    def _default_out(self) -> Path:
        """outputs/<image>.mp4; where that is taken, the next free number."""
        out, number = Path("outputs") / f"{self.image.stem}.mp4", 1
        while out.exists() and not self.overwrite:
            number += 1
            out = out.with_name(f"{self.image.stem}-{number}.mp4")
        return out

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON holds; settings that are not given are left out."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return values | {name: str(value) for name, value in values.items() if isinstance(value, Path)} | {
            "components": {name: str(path) for name, path in self.components.items()}
        }  # fmt: skip


def _is(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)
