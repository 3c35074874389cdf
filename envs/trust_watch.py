"""Which trust signals an environment asks its world for, and when it ends an episode over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

CALIBRATE = "calibrate it: python -m sana_wm.calibrate world=... dataset=..."


@dataclass(frozen=True)
class TrustWatch:
    """What is watched in every step.

    Attributes:
        names: the signals that infos tell; empty: none.
        limits: signal -> the value above which a step truncates the episode; empty: none does.
    """

    names: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, world: Any, obs: str, trust: Any = None, truncate_untrusted: Any = None) -> TrustWatch:
        """From an environment's arguments `trust` and `truncate_untrusted` (see `SanaWMEnv`).

        Raises:
            TypeError, ValueError: arguments that mean nothing, or ask for signals that the world cannot tell.
        """
        known = tuple(getattr(world, "signal_names", ()))
        # re-encoding is cheap beside decoding, and where nothing is decoded it costs several steps
        usual = tuple(name for name in known if name != "drift" or obs != "latents")
        if trust is None or isinstance(trust, bool):
            names = () if trust is False else usual
        elif isinstance(trust, Sequence) and not isinstance(trust, str) and all(isinstance(n, str) for n in trust):
            names = tuple(dict.fromkeys(trust))
        else:
            raise TypeError(f"got trust={trust!r}, expected True, False, None or a list of names of signals")
        limits = _limits(truncate_untrusted, names)
        asked = trust is not False and trust is not None
        if (asked or limits is not None) and not known:
            raise ValueError(
                f"got trust={trust!r} and truncate_untrusted={truncate_untrusted!r}, but this world has no trust data; "
                f"{CALIBRATE}"
            )
        if limits is not None and trust is False:
            raise ValueError(
                f"got truncate_untrusted={truncate_untrusted!r} with trust=False: nothing would be watched"
            )
        if limits == {}:
            raise ValueError(
                f"got truncate_untrusted={truncate_untrusted!r} with trust={trust!r}: nothing would be watched"
            )
        names = tuple(dict.fromkeys((*names, *(limits or {}))))
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"got signals {unknown}, expected some of {list(known)}")
        return cls(tuple(name for name in known if name in names), limits or {})

    @property
    def uncertainty(self) -> bool:
        """Whether the world has to predict its steps twice."""
        return "model_uncertainty" in self.names

    @property
    def drift(self) -> bool:
        """Whether frames are needed."""
        return "drift" in self.names

    def shown(self, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of what a world found of K lanes, what infos tell: the signals watched, and whether all are below 1."""
        if not self.names:
            return dict(found)  # a world with signals of its own
        signals = {name: found[name] for name in self.names if name in found}
        return signals | {"trusted": np.all([values <= 1 for values in signals.values()], axis=0)} if signals else {}

    def broken(self, found: Mapping[str, np.ndarray], count: int) -> list[str | None]:
        """For each of K lanes the signal that is the furthest above its limit, if one is."""
        if not self.limits:
            return [None] * count
        names = list(self.limits)
        # NaN is not to be trusted either
        excess = np.stack([np.nan_to_num(found[name] / self.limits[name], nan=np.inf) for name in names])
        worst = excess.argmax(0)
        return [names[i] if excess[i, lane] > 1 else None for lane, i in enumerate(worst)]


def _limits(truncate: Any, names: tuple[str, ...]) -> dict[str, float] | None:
    """None: no truncation."""
    if truncate is None or truncate is False:
        return None
    if truncate is True:
        return dict.fromkeys(names, 1.0)
    given = dict(truncate) if isinstance(truncate, Mapping) else dict.fromkeys(names, truncate)
    checked = given.values() if isinstance(truncate, Mapping) else [truncate]
    for limit in checked:
        if isinstance(limit, bool) or not isinstance(limit, Real):
            raise TypeError(
                f"got truncate_untrusted={truncate!r}, expected True, a number, or a dict of signal -> number"
            )
        if not 0 < limit < float("inf"):
            raise ValueError(
                f"got truncate_untrusted={truncate!r}, expected positive numbers: 1 is the calibrated limit"
            )
    if isinstance(truncate, Mapping) and not given:
        raise ValueError("got truncate_untrusted={}, expected at least one signal, or None")
    return {name: float(limit) for name, limit in given.items()}
