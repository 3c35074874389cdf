"""The state of B lanes of a world, as an immutable value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sana_wm.nn.state import StreamState

FORMAT = "sana_wm.WorldState.1"


@dataclass(frozen=True)
class WorldState:
    """Everything a lane needs to go on: its memory, its current frame, its seed.

    Attributes:
        stream: memory of the transformer; its size does not depend on how many frames it has seen.
        latent: (B, C, h, w) the current frame. seeds: (B,) int64.
        carried: what else a world of this kind needs of a lane, the lane axis first: nothing, or for a video world its
            camera, its prompt and the tails of its decoder.
        origin: fingerprint of the world that made it (`sana_wm.world.fingerprint`); empty: unknown, fits any.
    """

    stream: StreamState
    latent: Tensor
    seeds: Tensor
    carried: dict[str, Tensor] = field(default_factory=dict)
    origin: str = ""

    @property
    def num_lanes(self) -> int:
        return len(self.seeds)

    @property
    def frame(self) -> Tensor:
        """(B,) int64: frames in each lane's memory."""
        return self.stream.frame

    def _map(self, fn) -> WorldState:
        carried = {name: fn(tensor) for name, tensor in self.carried.items()}
        return WorldState(self.stream.map(fn), fn(self.latent), fn(self.seeds), carried, self.origin)

    def select(self, lanes: Sequence[int] | Tensor) -> WorldState:
        """The lanes at these indices, in this order."""
        index = torch.as_tensor(lanes, dtype=torch.int64, device=self.seeds.device)
        return self._map(lambda tensor: tensor.index_select(0, index))

    def repeat(self, n: int) -> WorldState:
        """Each lane ``n`` times, its copies side by side."""
        return self._map(lambda tensor: tensor.repeat_interleave(n, dim=0))

    def to(self, device: torch.device | str) -> WorldState:
        return self._map(lambda tensor: tensor.to(device))

    @staticmethod
    def cat(states: Sequence[WorldState]) -> WorldState:
        """The lanes of several states, one after the other.

        Raises:
            ValueError: states of different worlds.
        """
        if len(origins := {state.origin for state in states}) > 1:
            raise ValueError(f"these states belong to {len(origins)} worlds; only those of one go side by side")
        if len({frozenset(state.carried) for state in states}) > 1:
            raise ValueError(
                "these states carry different things: some are watched, some are not; world.watch(state) watches, "
                "world.watch(state, on=False) does not"
            )
        return WorldState(
            StreamState.cat([state.stream for state in states]),
            torch.cat([state.latent for state in states]),
            torch.cat([state.seeds for state in states]),
            {name: torch.cat([state.carried[name] for state in states]) for name in states[0].carried},
            states[0].origin,
        )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"latent": self.latent, "seeds": self.seeds, "frame": self.stream.frame}
        for i, block in enumerate(self.stream.blocks):
            tensors |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
        return tensors | {f"carried.{name}": tensor for name, tensor in self.carried.items()}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def to_bytes(self) -> bytes:
        """safetensors; exact."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        # one entry: safetensors does not order them, and equal states shall have equal bytes
        return save(tensors, metadata={"format": f"{FORMAT} {self.origin}".rstrip()})

    @staticmethod
    def from_bytes(data: bytes) -> WorldState:
        """Inverse of :meth:`to_bytes`; tensors on the CPU.

        Raises:
            ValueError: the bytes are not a world state.
        """
        try:
            written = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
            version, _, origin = str(written.get("format")).partition(" ")
            if version != FORMAT:
                raise ValueError(f"format {version!r}, this version reads {FORMAT!r}")
            tensors = load(data)
            frame, latent, seeds = (tensors.pop(name) for name in ("frame", "latent", "seeds"))
            carried = {
                key.removeprefix("carried."): tensors.pop(key) for key in list(tensors) if key.startswith("carried.")
            }
            blocks: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                _, index, name = key.split(".", 2)
                blocks.setdefault(int(index), {})[name] = tensor
            ordered = tuple(blocks[i] for i in range(len(blocks)))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"these {len(data)} bytes are not a saved WorldState ({error}); use state.to_bytes()"
            ) from error
        state = WorldState(StreamState(frame, ordered), latent, seeds, carried, origin)
        lanes = {name: len(tensor) if tensor.ndim else None for name, tensor in state._tensors().items()}
        if len(set(lanes.values())) != 1:
            raise ValueError(f"these bytes are not a saved WorldState: its tensors disagree about the lanes, {lanes}")
        return state

    def __getstate__(self) -> bytes:
        return self.to_bytes()

    def __setstate__(self, data: bytes) -> None:
        other = WorldState.from_bytes(data)
        for name in ("stream", "latent", "seeds", "carried", "origin"):
            object.__setattr__(self, name, getattr(other, name))
