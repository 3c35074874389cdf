"""Camera paths written as text (spec section 10).

``"w-100,dw-60,none-8"`` holds w for 100 frames, then d and w for 60, then nothing for 8. Keys are w a s d i j k l.
Two meanings of the keys have been published, so a path is only defined together with a :class:`KeyMapping`.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

KEYS = "wasdijkl"


@dataclass(frozen=True)
class Smoothing:
    """Velocities follow the keys with a lag.

    In the frame in which a key goes down, every velocity jumps to its target, also those of keys let go of. Otherwise
    each one approaches its target exponentially, frame by frame.

    Attributes:
        press: time constant in seconds while the target is a motion.
        coast: time constant in seconds while the target is rest.
        frame: duration of a frame in seconds.
    """

    press: float
    coast: float
    frame: float = 1 / 16


@dataclass(frozen=True)
class KeyMapping:
    """What the keys do. ``dataclasses.replace`` makes one with other speeds.

    Attributes:
        forward, right, yaw, pitch: two keys each: the one that moves forward, to the right, turns right or looks up,
            then its opposite. Held together they cancel.
        translation_speed: model units per frame, in the horizontal plane whatever the pitch.
        rotation_speed: degrees per frame.
        pitch_limit: degrees up and down, below 90.
        saturate: a step past the pitch limit ends at the limit; otherwise that step is not taken.
        smoothing: None for velocities that are at once what the keys say.
    """

    forward: str
    right: str
    yaw: str
    pitch: str
    translation_speed: float
    rotation_speed: float
    pitch_limit: float
    saturate: bool
    smoothing: Smoothing | None = None

    def __post_init__(self):
        pairs = (self.forward, self.right, self.yaw, self.pitch)
        if any(len(pair) != 2 for pair in pairs) or sorted("".join(pairs)) != sorted(KEYS):
            raise ValueError(
                f"got the key pairs {', '.join(pairs)}, expected two keys each and every key of {KEYS} once"
            )
        if not 0 < self.pitch_limit < 90:
            raise ValueError(f"got a pitch limit of {self.pitch_limit:g} degrees, expected more than 0, less than 90")


# a and d turn: NVlabs/Sana as of 2026. a and d step sideways: its first release, and diffusers 0.42.
KEY_MAPPINGS = {
    "ad-turn": KeyMapping(
        forward="ws",
        right="lj",
        yaw="da",
        pitch="ik",
        translation_speed=0.025,
        rotation_speed=0.6,
        pitch_limit=60.0,
        saturate=True,
        smoothing=Smoothing(press=0.45, coast=1.0),
    ),
    "ad-strafe": KeyMapping(
        forward="ws",
        right="da",
        yaw="lj",
        pitch="ik",
        translation_speed=0.05,
        rotation_speed=1.2,
        pitch_limit=85.0,
        saturate=False,
    ),
}


def key_mapping(mapping: str | KeyMapping) -> KeyMapping:
    """A mapping from its name in ``KEY_MAPPINGS``, or from itself.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(mapping, KeyMapping):
        return mapping
    if mapping not in KEY_MAPPINGS:
        names = ", ".join(KEY_MAPPINGS)
        raise ValueError(f"got the key mapping {mapping!r}, expected a KeyMapping or one of {names}")
    return KEY_MAPPINGS[mapping]


def action_path(actions: str | Sequence[Iterable[str]], mapping: str | KeyMapping) -> np.ndarray:
    """Poses of a camera that starts at the identity and follows the keys.

    >>> action_path("w-100,dw-60", "ad-turn").shape
    (161, 4, 4)

    Args:
        actions: an action string, or the keys held in each of N frames (``["w", "dw", ""]``).
        mapping: a name out of ``KEY_MAPPINGS``, or a mapping. There is no default: the same keys mean another path.
    Returns: camera-to-world (N + 1, 4, 4) float32, x right, y down, z forward; action k leads from pose k to k + 1.
    Raises:
        ValueError: a malformed action string (the message points at the segment), an unknown key or mapping.
    """
    mapping = key_mapping(mapping)
    frames = parse_actions(actions) if isinstance(actions, str) else _held(actions)
    held = torch.tensor([[key in keys for key in KEYS] for keys in frames], dtype=torch.float64)
    camera = standing_camera(1)
    poses, _ = move_camera(camera, held.reshape(1, len(frames), len(KEYS)), mapping)
    return torch.cat([camera["pose"], poses[0]]).numpy().astype(np.float32)


