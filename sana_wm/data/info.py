"""``meta/info.json``: what a dataset says about itself, checked on reading."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sana_wm.data.errors import DatasetError
from sana_wm.data.layout import AUTOMATIC_FEATURES, INFO_PATH
from sana_wm.data.metadata_files import read_json

SUPPORTED_VERSIONS = ("v2.1", "v3.0")


@dataclass(frozen=True)
class DatasetInfo:
    """``meta/info.json``, checked. Keys this library does not use stay in ``raw``."""

    root: Path
    version: str
    fps: float
    features: dict[str, dict[str, Any]]
    total_episodes: int
    total_frames: int
    chunks_size: int
    data_path: str
    video_path: str | None
    raw: dict[str, Any]

    @cached_property
    def cameras(self) -> list[str]:
        return [key for key, feature in self.features.items() if feature["dtype"] in ("video", "image")]

    @cached_property
    def video_cameras(self) -> list[str]:
        return [key for key, feature in self.features.items() if feature["dtype"] == "video"]


def load_info(root: Path) -> DatasetInfo:
    """Read and check ``meta/info.json`` below ``root``.

    Raises:
        DatasetError: missing, not JSON, of another format version, or a needed key is absent or of the wrong type.
    """
    path = root / INFO_PATH
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder, expected a LeRobot dataset with {INFO_PATH}")
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise DatasetError(f"{path}: got a {type(raw).__name__}, expected an object with the dataset's description")
    version = raw.get("codebase_version")
    if version not in SUPPORTED_VERSIONS:
        raise DatasetError(
            f"{path}: codebase_version is {version!r}, expected one of {', '.join(SUPPORTED_VERSIONS)}; "
            "convert the dataset with lerobot's own conversion scripts"
        )
    features = _check_features(path, raw.get("features"))
    video_path = raw.get("video_path")
    has_video = any(feature["dtype"] == "video" for feature in features.values())
    if has_video and not isinstance(video_path, str):
        raise DatasetError(f"{path}: video_path is {video_path!r}, expected a path template (a feature is a video)")
    fps = raw.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        raise DatasetError(f"{path}: fps is {fps!r}, expected a positive number")
    return DatasetInfo(
        root=root,
        version=version,
        fps=fps,
        features=features,
        total_episodes=_natural(path, raw, "total_episodes"),
        total_frames=_natural(path, raw, "total_frames"),
        chunks_size=max(1, _natural(path, raw, "chunks_size")),
        data_path=_template(path, raw, "data_path"),
        video_path=video_path,
        raw=raw,
    )


def _check_features(path: Path, features: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(features, dict) or not features:
        raise DatasetError(f"{path}: features is {features!r}, expected an object of name -> dtype, shape, names")
    checked = {}
    for key, feature in features.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if not isinstance(shape, list | tuple) or not all(isinstance(n, int) and n > 0 for n in shape):
            raise DatasetError(
                f"{path}: feature {key!r} has shape {shape!r}, expected a list of positive whole numbers"
            )
        if not isinstance(feature.get("dtype"), str):
            raise DatasetError(f"{path}: feature {key!r} has dtype {feature.get('dtype')!r}, expected a name")
        checked[key] = {**feature, "shape": tuple(shape)}
        if feature["dtype"] in ("video", "image"):
            if len(shape) != 3:
                raise DatasetError(f"{path}: camera {key!r} has shape {shape}, expected height, width, channels")
            if str((feature.get("names") or [""])[0]).startswith("channel"):  # some sets describe C, H, W
                checked[key]["shape"] = (shape[1], shape[2], shape[0])
    return checked | {key: dict(value) for key, value in AUTOMATIC_FEATURES.items() if key not in checked}


def _natural(path: Path, raw: dict[str, Any], key: str) -> int:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DatasetError(f"{path}: {key} is {value!r}, expected a whole number >= 0")
    return value


def _template(path: Path, raw: dict[str, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str):
        raise DatasetError(f"{path}: {key} is {value!r}, expected a path template")
    return value
