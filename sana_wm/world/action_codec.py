"""The action layout of a world: names, units, bounds, statistics."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ActionCodec:
    """What an action is, saved in the bundle so that nobody normalises it in a script.

    Attributes:
        names: one per column. unit: of the columns, for people.
        low, high: bounds in dataset units, float32 (A,), read-only.
        mean, std: of the training actions, per column; the network sees (action - mean) / std.
        per_latent: raw actions that one latent frame takes (1: a tokenizer per frame).
    """

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unit: str = ""
    per_latent: int = 1

    def __post_init__(self):
        for name in ("names", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("low", "high"):
            bound = np.array(getattr(self, name), np.float32)
            bound.setflags(write=False)
            object.__setattr__(self, name, bound)
        widths = {name: len(getattr(self, name)) for name in ("names", "low", "high", "mean", "std")}
        if len(set(widths.values())) != 1:
            raise ValueError(f"every action column needs a name, bounds and statistics: got {widths}")
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low {self.low} must lie below high {self.high} in every column")

    @classmethod
    def fit(
        cls, actions: np.ndarray, names: list[str] | None = None, low=None, high=None, unit: str = ""
    ) -> ActionCodec:
        """From training actions (N, A); bounds not given are the smallest and largest values seen."""
        width = actions.shape[1]
        low = actions.min(0) if low is None else np.broadcast_to(np.asarray(low, np.float64), (width,))
        high = actions.max(0) if high is None else np.broadcast_to(np.asarray(high, np.float64), (width,))
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        room = 1e-3 * np.maximum(1.0, np.abs(low))  # a column that never moved still needs a range
        high = np.where(high > low, high, low + room)
        std = actions.std(0, dtype=np.float64)
        return cls(
            tuple(names or (f"action_{i}" for i in range(width))),
            tuple(low.tolist()),
            tuple(high.tolist()),
            tuple(actions.mean(0, dtype=np.float64).tolist()),
            tuple(np.where(std > 1e-6, std, 1.0).tolist()),  # a constant column must not blow up what differs a little
            unit,
        )

    @property
    def width(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def action_space(self):
        """`gymnasium.spaces.Box` in dataset units."""
        from gymnasium import spaces

        return spaces.Box(self.low, self.high, dtype=np.float32)

    def check(self, actions: Any) -> np.ndarray:
        """Validate actions (..., A) in dataset units -> float32 array.

        Raises:
            ValueError: wrong width, not finite, or out of bounds.
        """
        try:
            values = np.asarray(actions, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"got an action of type {type(actions).__name__}, expected {self.width} numbers"
            ) from error
        if values.ndim < 1 or values.shape[-1] != self.width:
            raise ValueError(
                f"got actions of shape {values.shape}, expected (..., {self.width}): {', '.join(self.names)}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"got an action with NaN or infinity: {values[~np.isfinite(values).all(-1)][0].tolist()}")
        low, high = self.low, self.high
        bad = (values < low) | (values > high)
        if bad.any():
            column = int(np.argwhere(bad)[0][-1])
            value = float(values[bad][0])
            raise ValueError(
                f"action {self.names[column]} is {value:g}, allowed are {low[column]:g} to {high[column]:g}: "
                "clip it to the action space"
            )
        return values

    def normalise(self, actions: Tensor) -> Tensor:
        """Dataset units -> what the network sees."""
        mean, std = actions.new_tensor(self.mean), actions.new_tensor(self.std)
        return (actions - mean) / std

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionCodec) and self.to_dict() == other.to_dict()

    def to_dict(self) -> dict:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()} | {
            "low": self.low.tolist(),
            "high": self.high.tolist(),
        }

    @classmethod
    def from_dict(cls, values: dict) -> ActionCodec:
        return cls(**values)


def as_action_tensor(actions: Any, device: torch.device) -> Tensor:
    """numpy or tensor -> float32 tensor on the device."""
    return torch.as_tensor(actions, dtype=torch.float32, device=device)
