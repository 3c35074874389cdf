"""Pictures and their cameras as users give them to the environments, one for all lanes or one for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def as_pictures(image: Any, num_lanes: int) -> list[Image.Image]:
    """Pictures of any size, as a user has them -> one RGB image per lane.

    Args:
        image: a path, a PIL image or uint8 (H, W, 3), for all lanes; or one per lane, a list or uint8 (B, H, W, 3).

    Raises:
        TypeError: something that is no picture.
        ValueError: as many pictures as there are not lanes, an array of another kind, or a file that is no picture.
    """
    if isinstance(image, list | tuple) or (isinstance(image, np.ndarray) and image.ndim == 4):
        if len(image) != num_lanes:
            raise ValueError(f"got {len(image)} images, expected one, or one for each of {num_lanes} lanes")
        return [_picture(each) for each in image]
    return [_picture(image)] * num_lanes


def lane_cameras(intrinsics: Any, fov: Any, sizes: Sequence[tuple[int, int]]) -> np.ndarray | None:
    """Intrinsics (B, 4) float32 of fx, fy, cx, cy in pixels of pictures that have these sizes (height, width).

    Args:
        intrinsics: any shape that :func:`sana_wm.world.camera_image.as_intrinsics` takes, where its axis of frames
            stands for the lanes (with one lane, it has the camera of the first frame).
        fov: horizontal field of view in degrees, one for all or one per lane.
    Returns: None where both are None; at most one may be given.
    """
    num_lanes = len(sizes)
    if intrinsics is not None:
        from sana_wm.world.camera_image import as_intrinsics  # loads torch

        try:
            intrinsics = np.asarray(intrinsics, np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # a tensor that cannot be an array, say
            raise TypeError(
                f"got intrinsics that are no array of numbers ({error}), expected fx, fy, cx, cy"
            ) from error
        shape = intrinsics.shape
        if num_lanes > 1 and shape not in ((4,), (3, 3)) and shape[:1] != (num_lanes,):
            raise ValueError(
                f"got intrinsics of shape {shape}, expected (4,) or (3, 3) for all lanes, or {num_lanes} of them"
            )
        return as_intrinsics(intrinsics, num_lanes)
    if fov is None:
        return None
    try:
        angles = np.asarray(fov)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"got fov={fov!r:.200} ({error}), expected a number per lane") from error
    if angles.dtype.kind not in "iuf" or angles.shape not in ((), (num_lanes,)):
        raise TypeError(f"got fov={fov!r}, expected a number" + (f" or {num_lanes} of them" * (num_lanes > 1)))
    if not ((angles > 1) & (angles < 179)).all():
        raise ValueError(f"got fov={fov!r}, expected a horizontal field of view in degrees, such as 60")
    from sana_wm.world.camera_image import fov_intrinsics  # loads torch

    angles = np.broadcast_to(angles, num_lanes)
    return np.stack([fov_intrinsics(angle, size) for angle, size in zip(angles, sizes, strict=True)])


def cut_pictures(
    pictures: Sequence[Image.Image], cameras: np.ndarray | None, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut each picture to (height, width), as `sana_wm.world.camera_image.crop_picture` does.

    Args:
        cameras: (B, 4) intrinsics in pixels of the pictures, or None.
    Returns: uint8 (B, 1, *size, 3), intrinsics (B, 4) in pixels of the result (None where there were none).
    """
    from sana_wm.world.camera_image import CoverCrop  # loads torch

    crops = [CoverCrop.of((picture.height, picture.width), size) for picture in pictures]
    cut: dict[int, np.ndarray] = {}  # a picture that serves several lanes is cut once
    for crop, picture in zip(crops, pictures, strict=True):
        if id(picture) not in cut:
            cut[id(picture)] = np.array(crop.apply(picture))
    frames = np.stack([cut[id(picture)] for picture in pictures])[:, None]
    if cameras is None:
        return frames, None
    return frames, np.stack([crop.intrinsics(camera) for crop, camera in zip(crops, cameras, strict=True)])


def _picture(image: Any) -> Image.Image:
    if isinstance(image, str | os.PathLike):
        try:
            with Image.open(image) as opened:
                return ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, ValueError) as error:  # no such file, none that PIL reads, or no name of a file
            raise ValueError(f"got image={os.fspath(image)!r}, which cannot be read as a picture: {error}") from error
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image).convert("RGB")
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"got an image of type {type(image).__name__}, expected a path, a PIL image or uint8 (height, width, 3)"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"got an image of {image.dtype} and shape {image.shape}, expected uint8 (height, width, 3) in 0..255"
        )
    return Image.fromarray(image)
