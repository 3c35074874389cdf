"""95 % intervals for what is measured on a finite number of episodes."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson (1927) score interval of a success rate; stays inside [0, 1] and is honest near its ends.

    >>> low, high = wilson(0, 40)
    >>> round(low, 3), round(high, 3)
    (0.0, 0.088)
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"need 0 <= successes <= trials and trials >= 1, got {successes} of {trials}")
    rate, z2 = successes / trials, Z95**2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    # Exact at the ends, where rounding would leave 1e-17.
    return (middle - half if successes else 0.0), (middle + half if successes < trials else 1.0)


def mean_interval(values: np.ndarray) -> dict[str, float | int | None]:
    """Mean of independent values with a bootstrap interval, and their median and number.

    The interval stays among the values it is drawn from: a mean of errors is never said to be below zero. One value
    has no interval (None), and no values have no mean either.
    """
    values = np.asarray(values, np.float64)
    if len(values) == 0:
        return {"mean": None, "low": None, "high": None, "median": None, "count": 0}
    low = high = None
    if len(values) > 1:
        low, high = bootstrap(lambda weights: weights @ values / len(values), len(values))
    return {"mean": float(values.mean()), "low": low, "high": high, "median": float(np.median(values)),
            "count": len(values)}  # fmt: skip


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], count: int, draws: int = 1000) -> tuple:
    """The 2.5 % and 97.5 % quantiles of a statistic over resampled cases (Efron's percentile interval).

    Args:
        statistic: weights (draws, count), how often each of the `count` cases was drawn -> values (draws,); those that
            are not finite are left out.

    Returns:
        (low, high); (None, None) where fewer than half of the draws have a finite value.
    """
    values = np.asarray(statistic(_resampled(count, draws)))
    values = values[np.isfinite(values)]
    if len(values) < draws / 2:
        return None, None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


@lru_cache(maxsize=16)
def _resampled(count: int, draws: int) -> np.ndarray:
    """How often (draws, count) each case is drawn; the same draws for every statistic over as many cases."""
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), draws).astype(np.float64)
    weights.flags.writeable = False
    return weights


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray) -> dict[str, float | None]:
    """Ratio of two means over the same episodes, with a bootstrap interval over them; None where it is undefined."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if denominator.sum() == 0:
        return {"mean": None, "low": None, "high": None}
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = bootstrap(lambda weights: (weights @ numerator) / (weights @ denominator), len(numerator))
    return {"mean": float(numerator.sum() / denominator.sum()), "low": low, "high": high}


def success_interval(successes: np.ndarray) -> dict[str, float]:
    """Rate of a boolean array with its Wilson interval."""
    low, high = wilson(int(np.sum(successes)), len(successes))
    return {"rate": float(np.mean(successes)), "low": low, "high": high, "trials": len(successes)}
