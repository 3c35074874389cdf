"""What the settings come to: picture, path, mode, device; everything that is known before weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from sana_wm.generation.camera_path import CameraPath, read_camera_path
from sana_wm.generation.memory import Offload, choose_offload
from sana_wm.generation.modes import Mode, choose_mode
from sana_wm.generation.refine import check_refiner
from sana_wm.generation.settings import GenerateSettings
from sana_wm.models.prompt_encoder import instruction
from sana_wm.models.release import SETTINGS, Release, locate_release
from sana_wm.world.camera_image import SANA_WM_SIZE, crop_picture
from sana_wm.world.video_config import VideoWorldConfig

STRIDE = 8  # raw frames of a latent frame of the LTX-2 autoencoder


@dataclass(frozen=True)
class Planned:
    """A video that is about to be made.

    Attributes:
        picture: uint8 (H, W, 3), the first frame. intrinsics: (F, 4) of fx, fy, cx, cy in its pixels.
        path: the camera, in pixels of the picture as it was given. fps: of the video.
        device, dtype, offload: where and how to compute.
    """

    settings: GenerateSettings
    release: Release
    mode: Mode
    path: CameraPath
    picture: np.ndarray
    intrinsics: np.ndarray
    fps: float
    device: torch.device
    dtype: torch.dtype
    offload: Offload

    @classmethod
    def of(cls, settings: GenerateSettings) -> Planned:
        """Find the release, read the picture and the camera path, and choose.

        Raises:
            ValueError: what is missing, unreadable or does not go together. ImportError: without diffusers.
        """
        picture = read_picture(settings.image)
        release = locate_release(settings.model, refine=settings.refine, **settings.components)
        release.need("text_encoder", *(("refiner",) if settings.refine else ()))
        if settings.refine:
            check_refiner(release.refiner)
        instruction()  # of the prompts, from diffusers: better missed now than after the weights were read
        config, mode = _config(release), choose_mode(settings, release)
        path = read_camera_path(settings, (picture.height, picture.width), config.fov)
        path = path.cut(STRIDE * mode.chunk, settings.num_frames, "a chunk" if mode.chunk > 1 else "a latent frame")
        cut, intrinsics = crop_picture(
            picture, path.intrinsics, len(path.poses), settings.resolution or config.resolution
        )
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(automatic if settings.device == "auto" else settings.device)
        dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(settings.dtype)
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        in_turns = [release.transformer, release.vae, *([release.refiner / "transformer"] if settings.refine else [])]
        offload = choose_offload(settings.offload, device, in_turns)
        fps = float(settings.fps or config.fps)
        return cls(settings, release, mode, path, cut, intrinsics, fps, device, dtype, offload)

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.shape[:2]

    @property
    def raw_frames(self) -> int:
        return len(self.path.poses)

    @property
    def latent_frames(self) -> int:
        return (self.raw_frames - 1) // STRIDE + 1

    @property
    def shown_frames(self) -> int:
        """Of the video: the refiner leaves the first latent as it came, and the reference does not show it."""
        return self.raw_frames - (1 if self.settings.refine else 0)

    @property
    def notes(self) -> tuple[str, ...]:
        """What will happen, and what was assumed or cut."""
        height, width = self.size
        dtype = str(self.dtype).removeprefix("torch.")
        summary = (
            f"{self.raw_frames} frames of {height}x{width} at {self.fps:g} fps: {self.mode.name.replace('_', '-')}, "
            f"{len(self.mode.sigmas) - 1} steps, guidance {self.mode.guidance:g}, {dtype} on {self.device}"
            + (", idle networks wait in host memory" if self.offload.sequential else "")
        )
        odd = (f"the published models were trained at {SANA_WM_SIZE[0]}x{SANA_WM_SIZE[1]}",)
        refined = ("the video begins with the second frame: the refiner leaves the first one as it is",)
        own = "resolution" in self.release.settings or self.size == SANA_WM_SIZE
        return self.mode.notes + self.path.notes + odd * (not own) + refined * self.settings.refine + (summary,)

    @property
    def about(self) -> dict[str, Any]:
        """How the video is made, for its metadata: what was given, and what it came to."""
        given = {name: value for name, value in self.settings.to_dict().items() if name not in ("out", "overwrite")}
        return {
            "generator": "sana_wm.generate",
            "settings": given,
            "mode": self.mode.name,
            "timesteps": [round(1000 * float(sigma), 3) for sigma in self.mode.sigmas],
            "guidance": self.mode.guidance,
            "frames": self.shown_frames,
            "resolution": list(self.size),
            "fps": self.fps,
            "dtype": str(self.dtype).removeprefix("torch."),
            "intrinsics": [round(float(value), 4) for value in self.path.intrinsics[0]],
        }


def _config(release: Release) -> VideoWorldConfig:
    try:
        return VideoWorldConfig.from_dict({k: v for k, v in release.settings.items() if k != "codec"})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{release.root / SETTINGS}: {error}") from error


def read_picture(path: Path) -> Image.Image:
    """Upright, as the camera's orientation tag says."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"image={path}: not a readable picture ({error})") from error
