"""Context frames and actions to reset a world from, so that it lives without its dataset."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Starts:
    """frames: (N, T, H, W, 3) uint8; actions: (N, T - 1, *codec.shape) float32 in dataset units, k leads to k + 1."""

    frames: np.ndarray
    actions: np.ndarray

    def __post_init__(self):
        frames, actions = self.frames.shape, self.actions.shape
        if len(frames) != 5 or len(actions) < 3 or frames[0] != actions[0] or frames[1] - 1 != actions[1]:
            raise ValueError(
                f"starts: frames {frames} and actions {actions}, expected (N, T, H, W, 3) and (N, T - 1, ..., A)"
            )

    def __len__(self) -> int:
        return len(self.frames)
