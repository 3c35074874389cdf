"""The state of an environment as a value: what `get_state` returns and `set_state` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

if TYPE_CHECKING:
    from sana_wm.world import WorldState


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
        for name in ("elapsed", "ended"):
            array = np.array(getattr(self, name))
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

    @staticmethod
    def cat(states: Sequence[EnvState]) -> EnvState:
        """The lanes of all states, one after the other."""
        return EnvState(
            type(states[0].world).cat([state.world for state in states]),
            np.concatenate([state.elapsed for state in states]),
            np.concatenate([state.ended for state in states]),
        )

    def to_bytes(self) -> bytes:
        """One safetensors blob; `from_bytes` reads it back on any machine."""
        world = np.frombuffer(self.world.to_bytes(), np.uint8)
        return save({"world": world, "elapsed": self.elapsed, "ended": self.ended})

    @classmethod
    def from_bytes(cls, data: bytes) -> EnvState:
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: `data` is something else.
        """
        from sana_wm.world import WorldState  # loads torch

        try:
            parts = load(bytes(data))
        except SafetensorError as error:
            raise ValueError(
                f"got {len(data)} bytes that are no EnvState ({error}); pass what to_bytes() gave"
            ) from error
        if parts.keys() != {"world", "elapsed", "ended"}:
            raise ValueError(f"got bytes that hold {sorted(parts)}, expected an EnvState; pass what to_bytes() gave")
        return cls(WorldState.from_bytes(parts["world"].tobytes()), parts["elapsed"], parts["ended"])

    @classmethod
    def of(cls, state: EnvState | WorldState | bytes) -> EnvState:
        """Whatever the environments accept as a state: an `EnvState`, its bytes, or a `WorldState` (an episode begins).

        Raises:
            TypeError: `state` is none of these.
            ValueError: bytes that are no `EnvState`.
        """
        if isinstance(state, EnvState):
            return state
        if isinstance(state, bytes | bytearray | memoryview):
            return cls.from_bytes(bytes(state))
        if hasattr(state, "num_lanes") and hasattr(state, "latent"):
            return cls.at_start(state)
        raise TypeError(
            f"got a state of type {type(state).__name__}, expected an EnvState (from get_state()), its "
            f"to_bytes(), or a WorldState"
        )
