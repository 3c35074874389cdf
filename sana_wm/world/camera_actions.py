"""Camera paths written as text (spec section 10).

``"w-100,dw-60,none-8"`` holds w for 100 frames, then d and w for 60, then nothing for 8. Keys are w a s d i j k l.
Two meanings of the keys have been published, so a path is only defined together with a :class:`KeyMapping`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

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
    if not isinstance(mapping, KeyMapping):
        if mapping not in KEY_MAPPINGS:
            names = ", ".join(KEY_MAPPINGS)
            raise ValueError(f"got the key mapping {mapping!r}, expected a KeyMapping or one of {names}")
        mapping = KEY_MAPPINGS[mapping]
    held = parse_actions(actions) if isinstance(actions, str) else _held(actions)
    forward, right, yaw, pitch = _velocities(held, mapping).T
    yaw = np.cumsum(yaw)
    pitch = _limited(pitch, mapping)
    sin_yaw, cos_yaw, sin_pitch, cos_pitch = np.sin(yaw), np.cos(yaw), np.sin(pitch), np.cos(pitch)

    # A step R' = Ry(yaw) R Rx(pitch) from the identity on leaves R = Ry(sum of yaws) Rx(sum of pitches).
    c2w = np.tile(np.eye(4), (len(held) + 1, 1, 1))
    c2w[1:, 0, :3] = np.stack([cos_yaw, sin_yaw * sin_pitch, sin_yaw * cos_pitch], axis=-1)
    c2w[1:, 1, 1:3] = np.stack([cos_pitch, -sin_pitch], axis=-1)
    c2w[1:, 2, :3] = np.stack([-sin_yaw, cos_yaw * sin_pitch, cos_yaw * cos_pitch], axis=-1)
    c2w[1:, 0, 3] = np.cumsum(forward * sin_yaw + right * cos_yaw)
    c2w[1:, 2, 3] = np.cumsum(forward * cos_yaw - right * sin_yaw)
    return c2w.astype(np.float32)


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


def _velocities(held: tuple[frozenset[str], ...], mapping: KeyMapping) -> np.ndarray:
    """(N, 4): forward and right in units per frame, yaw and pitch in radians per frame."""
    pairs = (mapping.forward, mapping.right, mapping.yaw, mapping.pitch)
    signs = [[(plus in keys) - (minus in keys) for plus, minus in pairs] for keys in held]
    turn = np.radians(mapping.rotation_speed)
    speeds = (mapping.translation_speed, mapping.translation_speed, turn, turn)
    targets = np.reshape(signs, (len(held), 4)) * np.array(speeds)
    if mapping.smoothing is None:
        return targets
    lag = mapping.smoothing
    velocities, velocity, before = np.zeros_like(targets), np.zeros(4), frozenset()
    for frame, (keys, target) in enumerate(zip(held, targets, strict=True)):
        if keys - before:
            velocity = target
        else:
            tau = np.where(target == 0, lag.coast, lag.press)
            velocity = target + np.exp(-lag.frame / tau) * (velocity - target)
        velocities[frame], before = velocity, keys
    return velocities


def _limited(steps: np.ndarray, mapping: KeyMapping) -> np.ndarray:
    """Pitch after each step, (N,) radians."""
    limit, pitch, path = np.radians(mapping.pitch_limit), 0.0, np.zeros_like(steps)
    for frame, step in enumerate(steps):
        if abs(pitch + step) <= limit:
            pitch += step
        elif mapping.saturate:
            pitch = np.copysign(limit, step)
        path[frame] = pitch
    return path
