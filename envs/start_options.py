"""Where an episode begins: the `options` of `reset`, checked before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.envs.env_state import EnvState

if TYPE_CHECKING:
    from sana_wm.world import WorldModel, WorldState

KEYS = ("start", "state", "frames", "actions")


@dataclass(frozen=True)
class StartOptions:
    """At most one of: an index into the world's starts, a state, or context frames (with the actions between them).

    Attributes:
        start: int64 (B,), index into `world.starts` for each lane.
        state: B lanes to begin in; their noise seeds are kept, so that equal actions give equal futures.
        frames: uint8 (B, T, H, W, 3), context frames.
        actions: float32 (B, T-1, A) in dataset units; actions[:, k] leads from frame k to k+1.
    """

    start: np.ndarray | None = None
    state: WorldState | None = None
    frames: np.ndarray | None = None
    actions: np.ndarray | None = None

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None, world: WorldModel, num_lanes: int) -> StartOptions:
        """Reads the options of `reset`; a value for one lane serves all of them.

        Raises:
            ValueError: unknown or contradicting options, or a value that does not fit the world.
            TypeError: options that are no mapping, or a value of the wrong kind.
        """
        if options is None:
            return cls()
        if not isinstance(options, Mapping):
            raise TypeError(f"got options of type {type(options).__name__}, expected a dict with keys among {KEYS}")
        unknown = sorted(str(key) for key in options if key not in KEYS)
        if unknown:
            raise ValueError(f"got the unknown reset options {unknown}, expected keys among {KEYS}")
        given = [key for key in ("start", "state", "frames") if options.get(key) is not None]
        if len(given) > 1:
            raise ValueError(f"got the reset options {given} together, expected one of them: each says where to begin")
        if options.get("actions") is not None and given != ["frames"]:
            raise ValueError(
                "got the reset option 'actions' without 'frames'; pass both, actions[k] leads from "
                "frames[k] to frames[k + 1]"
            )
        if given == ["start"]:
            return cls(start=_start(options["start"], len(world.starts), num_lanes))
        if given == ["state"]:
            return cls(state=world.adopt(_state(options["state"], num_lanes)))
        if given == ["frames"]:
            frames = _frames(options["frames"], world, num_lanes)
            return cls(frames=frames, actions=_actions(options.get("actions"), world, frames))
        return cls()

    def begin(self, world: WorldModel, lanes: np.ndarray, starts: np.ndarray, seeds: np.ndarray) -> WorldState:
        """The worlds of the lanes with index `lanes` (K,), from these options or else from the drawn `starts` (K,).

        `seeds` (K,) are the noise seeds of the new episodes.
        """
        if self.state is not None:
            return self.state.select(lanes.tolist())
        if self.frames is not None:
            actions = None if self.actions is None else self.actions[lanes]
            return world.begin(self.frames[lanes], actions, seeds=seeds)
        index = starts if self.start is None else self.start[lanes]
        return world.begin(np.asarray(world.starts.frames[index]), np.asarray(world.starts.actions[index]), seeds=seeds)


def _start(start: Any, num_starts: int, num_lanes: int) -> np.ndarray:
    index = np.asarray(start)
    if index.dtype.kind not in "iu" or index.shape not in ((), (num_lanes,)):
        raise TypeError(f"got start={start!r}, expected an integer" + (f" or {num_lanes} of them" * (num_lanes > 1)))
    if (index < 0).any() or (index >= num_starts).any():
        raise ValueError(f"got start={start!r}, this world has the starts 0 to {num_starts - 1}")
    return np.broadcast_to(index, (num_lanes,))


def _state(state: Any, num_lanes: int) -> WorldState:
    state = EnvState.of(state)
    if state.num_lanes == 1:
        return state.world.repeat(num_lanes)
    if state.num_lanes != num_lanes:
        raise ValueError(
            f"got a state of {state.num_lanes} lanes, expected 1 or {num_lanes}; cut it with state.select(lanes)"
        )
    return state.world


def _frames(frames: Any, world: WorldModel, num_lanes: int) -> np.ndarray:
    frames = np.asarray(frames)
    image, context = (*world.config.resolution, 3), world.config.context
    if frames.dtype != np.uint8:
        raise TypeError(f"got frames of dtype {frames.dtype}, expected uint8 in 0..255")
    if frames.ndim == 4:
        frames = np.broadcast_to(frames, (num_lanes, *frames.shape))
    if frames.ndim != 5 or frames.shape[0] != num_lanes or frames.shape[2:] != image or frames.shape[1] < context:
        raise ValueError(
            f"got frames of shape {frames.shape}, expected (T, {', '.join(map(str, image))}) or {num_lanes} "
            f"lanes of it, T at least {context}"
        )
    return frames


def _actions(actions: Any, world: WorldModel, frames: np.ndarray) -> np.ndarray | None:
    num_lanes, length, width = len(frames), frames.shape[1] - 1, len(world.codec.names)
    if actions is None:
        if length:
            raise ValueError(
                f"got {length + 1} frames without the actions between them; pass actions of shape ({length}, {width})"
            )
        return None
    actions = np.asarray(actions, np.float32)
    if actions.ndim == 2:
        actions = np.broadcast_to(actions, (num_lanes, *actions.shape))
    if actions.shape != (num_lanes, length, width):
        raise ValueError(
            f"got actions of shape {actions.shape} with {length + 1} frames, expected ({length}, {width}) or "
            f"{num_lanes} lanes of it: {', '.join(world.codec.names)}"
        )
    world.codec.check(actions.reshape(-1, width))
    return actions
