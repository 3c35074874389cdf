"""What a video world is, as data: the ``sana_wm.json`` beside the components of a SANA-WM release."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from sana_wm.diffusion.schedules import FEW_STEPS, few_step_schedule
from sana_wm.models.presets import PRESETS
from sana_wm.world.camera_image import SANA_WM_SIZE, fov_intrinsics

FORMAT = "sana_wm.video_world.1"


@dataclass(frozen=True)
class VideoWorldConfig:
    """How a release runs as a world, besides its components and its codec.

    Attributes:
        resolution: (H, W) of the frames. fps: of the raw frames.
        timesteps: the denoising steps of one latent frame, from at most 1000 down to 0.
        preset: member of :data:`sana_wm.models.presets.PRESETS` whose modes the transformer runs in; None: its own.
        max_episode_steps: default truncation of the environment, -1: none.
        task: the prompt where none is given. fov: horizontal field of view in degrees where no intrinsics are given.
    """

    resolution: tuple[int, int] = SANA_WM_SIZE
    fps: float = 16.0
    timesteps: tuple[float, ...] = FEW_STEPS
    preset: str | None = None
    max_episode_steps: int = -1
    task: str = ""
    fov: float = 60.0

    context = 1  # frames that begin() gets from a start
    proprio_names: tuple[str, ...] = ()
    has_reward = has_terminated = has_success = False

    def __post_init__(self):
        for name in ("resolution", "timesteps", "proprio_names"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        few_step_schedule(self.timesteps)
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r}: expected one of {sorted(PRESETS)}")
        if not 1 < self.fov < 179:
            raise ValueError(f"fov={self.fov}: expected a horizontal field of view in degrees, such as 60")
        if len(self.resolution) != 2 or self.fps <= 0:
            raise ValueError(
                f"resolution={self.resolution}, fps={self.fps}: expected (height, width) and frames a second"
            )

    def intrinsics(self) -> np.ndarray:
        """fx, fy, cx, cy (4,) float32 of frames with the field of view ``fov``."""
        return fov_intrinsics(self.fov, self.resolution)

    def to_dict(self) -> dict[str, Any]:
        values = {"format": FORMAT} | asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VideoWorldConfig:
        """Raises:
        ValueError: another format, or settings that are unknown or out of range.
        """
        values = dict(values)
        if (found := values.pop("format", FORMAT)) != FORMAT:
            raise ValueError(f"format {found!r}, this version reads {FORMAT!r}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown settings {unknown}, expected some of {sorted(known)}")
        return cls(**values)
