"""Fréchet distance between sets of features, as in FID (Heusel et al. 2017), in the features of one's choice.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

of the normals that share the sets' means and covariances. Everything is float64 and symmetric: (C1 C2)^(1/2) has the
trace of (A C2 A)^(1/2) with A = C1^(1/2), whose eigenvalues are real and, rounding aside, not negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sana_wm.evaluation.intervals import Z95


class Normal(NamedTuple):
    """mean (D,), covariance (D, D); float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Normal:
        """Fitted to features (N, ...), flattened; the covariance divides by N - 1.

        Raises:
            ValueError: fewer than two, or values that are not finite.
        """
        rows = np.asarray(features, np.float64).reshape(len(features), -1)
        if len(rows) < 2 or not np.isfinite(rows).all():
            raise ValueError(f"features of shape {np.shape(features)}: expected two rows at least, all of them finite")
        return cls(rows.mean(0), np.cov(rows, rowvar=False).reshape(rows.shape[1], -1))


def frechet_distance(first: Normal, second: Normal) -> float:
    """0 for equal ones; squared units of the features."""
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of {first.mean.size} and of {second.mean.size} values cannot be compared")
    root = _root(first.covariance)
    overlap = np.linalg.eigvalsh(_symmetric(root @ second.covariance @ root))
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2 * np.sqrt(overlap.clip(0)).sum()
    return float(np.square(first.mean - second.mean).sum() + spread)


def feature_distance(made: np.ndarray, real: np.ndarray) -> float:
    """Between features (N, ...) and (M, ...)."""
    return frechet_distance(Normal.of(made), Normal.of(real))


def distance_intervals(
    sets: dict[str, np.ndarray], real: np.ndarray, groups: np.ndarray, over: str | None = None, draws: int = 100
) -> dict[str, dict[str, float]]:
    """Distances of sets to ``real``, with 95 % intervals over groups of rows that belong together.

    Row i of every set and of ``real`` is of the same case, and a draw takes the same half of the groups of all of them,
    so that ratios are of pairs. The distance grows where there are fewer different rows, so that those of a bootstrap,
    which repeats rows, lie above it. Halves without repetition do too, yet how much they differ among themselves is
    the standard error (the jackknife that deletes half; Shao and Wu 1989).

    Args:
        sets: name -> (N, ...). real: (N, ...). groups: (N,) such as the episode of each row; four of them at least.
        over: the set whose distance the others' are divided by.
    Returns: name -> distance, low, high; with ``over`` also ratio, ratio_low, ratio_high.

    Raises:
        ValueError: numbers of rows that differ, or too few groups.
    """
    sets = {name: rows.reshape(len(rows), -1) for name, rows in sets.items()}
    real, known = real.reshape(len(real), -1), np.unique(groups)
    if any(len(rows) != len(groups) for rows in (real, *sets.values())):
        raise ValueError(f"{len(groups)} rows have a group, expected as many in real and in every set")
    if len(known) < 4:
        raise ValueError(f"{len(known)} groups, expected four at least: halves of fewer say nothing")
    exact = {name: feature_distance(rows, real) for name, rows in sets.items()}
    rng = np.random.default_rng(0)
    drawn: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(draws):
        rows = np.isin(groups, rng.choice(known, len(known) // 2, replace=False))
        truth = Normal.of(real[rows])
        for name, made in sets.items():
            drawn[name].append(frechet_distance(Normal.of(made[rows]), truth))
    result = {}
    for name, distance in exact.items():
        result[name] = {"distance": distance} | _interval(distance, np.array(drawn[name]), "")
        if over is not None:
            ratio, ratios = distance / exact[over], np.array(drawn[name]) / np.array(drawn[over])
            result[name] |= {"ratio": ratio} | _interval(ratio, ratios, "ratio_")
    return result


def _interval(value: float, drawn: np.ndarray, prefix: str) -> dict[str, float]:
    half = Z95 * float(drawn.std(ddof=1))
    return {f"{prefix}low": max(0.0, value - half), f"{prefix}high": value + half}


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric positive square root."""
    values, vectors = np.linalg.eigh(_symmetric(covariance))
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
