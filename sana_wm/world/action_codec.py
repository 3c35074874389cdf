"""The action layout of a world: names, units, bounds, statistics, and how the network is given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sana_wm.world import robot_layout


@dataclass(frozen=True, eq=False)
class ActionCodec:
    """What an action is, saved in the bundle so that nobody normalises it in a script.

    Attributes:
        names: one per column. unit: of the columns, for people.
        low, high: bounds in dataset units, float32 (A,), read-only.
        mean, std: of the training actions, per column; the network sees (action - mean) / std.
        per_latent: raw actions that one latent frame takes (1: a tokenizer per frame). A step of the world is then so
            many rows of A numbers, in the order in which they act.
        layout: "" or "unified_robot80": the network sees the columns among the 80 dimensions of
            :mod:`sana_wm.world.robot_layout`. dims: the dimension of every column there.
    """

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unit: str = ""
    per_latent: int = 1
    layout: str = ""
    dims: tuple[int, ...] = ()

    def __post_init__(self):
        for name in ("names", "mean", "std", "dims"):
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
        if isinstance(self.per_latent, bool) or not isinstance(self.per_latent, int) or self.per_latent < 1:
            raise ValueError(
                f"per_latent={self.per_latent!r}: expected how many actions a latent frame takes, such as 8"
            )
        if self.layout not in ("", robot_layout.UNIFIED):
            raise ValueError(f"layout={self.layout!r}: expected '' or {robot_layout.UNIFIED!r}")
        known = all(0 <= dim < robot_layout.WIDTH for dim in self.dims)
        if len(set(self.dims)) != (len(self.names) if self.layout else 0) or not known:
            raise ValueError(
                f"layout {self.layout!r} has no place of its own for every column of {self.names}: {self.dims}"
            )

    @classmethod
    def fit(
        cls, actions: np.ndarray, names: list[str] | None = None, low=None, high=None, unit: str = "",
        per_latent: int = 1,
    ) -> ActionCodec:  # fmt: skip
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
            per_latent,
        )

    @classmethod
    def unified_robot80(
        cls,
        actions: np.ndarray,
        names: Sequence[str],
        mapping: Mapping[str, str | int] | None = None,
        profile: str | None = None,
        **settings: Any,
    ) -> ActionCodec:
        """From training actions (N, A) of a robot, whose columns are placed among the unified 80 dimensions.

        The network is given 80 numbers per action, the normalised value times the mask, and the mask itself once per
        step, as it is the same for all actions of a robot: (per_latent + 1) 80 numbers, whatever the robot. A masked
        dimension is 0, which is also a robot's mean: only with the mask can the two be told apart.

        Args:
            names, mapping, profile: of :func:`sana_wm.world.robot_layout.place_columns`.
            settings: of :meth:`fit`.

        Raises:
            ValueError: columns that have no place there, or the same one.
        """
        dims = robot_layout.place_columns(names, mapping, profile)
        return replace(cls.fit(actions, list(names), **settings), layout=robot_layout.UNIFIED, dims=dims)

    @property
    def width(self) -> int:
        """Columns of one raw action."""
        return len(self.names)

    @property
    def network_width(self) -> int:
        """Numbers that the network is given per latent frame."""
        if self.layout:
            return (self.per_latent + 1) * robot_layout.WIDTH
        return self.per_latent * self.width

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one step's action: (A,), or (per_latent, A) where a latent takes several."""
        return (self.width,) if self.per_latent == 1 else (self.per_latent, self.width)

    @property
    def action_space(self):
        """`gymnasium.spaces.Box` of ``shape`` in dataset units."""
        from gymnasium import spaces

        low, high = (np.broadcast_to(bound, self.shape).copy() for bound in (self.low, self.high))
        return spaces.Box(low, high, dtype=np.float32)

    def check(self, actions: Any) -> np.ndarray:
        """Validate actions (..., *shape) in dataset units -> float32 array.

        Raises:
            ValueError: wrong shape, not finite, or out of bounds.
        """
        try:
            values = np.asarray(actions, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"got an action of type {type(actions).__name__}, expected {self.width} numbers"
            ) from error
        if values.shape[-len(self.shape) :] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(
                f"got actions of shape {values.shape}, expected (..., {expected}): {', '.join(self.names)}"
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
        """Actions (..., *shape) in dataset units -> what the network sees of a step (..., network_width)."""
        mean, std = actions.new_tensor(self.mean), actions.new_tensor(self.std)
        values = (actions - mean) / std
        if self.layout:
            mask = torch.from_numpy(robot_layout.visible(self.dims)).to(values)
            spread = values.new_zeros(*values.shape[:-1], robot_layout.WIDTH)
            spread[..., list(self.dims)] = values
            values = spread * mask
        if self.per_latent > 1:
            values = values.flatten(-2)
        return torch.cat([values, mask.expand(*values.shape[:-1], -1)], dim=-1) if self.layout else values

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