def standing_camera(lanes: int, device: Any = None) -> dict[str, Tensor]:
    """Cameras at the identity, at rest, no key held: the state that :func:`move_camera` takes.

    Returns: float64, the lane axis first: pose (B, 4, 4) camera-to-world; velocity (B, 4) per frame, forward and right
        in model units, yaw and pitch in radians; held (B, 8), 1 where a key of ``KEYS`` is down; yaw (B,) and pitch
        (B,) in radians, to the right and up.
    """
    shapes = {"velocity": (4,), "held": (len(KEYS),), "yaw": (), "pitch": ()}
    pose = torch.eye(4, dtype=torch.float64, device=device).repeat(lanes, 1, 1)
    zeros = {name: torch.zeros(lanes, *shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
    return {"pose": pose} | zeros


def move_camera(camera: dict[str, Tensor], held: Tensor, mapping: KeyMapping) -> tuple[Tensor, dict[str, Tensor]]:
    """F frames of cameras that follow their keys; a path cut in two goes on exactly as in one piece.

    Args:
        camera: as :func:`standing_camera` or this function leaves it. held: (B, F, 8) float64, 1 where a key of
            ``KEYS`` is down during a frame.
    Returns: camera-to-world (B, F, 4, 4) float64 after each frame, the cameras after the last one.
    """
    velocities = _velocities(camera, held, mapping)
    pitch = _limited(camera["pitch"], velocities[..., 3], mapping)
    yaw = _summed(camera["yaw"], velocities[..., 2])
    sin_yaw, cos_yaw, sin_pitch, cos_pitch = yaw.sin(), yaw.cos(), pitch.sin(), pitch.cos()
    forward, right = velocities[..., 0], velocities[..., 1]
    x = _summed(camera["pose"][:, 0, 3], forward * sin_yaw + right * cos_yaw)
    z = _summed(camera["pose"][:, 2, 3], forward * cos_yaw - right * sin_yaw)

    # A step R' = Ry(yaw) R Rx(pitch) from the identity on leaves R = Ry(sum of yaws) Rx(sum of pitches).
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    rows = (
        (cos_yaw, sin_yaw * sin_pitch, sin_yaw * cos_pitch, x),
        (zero, cos_pitch, -sin_pitch, zero),
        (-sin_yaw, cos_yaw * sin_pitch, cos_yaw * cos_pitch, z),
        (zero, zero, zero, one),
    )
    poses = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    paths = {"pose": poses, "velocity": velocities, "held": held, "yaw": yaw, "pitch": pitch}
    return poses, {name: path[:, -1] if held.shape[1] else camera[name] for name, path in paths.items()}


def parse_actions(text: str) -> tuple[frozenset[str], ...]:
    """The keys held in each frame of an action string.

    Segments ``<keys>-<frames>`` are separated by commas; ``none`` holds no key. Case and white space do not matter.

    Raises:
        ValueError: naming the segment, with a caret under it.
    """
    if not text.strip():
        raise ValueError("got an empty action string, expected segments like 'w-100,dw-60'")
    held, start = [], 0
    for number, written in enumerate(re.split("[,，]", text), 1):
        segment = "".join(written.split()).lower()
        keys, dash, frames = segment.rpartition("-")
        unknown = "".join(key for key in dict.fromkeys(keys) if key not in KEYS)
        problem = None
        if not dash:
            problem = "expected <keys>-<frames>, such as dw-60"
        elif not (frames.isascii() and frames.isdecimal() and int(frames) > 0):
            problem = f"got {frames!r} as the number of frames, expected a whole number from 1 up"
        elif not keys:
            problem = "got no keys, expected some of w a s d i j k l, or none"
        elif keys != "none" and unknown:
            problem = f"got unknown keys {unknown!r}, expected some of w a s d i j k l, or none"
        if problem:
            where = _pointer(text, start, written)
            raise ValueError(f"action string, segment {number} {segment!r}: {problem}\n{where}")
        held += [frozenset() if keys == "none" else frozenset(keys)] * int(frames)
        start += len(written) + 1
    return tuple(held)


def _pointer(text: str, start: int, written: str) -> str:
    """The text on one line, and carets under the segment ``written`` that begins at ``start``."""
    line = re.sub(r"\s", " ", text).replace("，", ",")  # one column per character
    indent = start + len(written) - len(written.lstrip())
    return f"  {line}\n  {' ' * indent}{'^' * max(1, len(written.strip()))}"


def _held(frames: Sequence[Iterable[str]]) -> tuple[frozenset[str], ...]:
    held = tuple(frozenset(keys) for keys in frames)
    for frame, keys in enumerate(held):
        if not keys <= set(KEYS):
            unknown = ", ".join(sorted(keys - set(KEYS)))
            raise ValueError(f"frame {frame}: got unknown keys {unknown}, expected some of {' '.join(KEYS)}")
    return held


def _velocities(camera: dict[str, Tensor], held: Tensor, mapping: KeyMapping) -> Tensor:
    """(B, F, 4): forward and right in units per frame, yaw and pitch in radians per frame."""
    pairs = (mapping.forward, mapping.right, mapping.yaw, mapping.pitch)
    signs = held.new_tensor([[(key == plus) - (key == minus) for plus, minus in pairs] for key in KEYS])
    turn = math.radians(mapping.rotation_speed)
    targets = held @ signs * held.new_tensor([mapping.translation_speed, mapping.translation_speed, turn, turn])
    if mapping.smoothing is None:
        return targets
    lag = mapping.smoothing
    coast, press = (held.new_tensor(math.exp(-lag.frame / tau)) for tau in (lag.coast, lag.press))
    kept = torch.where(targets == 0, coast, press)
    velocity, before = camera["velocity"], camera["held"]
    velocities = torch.empty_like(targets)
    for frame in range(held.shape[1]):
        target, keys = targets[:, frame], held[:, frame]
        pressed = (keys > before).any(dim=1, keepdim=True)
        velocity = torch.where(pressed, target, target + kept[:, frame] * (velocity - target))
        velocities[:, frame], before = velocity, keys
    return velocities


def _limited(pitch: Tensor, steps: Tensor, mapping: KeyMapping) -> Tensor:
    """Pitch (B,) after each of the steps (B, F) in radians: (B, F)."""
    limit, path = steps.new_tensor(math.radians(mapping.pitch_limit)), torch.empty_like(steps)
    for frame in range(steps.shape[1]):
        wanted = pitch + steps[:, frame]
        stopped = torch.copysign(limit, steps[:, frame]) if mapping.saturate else pitch
        pitch = torch.where(wanted.abs() <= limit, wanted, stopped)
        path[:, frame] = pitch
    return path


def _summed(before: Tensor, steps: Tensor) -> Tensor:
    """A quantity (B,) after each of the steps (B, F); added one by one, so that where a path is cut does not matter."""
    return torch.cat([before[:, None], steps], dim=1).cumsum(dim=1)[:, 1:]
