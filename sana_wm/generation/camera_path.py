"""The camera's path as a user gives it, and what the transformer is told of each part of it (spec sections 4.1, 10)."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sana_wm.generation.settings import GenerateSettings
from sana_wm.nn.camera import camera_vectors, plucker_pack, relative_poses, scale_intrinsics
from sana_wm.world.camera_actions import action_path
from sana_wm.world.camera_image import as_intrinsics, as_poses, fov_intrinsics

SEEN_FOV = (25.0, 120.0)  # that the published models were made for; NVlabs' command refuses others
POSES, INTRINSICS = ("c2w", "poses", "pose"), ("intrinsics", "K")  # names in .npz files


@dataclass(frozen=True)
class CameraPath:
    """Where the camera is in every raw frame.

    Attributes:
        poses: camera-to-world (F, 4, 4) float32. intrinsics: (F, 4) of fx, fy, cx, cy in pixels of the picture.
        notes: what was assumed or cut, for people.
    """

    poses: np.ndarray
    intrinsics: np.ndarray
    notes: tuple[str, ...] = ()

    def cut(self, step: int, wanted: int | None, why: str) -> CameraPath:
        """The first ``wanted`` frames (None: all) or as many of them as ``step`` k + 1 makes.

        Raises:
            ValueError: fewer poses than wanted, or than the least, step + 1.
        """
        have = len(self.poses)
        want = have if wanted is None else wanted
        least = step + 1
        if want > have or min(want, have) < least:
            need = max(want, least)
            longer = f"lengthen it by {need - have} frames (none-{need - have} stands still)" if need > have else ""
            raise ValueError(
                f"got {have} poses{f' and num_frames={wanted}' if wanted else ''}, expected at least {need}: "
                + (longer or f"num_frames is at least {least} ({why})")
            )
        keep = (want - 1) // step * step + 1
        notes = self.notes
        if keep < want:
            notes += (f"{keep} frames of {want}: {why} takes {step} k + 1 frames, the last {want - keep} are cut",)
        return replace(self, poses=self.poses[:keep], intrinsics=self.intrinsics[:keep], notes=notes)


def read_camera_path(settings: GenerateSettings, picture: tuple[int, int], fov: float) -> CameraPath:
    """Poses and intrinsics of the settings.

    Args:
        picture: (height, width) of the picture in pixels. fov: to assume where the settings have no intrinsics.

    Raises:
        ValueError: unreadable files, poses or intrinsics that are none.
    """
    given, notes = settings.intrinsics, ()
    if settings.action is not None:
        poses = action_path(settings.action, settings.keys)
        turns = "a d turn, j l step aside" if settings.keys == "ad-turn" else "a d step aside, j l turn"
        notes += (f"keys={settings.keys}: {turns}",)
    else:
        poses = _read(settings.camera, POSES)
        if given is None and settings.fov is None and settings.camera.suffix == ".npz":
            given = _read(settings.camera, INTRINSICS, needed=False)
        try:
            poses = as_poses(poses)
        except ValueError as error:
            raise ValueError(f"{settings.camera}: {error}") from error
    if isinstance(given, str):
        given = _read(Path(given), INTRINSICS)
    if given is None:
        degrees = settings.fov or fov
        if settings.fov is None:
            notes += (f"no intrinsics given: a horizontal field of view of {degrees:g} degrees is assumed (fov=...)",)
        given = fov_intrinsics(degrees, picture)
    intrinsics = as_intrinsics(given, len(poses))
    seen = np.degrees(2 * np.arctan(picture[1] / 2 / intrinsics[0, 0]))
    if not SEEN_FOV[0] <= seen <= SEEN_FOV[1]:
        least, most = SEEN_FOV
        notes += (f"a field of view of {seen:.0f} degrees: the models were made for {least:g} to {most:g}",)
    return CameraPath(poses, intrinsics, notes)


class CameraConditions:
    """Camera vectors and Plücker rays of any stretch of latent frames; only the path itself is kept.

    Args:
        poses: (F, 4, 4) in any world frame, F = stride k + 1. intrinsics: (F, 4) in pixels of a frame of ``size``.
        size: (height, width) of a frame. grid: (h, w) of its latents. stride: raw frames of a latent frame.
    """

    def __init__(
        self, poses: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], grid: tuple[int, int], stride: int
    ):
        self.poses = relative_poses(torch.from_numpy(poses))
        self.intrinsics = scale_intrinsics(torch.from_numpy(intrinsics), size, grid)
        self.grid, self.stride = grid, stride

    def __call__(self, start: int, stop: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """(1, n, 20) and (1, 6 stride, n, h, w) float32 of latent frames ``start`` to ``stop``."""
        before = 0 if start == 0 else 1  # a later stretch needs the raw frame before it, whose own latent is dropped
        raw = slice(self.stride * (start - before), self.stride * (stop - 1) + 1)
        poses, intrinsics = self.poses[None, raw].to(device), self.intrinsics[None, raw].to(device)
        camera = camera_vectors(poses, intrinsics, self.stride)[:, before:]
        return camera, plucker_pack(poses, intrinsics, self.grid, self.stride)[:, :, before:]


def _read(path: Path, names: tuple[str, ...], needed: bool = True) -> Any:
    """The array of a .npy file, or the one of a .npz file that has one of these names (or is alone)."""
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            return stored
        with stored:
            found = [name for name in names if name in stored.files]
            found = found or (stored.files if needed and len(stored.files) == 1 else [])
            if not found and needed:
                raise ValueError(f"got the arrays {', '.join(stored.files)}, expected one named {' or '.join(names)}")
            return stored[found[0]] if found else None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as .npy or .npz ({error})") from error
