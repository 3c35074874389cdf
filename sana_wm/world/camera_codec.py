"""Actions that move the camera: one step is one latent frame of a video world, executed over its raw frames."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sana_wm.world.camera_actions import KEYS, KeyMapping, Smoothing, key_mapping, move_camera, standing_camera

FRAMES = 8  # raw frames that a latent frame of SANA-WM takes
# Published speeds in one step: 0.05 model units and 1.2 degrees per raw frame (spec section 10, diffusers).
REACH = (0.05 * FRAMES,) * 3 + (1.2 * FRAMES,) * 3


@dataclass(frozen=True)
class CameraDeltaCodec:
    """Six numbers per step: how far the camera gets, along and about its own axes.

    An action is a twist xi that stays constant in the camera's own frame and is executed evenly: after k of the step's
    n raw frames the pose is ``pose exp(k xi / n)``, with the exponential of SE(3). Where it moves and turns at once,
    the camera therefore flies a screw, not a straight line. Pitch has no limit.

    Attributes:
        low, high: bounds per column, in the order of ``names`` and with its units; those of float32.
        frames: n, raw frames per step.
    """

    low: tuple[float, ...] = tuple(-reach for reach in REACH)
    high: tuple[float, ...] = REACH
    frames: int = FRAMES

    kind: ClassVar[str] = "camera-delta"
    # Model units along x right, y down, z forward; degrees about them, each positive in the sense of its name.
    names: ClassVar[tuple[str, ...]] = ("right", "down", "forward", "pitch_up", "turn_right", "roll_clockwise")
    unit: ClassVar[str] = "model units and degrees per step"

    def __post_init__(self):
        for name in ("low", "high"):
            object.__setattr__(self, name, tuple(float(bound) for bound in getattr(self, name)))
        bounds = np.array([self.low, self.high]) if len(self.low) == len(self.high) else np.zeros(())
        if bounds.shape != (2, 6) or not np.isfinite(bounds).all() or not (bounds[0] < bounds[1]).all():
            raise ValueError(
                f"got low={self.low} and high={self.high}, expected six finite bounds each ({', '.join(self.names)}), "
                "low below high"
            )
        _check_frames(self.frames)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.names),)

    @property
    def action_space(self):
        """`gymnasium.spaces.Box` (6,) float32."""
        from gymnasium import spaces

        return spaces.Box(np.array(self.low, np.float32), np.array(self.high, np.float32), dtype=np.float32)

    def check(self, actions: Any) -> np.ndarray:
        """Validate actions (..., 6) -> float32.

        Raises:
            ValueError: another shape, not finite, or out of bounds.
        """
        values = _numbers(actions, self.names).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"got an action with NaN or infinity: {values[~np.isfinite(values).all(-1)][0].tolist()}")
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        bad = (values < low) | (values > high)
        if bad.any():
            column = int(np.argwhere(bad)[0][-1])
            raise ValueError(
                f"action {self.names[column]} is {float(values[bad][0]):g}, allowed are {low[column]:g} to "
                f"{high[column]:g}: clip it to the action space"
            )
        return values

    def initial(self, lanes: int, device: Any = None) -> dict[str, Tensor]:
        """Cameras at the identity: pose (B, 4, 4) float64, camera-to-world."""
        return {"pose": torch.eye(4, dtype=torch.float64, device=device).repeat(lanes, 1, 1)}

    def advance(self, carried: dict[str, Tensor], actions: np.ndarray | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of B cameras.

        Args:
            carried: pose (B, 4, 4) float64; other entries are left alone. actions: (B, 6), checked.
        Returns: poses (B, n, 4, 4) float64 after each raw frame, in the frame that ``pose`` is in; what is carried on.
        """
        pose = carried["pose"]
        xi = _as_actions(actions, len(pose), self.shape, pose.device)
        xi = torch.cat([xi[:, :3], torch.deg2rad(xi[:, 3:])], dim=1)
        share = torch.arange(1, self.frames + 1, dtype=torch.float64, device=pose.device) / self.frames
        moved = se3_exp(share[:, None] * xi[:, None, :])
        # Sums of products, not a matrix product: what a lane gets does not depend on the size of the batch.
        poses = (pose[:, None, :, :, None] * moved[:, :, None, :, :]).sum(-2)
        return poses, {"pose": poses[:, -1]}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "low": list(self.low), "high": list(self.high), "frames": self.frames}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CameraDeltaCodec:
        return cls(**_of_kind(values, cls.kind))


