"""What a lane of a peer remembers: a window of the last K things it saw, and the actions between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowState:
    """B lanes; an immutable value, `sana_wm.agents.protocols.State`.

    Attributes:
        past: (B, K, ...) the last K frames (uint8) or latents, oldest first.
        actions: (B, K - 1, A) normalised, number k leads from `past[:, k]` to `past[:, k + 1]`.
        seeds: (B,) int64. frame: (B,) int64, how many steps a lane has taken.
    """

    past: Tensor
    actions: Tensor
    seeds: Tensor
    frame: Tensor

    @property
    def num_lanes(self) -> int:
        return len(self.seeds)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.past, self.actions, self.seeds, self.frame))

    def _map(self, fn: Callable[[Tensor], Tensor]) -> WindowState:
        return WindowState(fn(self.past), fn(self.actions), fn(self.seeds), fn(self.frame))

    def repeat(self, n: int) -> WindowState:
        """Each lane ``n`` times, its copies side by side."""
        return self._map(lambda tensor: tensor.repeat_interleave(n, dim=0))

    def select(self, lanes: Sequence[int] | Tensor) -> WindowState:
        """The lanes at these indices, in this order."""
        index = torch.as_tensor(lanes, dtype=torch.int64, device=self.seeds.device)
        return self._map(lambda tensor: tensor.index_select(0, index))

    def advance(self, new: Tensor, action: Tensor) -> WindowState:
        """The window moved on by one: ``new`` (B, ...) comes in by ``action`` (B, A), the oldest goes."""
        past = torch.cat([self.past[:, 1:], new[:, None]], dim=1)
        actions = torch.cat([self.actions, action[:, None]], dim=1)[:, 1:]
        return WindowState(past, actions, self.seeds, self.frame + 1)


def filled_window(seen: Tensor, actions: Tensor, seeds: Tensor, length: int) -> WindowState:
    """A window of ``length`` from what was seen (B, T, ...) and the T - 1 actions between.

    Shorter histories are filled up with the first thing seen, as if nothing had moved.
    """
    missing = max(0, length - seen.shape[1])
    seen = torch.cat([seen[:, :1].expand(-1, missing, *seen.shape[2:]), seen], dim=1)[:, -length:]
    still = actions.new_zeros(len(actions), missing, actions.shape[-1])
    actions = torch.cat([still, actions], dim=1)[:, max(0, still.shape[1] + actions.shape[1] - length + 1) :]
    return WindowState(seen, actions, seeds, torch.zeros_like(seeds))
