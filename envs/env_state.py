"""The state of an environment as a value: what `get_state` returns and `set_state` takes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

if TYPE_CHECKING:
    from sana_wm.world import WorldState

FORMAT = "sana_wm.EnvState.1"


@dataclass(frozen=True, eq=False)
class EnvState:
    """B lanes: the state of their worlds and where each stands in its episode.

    A value: nothing the environment does later changes it. It does not hold the random generator, which only decides
    where the *next* episode starts; the noise of the running one is fixed by the seeds inside `world`.

    Attributes:
        world: state of B worlds (`WorldState`).
        elapsed: int64 (B,), steps since the episode began.
        ended: bool (B,), whether the last step ended the episode.
    """

    world: WorldState
    elapsed: np.ndarray
    ended: np.ndarray

    def __post_init__(self):
        for name, dtype in (("elapsed", np.int64), ("ended", np.bool_)):
            array = np.array(getattr(self, name))
            if array.dtype != dtype or array.shape != (self.num_lanes,):
                raise ValueError(
                    f"got {name} of {array.dtype} and shape {array.shape}, expected {np.dtype(dtype)} of shape "
                    f"({self.num_lanes},): one per lane of the world"
                )
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def at_start(cls, world: WorldState) -> EnvState:
        """The state of lanes whose episode begins in `world`."""
        return cls(world, np.zeros(world.num_lanes, np.int64), np.zeros(world.num_lanes, bool))

    @property
    def num_lanes(self) -> int:
        return self.world.num_lanes

    @property
    def nbytes(self) -> int:
        return self.world.nbytes + self.elapsed.nbytes + self.ended.nbytes

    def select(self, lanes: Sequence[int]) -> EnvState:
        """The given lanes, in the given order; a lane may appear more than once."""
        lanes = [int(lane) for lane in lanes]
        return EnvState(self.world.select(lanes), self.elapsed[lanes], self.ended[lanes])

    def repeat(self, n: int) -> EnvState:
        """Each lane `n` times, copies of one lane side by side."""
        return EnvState(self.world.repeat(n), self.elapsed.repeat(n), self.ended.repeat(n))

    def replace(self, lanes: np.ndarray, states: EnvState) -> EnvState:
        """The same, but the lanes with index `lanes` (K,) are those of `states`."""
        if len(lanes) == self.num_lanes and (lanes == np.arange(len(lanes))).all():
            return states
        order = np.arange(self.num_lanes)
        order[lanes] = self.num_lanes + np.arange(len(lanes))
        return EnvState.cat([self, states]).select(order)

    @staticmethod
    def cat(states: Sequence[EnvState]) -> EnvState:
        """The lanes of all states, one after the other."""
        return EnvState(
            type(states[0].world).cat([state.world for state in states]),
            np.concatenate([state.elapsed for state in states]),
            np.concatenate([state.ended for state in states]),
        )

    def to_bytes(self) -> bytes:
        """One safetensors blob with a version and a checksum; `from_bytes` reads it back on any machine."""
        world = np.frombuffer(self.world.to_bytes(), np.uint8)
        parts = {"world": world, "elapsed": self.elapsed, "ended": self.ended}
        # one entry: safetensors does not order them, and equal states shall have equal bytes
        return save(parts, metadata={"format": f"{FORMAT} crc32={_checksum(parts)}"})

    @classmethod
    def from_bytes(cls, data: bytes) -> EnvState:
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: `data` is something else, of another version, cut short or damaged.
        """
        from sana_wm.world import WorldState  # loads torch

        data = bytes(data)
        try:
            parts, metadata = load(data), _metadata(data)
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"got {len(data)} bytes that are no EnvState ({error}); pass what to_bytes() gave"
            ) from error
        if parts.keys() != {"world", "elapsed", "ended"}:
            raise ValueError(f"got bytes that hold {sorted(parts)}, expected an EnvState; pass what to_bytes() gave")
        version, _, checksum = str(metadata.get("format")).partition(" crc32=")
        if version != FORMAT:
            raise ValueError(
                f"got an EnvState of format {version!r}, this version reads {FORMAT!r}; make it anew, or use the "
                f"version that made it"
            )
        if checksum != str(_checksum(parts)):
            raise ValueError(f"got {len(data)} bytes of an EnvState that is damaged: its checksum does not fit")
        return cls(WorldState.from_bytes(parts["world"].tobytes()), parts["elapsed"], parts["ended"])

    @classmethod
    def of(cls, state: EnvState | WorldState | bytes) -> EnvState:
        """Whatever the environments accept as a state: an `EnvState`, its bytes, or a `WorldState` (an episode begins).

        Raises:
            TypeError: `state` is none of these.
            ValueError: bytes that are no `EnvState`, or a state that is not finite.
        """
        if isinstance(state, bytes | bytearray | memoryview):
            state = cls.from_bytes(bytes(state))
        elif hasattr(state, "num_lanes") and hasattr(state, "latent"):
            state = cls.at_start(state)
        if isinstance(state, EnvState):
            if not state.world.latent.isfinite().all():
                raise ValueError("got a state whose latents have NaN or infinity, expected one that get_state() gave")
            return state
        raise TypeError(
            f"got a state of type {type(state).__name__}, expected an EnvState (from get_state()), its "
            f"to_bytes(), or a WorldState"
        )


def _checksum(parts: dict[str, np.ndarray]) -> int:
    sum_ = 0
    for name in sorted(parts):
        sum_ = zlib.crc32(np.ascontiguousarray(parts[name]).tobytes(), zlib.crc32(name.encode(), sum_))
    return sum_


def _metadata(data: bytes) -> dict[str, str]:
    """What a safetensors blob says of itself: eight bytes of length, then JSON."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
