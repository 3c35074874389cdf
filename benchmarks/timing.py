"""Two functions timed in turns, so that whatever else runs on the machine meets both."""

import random
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple


class Comparison(NamedTuple):
    """Medians in milliseconds; the median of b / a over pairs of neighbouring runs, and where 90% of resamples lie."""

    a_ms: float
    b_ms: float
    ratio: float
    low: float
    high: float


def compare(
    a: Callable[[], object], b: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> Comparison:
    """Run a and b once unmeasured, then ``repeats`` times in turns, the one that goes first alternating.

    Args:
        clock: seconds; ``time.process_time`` leaves out the time in which other work had the processor.
    """
    a(), b()
    times = {a: [], b: []}
    for i in range(repeats):
        for run in (a, b) if i % 2 == 0 else (b, a):
            start = clock()
            run()
            times[run].append(1000 * (clock() - start))
    ratios = [there / here for here, there in zip(times[a], times[b], strict=True)]
    draw = random.Random(0)
    resampled = sorted(median(draw.choices(ratios, k=repeats)) for _ in range(1000))
    return Comparison(median(times[a]), median(times[b]), median(ratios), resampled[50], resampled[949])
