"""Actions as users pass them -> the dataset units that worlds take; the action space that says which those are."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces

UNITS = ("dataset", "normalized")


class ActionReader:
    """What an action is to the user of an environment.

    Args:
        codec: of the world; its `action_space` is in dataset units.
        units: "dataset", or "normalized": [-1, 1] per column, mapped linearly onto the dataset range.
        action_set: (n, *action shape) in `units`, actions to choose from: the space becomes `Discrete(n)`.

    Raises:
        ValueError: other units, units that the world's actions do not have, or a set that is no array of its actions.
    """

    def __init__(self, codec: Any, units: str = "dataset", action_set: Any = None):
        if units not in UNITS:
            raise ValueError(f"got action_units={units!r}, expected one of {UNITS}")
        self.codec, self.units = codec, units
        self._box = codec.action_space
        if units == "normalized" and not isinstance(self._box, spaces.Box):
            raise ValueError(
                f'got action_units="normalized" for a world whose actions are {self._box}: a key is held or it is not; '
                f'leave action_units out, or take actions that have a range (actions="delta" for a SANA-WM release)'
            )
        self.table: np.ndarray | None = None
        if action_set is not None:
            try:
                count = len(action_set)
                self.table = self.read(action_set, (count,))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"action_set: {error}; pass an array (n, {', '.join(map(str, self._box.shape))})"
                ) from error
            if not count:
                raise ValueError("got an empty action_set, expected at least one action")

    @property
    def space(self) -> spaces.Space:
        """Of one lane; a new one, since each environment samples from its own generator."""
        if self.table is not None:
            return spaces.Discrete(len(self.table))
        if self.units == "normalized":
            return spaces.Box(-1.0, 1.0, self._box.shape, np.float32)
        return deepcopy(self._box)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action as the user passes it; () for a choice out of a set."""
        return self._box.shape if self.table is None else ()

    def read(self, actions: Any, lead: tuple[int, ...], lanes: np.ndarray | None = None) -> np.ndarray:
        """Actions (*lead, *shape) in the user's units -> float32 (K, ..., *action shape) in dataset units.

        Args:
            lanes: mask over the first axis of `lead`; what the other lanes were told is ignored. None: all.

        Raises:
            ValueError: another shape, no numbers, not finite, or out of bounds.
        """
        values = self._numbers(actions)
        if values.shape != (*lead, *self.shape):
            skip = bool(lead) and lead[0] == 1  # a single environment does not know of lanes
            got, expected = values.shape[skip:], (*lead, *self.shape)[skip:]
            raise ValueError(f"got an action of shape {got}, expected {expected}: {self._meaning()}")
        if lanes is not None:
            values = values[lanes]
        return self._vectors(values) if self.table is None else self._chosen(values)

    def _numbers(self, actions: Any) -> np.ndarray:
        try:
            values = np.asarray(actions)
        except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on another device
            raise ValueError(
                f"got an action that is no array of numbers ({error}), expected {self._meaning()}"
            ) from error
        kinds = "biuf" if self.table is None else "iu"
        if values.dtype.kind not in kinds:
            number = "no array of numbers" if self.table is None else "no integer"
            raise ValueError(f"got an action that is {number} but of {values.dtype}, expected {self._meaning()}")
        return values

    def _vectors(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # infinity is found below
            values = values.astype(np.float32)
        if self.units == "normalized":
            outside = ~(np.abs(values) <= 1)  # also true for NaN
            if outside.any():
                column = self.codec.names[np.argwhere(outside)[0][-1]]
                raise ValueError(f"got {column}={values[outside][0]}, expected a normalized action in [-1, 1]")
            low, high = self._box.low, self._box.high
            values = np.clip(low + (values + 1) / 2 * (high - low), low, high).astype(np.float32)
        self.codec.check(values)
        return values

    def _chosen(self, values: np.ndarray) -> np.ndarray:
        outside = (values < 0) | (values >= len(self.table))
        if outside.any():
            raise ValueError(f"got action {values[outside][0]}, expected {self._meaning()}")
        return self.table[values]

    def _meaning(self) -> str:
        if self.table is not None:
            return f"0 to {len(self.table) - 1}, an index into the action set"
        return ", ".join(self.codec.names)
