"""The streaming state of a transformer, as a value."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StreamState:
    """What a stream remembers. Its size does not depend on how many frames it has seen; nothing mutates it.

    Attributes:
        frame: (B,) int64, number of frames in every lane's memory.
        blocks: one dict of tensors per block, the lane axis first (recurrent memories, key/value windows, tails).
    """

    frame: Tensor
    blocks: tuple[dict[str, Tensor], ...]

    def map(self, fn: Callable[[Tensor], Tensor]) -> "StreamState":
        """Apply ``fn`` to every tensor."""
        return StreamState(fn(self.frame), tuple({k: fn(v) for k, v in block.items()} for block in self.blocks))

    @staticmethod
    def cat(states: list["StreamState"]) -> "StreamState":
        """Lanes of several states, one after the other."""
        blocks = tuple(
            {key: torch.cat([s.blocks[i][key] for s in states]) for key in states[0].blocks[i]}
            for i in range(len(states[0].blocks))
        )
        return StreamState(torch.cat([s.frame for s in states]), blocks)