@dataclass(frozen=True)
class CameraKeyCodec:
    """Eight keys per step, each held for all of the step's raw frames or not at all.

    The camera is that of :func:`sana_wm.world.camera_actions.action_path`: n steps give its path of ``n frames`` raw
    frames. What a lane carries between steps are the camera's pose, velocity, yaw and pitch, and the keys of the step
    before, since a key that stays down is no new press.

    Attributes:
        mapping: what the keys do, a mapping or the name of one.
        frames: raw frames per step.
    """

    mapping: KeyMapping | str
    frames: int = FRAMES

    kind: ClassVar[str] = "camera-keys"
    names: ClassVar[tuple[str, ...]] = tuple(KEYS)
    unit: ClassVar[str] = "1 where the key is held"

    def __post_init__(self):
        object.__setattr__(self, "mapping", key_mapping(self.mapping))
        _check_frames(self.frames)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(KEYS),)

    @property
    def action_space(self):
        """`gymnasium.spaces.MultiBinary(8)`, in the order of ``names``."""
        from gymnasium import spaces

        return spaces.MultiBinary(len(KEYS))

    def check(self, actions: Any) -> np.ndarray:
        """Validate actions (..., 8) -> int8 of zeros and ones.

        Raises:
            ValueError: another shape, or a number that is neither 0 nor 1.
        """
        values = _numbers(actions, self.names)
        bad = (values != 0) & (values != 1)
        if bad.any():
            column = int(np.argwhere(bad)[0][-1])
            raise ValueError(
                f"action of key {self.names[column]} is {float(values[bad][0]):g}, expected 1 (held) or 0 (not)"
            )
        return values.astype(np.int8)

    def initial(self, lanes: int, device: Any = None) -> dict[str, Tensor]:
        """Cameras at rest at the identity: :func:`~sana_wm.world.camera_actions.standing_camera`."""
        return standing_camera(lanes, device)

    def advance(self, carried: dict[str, Tensor], actions: np.ndarray | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of B cameras.

        Args:
            carried: as ``initial`` or this method leaves it; other entries are left alone. actions: (B, 8), checked.
        Returns: poses (B, frames, 4, 4) float64 after each raw frame, relative to the first frame of all; what is
            carried on.
        """
        pose = carried["pose"]
        held = _as_actions(actions, len(pose), self.shape, pose.device)
        return move_camera(carried, held[:, None].expand(-1, self.frames, -1), self.mapping)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "mapping": asdict(self.mapping), "frames": self.frames}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CameraKeyCodec:
        values = _of_kind(values, cls.kind)
        mapping = dict(values["mapping"])
        if mapping.get("smoothing") is not None:
            mapping["smoothing"] = Smoothing(**mapping["smoothing"])
        return cls(**values | {"mapping": KeyMapping(**mapping)})


def se3_exp(xi: Tensor) -> Tensor:
    """Rigid motion (..., 4, 4) of a constant twist (..., 6): translation in units, then rotation in radians.

    With w the rotation, W = [w]x and t = |w|: R = 1 + a W + b W^2 and V = 1 + b W + c W^2, where a = sin t / t,
    b = (1 - cos t) / t^2, c = (t - sin t) / t^3; the motion is [R, V v; 0, 1].
    """
    v, w = xi[..., :3], xi[..., 3:]
    square = (w * w).sum(-1)
    angle = square.sqrt()
    a = torch.sinc(angle / math.pi)
    b = torch.sinc(angle / (2 * math.pi)) ** 2 / 2  # as 1 - cos t = 2 sin^2 (t / 2)
    small = angle < 1e-2  # there t - sin t cancels, and three terms of its series are exact to 1e-18
    series = 1 / 6 - square / 120 + square**2 / 5040
    c = torch.where(small, series, (1 - a) / torch.where(small, torch.ones_like(square), square))
    zero, (x, y, z) = torch.zeros_like(angle), w.unbind(-1)
    one = torch.eye(4, dtype=w.dtype, device=w.device)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    squared = w[..., :, None] * w[..., None, :] - square[..., None, None] * one[:3, :3]  # W^2
    a, b, c = a[..., None, None], b[..., None, None], c[..., None, None]
    motion = one.repeat(*w.shape[:-1], 1, 1)
    motion[..., :3, :3] += a * cross + b * squared
    motion[..., :3, 3] = v + ((b * cross + c * squared) * v[..., None, :]).sum(-1)
    return motion


def _numbers(actions: Any, names: tuple[str, ...]) -> np.ndarray:
    """Actions as float64 (..., len(names)), or a ValueError."""
    try:
        values = np.asarray(actions, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"got an action of type {type(actions).__name__}, expected {len(names)} numbers") from error
    if values.ndim < 1 or values.shape[-1] != len(names):
        raise ValueError(f"got actions of shape {values.shape}, expected (..., {len(names)}): {', '.join(names)}")
    return values


def _as_actions(actions: np.ndarray | Tensor, lanes: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Actions of as many lanes as there are cameras, float64 on their device."""
    actions = torch.as_tensor(actions, dtype=torch.float64, device=device)
    if actions.shape != (lanes, *shape):
        raise ValueError(f"got actions of shape {tuple(actions.shape)}, expected {(lanes, *shape)}: one per lane")
    return actions


def _check_frames(frames: int) -> None:
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise ValueError(f"got frames={frames!r}, expected the number of raw frames per step, such as {FRAMES}")


def _of_kind(values: dict[str, Any], kind: str) -> dict[str, Any]:
    """The values without their kind."""
    values = dict(values)
    if (found := values.pop("kind", None)) != kind:
        raise ValueError(f"got actions of kind {found!r}, expected {kind!r}")
    return values
