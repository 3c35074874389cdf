"""The camera of a picture, as a user has it: poses and intrinsics checked, the picture cut to the model's size."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

SANA_WM_SIZE = (704, 1280)  # height, width that the published models were trained at


def fov_intrinsics(fov: float, size: tuple[int, int]) -> np.ndarray:
    """fx, fy, cx, cy (4,) float32 of a picture: square pixels, the axis through the middle.

    Args:
        fov: horizontal field of view in degrees. size: (height, width) of the picture in pixels.
    """
    height, width = size
    focal = width / 2 / np.tan(np.radians(fov) / 2)
    return np.array([focal, focal, (width - 1) / 2, (height - 1) / 2], np.float32)


def as_poses(c2w: Any) -> np.ndarray:
    """Camera-to-world poses as a user has them -> (F, 4, 4) float32.

    Raises:
        ValueError: another shape, or a frame whose matrix is not a finite rotation and translation.
    """
    poses = np.asarray(c2w, np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
        raise ValueError(f"got poses of shape {poses.shape}, expected (F, 4, 4), one camera-to-world matrix per frame")
    rotation = np.where(np.isfinite(poses), poses, 0)[:, :3, :3]
    checks = {
        "has NaN or infinity": ~np.isfinite(poses).all((1, 2)),
        "has a last row other than 0, 0, 0, 1: is it transposed?": np.abs(poses[:, 3] - (0, 0, 0, 1)).max(1) > 1e-4,
        "has a rotation that is not orthonormal: divide the scale out": (
            np.abs(rotation.swapaxes(1, 2) @ rotation - np.eye(3)).max((1, 2)) > 1e-2  # stored half precision passes
        ),
        "is a mirror image: flip one axis so that x is right, y down, z forward": np.linalg.det(rotation) < 0,
    }
    for problem, bad in checks.items():
        if bad.any():
            frame = int(bad.argmax())
            raise ValueError(f"the pose of frame {frame} {problem}, got {poses[frame].tolist()}")
    return poses.astype(np.float32)


def as_intrinsics(intrinsics: Any, num_frames: int) -> np.ndarray:
    """Intrinsics in pixels, in any accepted shape -> (num_frames, 4) float32 of fx, fy, cx, cy.

    Args:
        intrinsics: (4,) or (3, 3) for a camera that stays as it is; (F, 4) or (F, 3, 3) per frame, of which the first
            ``num_frames`` are taken. Matrices are [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].
    Raises:
        ValueError: another shape, too few frames, another matrix, or a focal length that is not positive.
    """
    values = np.asarray(intrinsics, np.float64)
    shape = values.shape
    fixed = shape in ((4,), (3, 3))
    if fixed:
        values = np.broadcast_to(values, (num_frames, *shape))
    if values.shape[1:] not in ((4,), (3, 3)):
        raise ValueError(
            f"got intrinsics of shape {shape}, expected (4,) or (F, 4) of fx, fy, cx, cy, or (3, 3) or (F, 3, 3)"
        )
    if len(values) < num_frames:
        raise ValueError(
            f"got intrinsics of {len(values)} frames, expected at least {num_frames}: "
            "give one per frame, or a single (4,) or (3, 3) for all"
        )
    values = values[:num_frames]
    if values.ndim == 3:
        values = _from_matrices(values, fixed)
    bad = ~(np.isfinite(values).all(1) & (values[:, :2] > 0).all(1))
    if bad.any():
        frame = int(bad.argmax())
        where = "" if fixed else f" in frame {frame}"
        raise ValueError(
            f"got fx, fy, cx, cy = {', '.join(f'{value:g}' for value in values[frame])}{where}, "
            "expected finite numbers and focal lengths above 0"
        )
    return values.astype(np.float32)


@dataclass(frozen=True)
class CoverCrop:
    """Resize that keeps the aspect and covers ``target``, then a crop of its centre; sizes are (height, width).

    Attributes:
        source: size of the picture. resized: its size before the crop. target: its size after.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    target: tuple[int, int]

    @classmethod
    def of(cls, source: tuple[int, int], target: tuple[int, int]) -> "CoverCrop":
        if min(*source, *target) < 1:
            raise ValueError(f"got a picture of {source} pixels to cut to {target}, expected sizes from 1 up")
        scale = max(target[0] / source[0], target[1] / source[1])
        height, width = (max(want, round(have * scale)) for have, want in zip(source, target, strict=True))
        return cls(tuple(source), (height, width), tuple(target))

    @property
    def corner(self) -> tuple[int, int]:
        """(top, left) of the crop in the resized picture."""
        return (self.resized[0] - self.target[0]) // 2, (self.resized[1] - self.target[1]) // 2

    def apply(self, picture: Image.Image) -> Image.Image:
        """Lanczos resize, then crop."""
        if (picture.height, picture.width) != self.source:
            raise ValueError(
                f"got a picture of {picture.height}x{picture.width} pixels, this crop is for "
                f"{self.source[0]}x{self.source[1]}: make one with CoverCrop.of"
            )
        top, left = self.corner
        resized = picture.resize(self.resized[::-1], Image.Resampling.LANCZOS)
        return resized.crop((left, top, left + self.target[1], top + self.target[0]))

    def intrinsics(self, intrinsics: np.ndarray) -> np.ndarray:
        """fx, fy, cx, cy (..., 4) of the picture -> of the crop. Pixel u of the picture is scale * u - left here."""
        y, x = self.resized[0] / self.source[0], self.resized[1] / self.source[1]
        top, left = self.corner
        moved = np.asarray(intrinsics) * np.array([x, y, x, y]) - np.array([0, 0, left, top])
        return moved.astype(np.float32)


def crop_picture(
    picture: Image.Image | np.ndarray, intrinsics: Any, num_frames: int = 1, size: tuple[int, int] = SANA_WM_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its camera, cut to the model's size.

    Args:
        picture: a PIL image, or uint8 (height, width, 3).
        intrinsics: in pixels of the picture, any shape that :func:`as_intrinsics` takes.
        size: (height, width) to cut to.
    Returns: uint8 (*size, 3), intrinsics (num_frames, 4) float32 in pixels of the result.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"got a picture of {picture.dtype} and shape {picture.shape}, expected uint8 (height, width, 3)"
            )
        picture = Image.fromarray(picture)
    crop = CoverCrop.of((picture.height, picture.width), size)
    cut = crop.apply(picture.convert("RGB"))
    return np.array(cut), crop.intrinsics(as_intrinsics(intrinsics, num_frames))


def _from_matrices(matrices: np.ndarray, fixed: bool) -> np.ndarray:
    """(F, 3, 3) -> (F, 4)."""
    rest = matrices.copy()
    rest[:, [0, 1, 0, 1], [0, 1, 2, 2]] = 0
    rest[:, 2, 2] -= 1
    skew = np.abs(rest[:, :2]).max((1, 2)) / np.abs(matrices[:, 0, 0]).clip(1e-9)
    bad = (skew > 1e-3) | (np.abs(rest[:, 2]).max(1) > 1e-6)  # calibrations come with a trace of skew
    if bad.any():
        frame = int(bad.argmax())
        where = "" if fixed else f" in frame {frame}"
        raise ValueError(
            f"got the intrinsics {matrices[frame].tolist()}{where}, expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] "
            "without skew"
        )
    return matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]]
