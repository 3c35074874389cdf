"""95 % intervals for what is measured on a finite number of episodes."""

import math

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


def mean_interval(values: np.ndarray) -> dict[str, float]:
    """Mean of independent values with a normal interval, and their median."""
    values = np.asarray(values, np.float64)
    half = Z95 * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    mean = float(values.mean())
    return {"mean": mean, "low": mean - half, "high": mean + half, "median": float(np.median(values))}


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, draws: int = 2000) -> dict[str, float]:
    """Ratio of two means over the same episodes, with a bootstrap interval over episodes."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    pick = np.random.default_rng(0).integers(0, len(numerator), (draws, len(numerator)))
    ratios = numerator[pick].mean(1) / denominator[pick].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {"mean": float(numerator.mean() / denominator.mean()), "low": float(low), "high": float(high)}


def success_interval(successes: np.ndarray) -> dict[str, float]:
    """Rate of a boolean array with its Wilson interval."""
    low, high = wilson(int(np.sum(successes)), len(successes))
    return {"rate": float(np.mean(successes)), "low": low, "high": high, "trials": len(successes)}
