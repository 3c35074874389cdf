"""Seeds as users pass them."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_seed(seed: Any) -> int | None:
    """A seed that NumPy takes, or None.

    Raises:
        TypeError: something else than an integer. ValueError: a negative one.
    """
    if seed is None:
        return None
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer):
        raise TypeError(f"got seed={seed!r:.100} of type {type(seed).__name__}, expected an integer or None")
    if seed < 0:
        raise ValueError(f"got seed={seed}, expected 0 or more")
    return int(seed)


def lane_seeds(seed: Any, num_lanes: int) -> list[int | None]:
    """One seed per lane: s gives lane i s + i, a sequence gives each its own, None none.

    Raises:
        TypeError: neither an integer nor a sequence of them. ValueError: negative ones, or too many or few.
    """
    if isinstance(seed, list | tuple | np.ndarray):
        seeds = list(seed) if np.ndim(seed) else [seed]
        if np.ndim(seed) == 0 or len(seeds) != num_lanes:
            raise ValueError(f"got {len(seeds)} seeds, expected one for each of {num_lanes} lanes")
        return [check_seed(each) for each in seeds]
    first = check_seed(seed)
    return [None] * num_lanes if first is None else [first + lane for lane in range(num_lanes)]
