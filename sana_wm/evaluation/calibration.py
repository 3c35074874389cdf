"""Whether a world's reward, termination and success can be believed: errors and calibration, beside baselines.

Labels are the dataset's own: what it recorded as following the action that led to a frame. So this needs no simulator.
"""

import numpy as np

from sana_wm.evaluation.fidelity import steps_shown
from sana_wm.evaluation.intervals import bootstrap, mean_interval, wilson
from sana_wm.evaluation.windows import Imagined, Windows

BINS = 10
_BY_DEFINITION = {"mean": 0.0, "low": None, "high": None}  # of always saying the mean


def calibration(windows: Windows, imagined: Imagined, reconstructed: Imagined) -> dict:
    """Reward's error, and Brier score and calibration of termination and success, imagined and read from true frames.

    Returns:
        {"reward": {"mae": {row: mean, low, high}, "r2": {row: ...}, "by_step": {row: {step: mean absolute error}}},
        "terminated" | "success": {"base_rate", "brier": {row: ...}, "ece": {row: ...}, "confusion": {row: ...},
        "bins": {row: [...]}, "by_step": {row: {step: Brier score}}}} of what the world has heads for and the dataset
        labels. Rows: `world` (imagined open loop), `readout` (read from true frames), and the baselines `base_rate`
        (always the mean of the labels) and `copy_last_frame` (what was true of the last frame seen; needs two context
        frames). Intervals by bootstrap over windows.
    """
    result: dict = {}
    for what, labels in windows.labels.items():
        if what not in imagined.outcomes:
            continue
        truth = labels[:, windows.context - 1 :]
        rows = {
            "world": imagined.outcomes[what],
            "readout": reconstructed.outcomes[what],
            "base_rate": np.full_like(truth, truth.mean()),
        }
        if windows.context > 1:
            rows["copy_last_frame"] = np.repeat(labels[:, windows.context - 2, None], windows.horizon, axis=1)
        result[what] = (_reward if what == "reward" else _probability)(rows, truth, steps_shown(windows))
    return result


def _reward(rows: dict[str, np.ndarray], truth: np.ndarray, steps: list[int]) -> dict:
    errors = {name: np.abs(values - truth) for name, values in rows.items()}
    return {
        "mae": {name: mean_interval(error.mean(axis=1)) for name, error in errors.items()},
        "r2": {name: r2(values, truth) for name, values in rows.items()} | {"base_rate": _BY_DEFINITION},
        "by_step": {name: {str(t): mean_interval(error[:, t - 1]) for t in steps} for name, error in errors.items()},
    }


def r2(values: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Share of the variance of truth (N, H) that values explain; the mean explains 0. None if nothing varies."""
    unexplained, moment, sums = (v.sum(axis=1) for v in (np.square(values - truth), np.square(truth), truth))

    def of_draws(weights: np.ndarray) -> np.ndarray:
        count = weights.sum(axis=1) * truth.shape[1]
        total = weights @ moment - np.square(weights @ sums) / count
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(total > 1e-12, 1 - (weights @ unexplained) / total, np.nan)

    value = float(of_draws(np.ones((1, len(truth))))[0])
    low, high = bootstrap(of_draws, len(truth))
    return {"mean": value if np.isfinite(value) else None, "low": low, "high": high}


def _probability(rows: dict[str, np.ndarray], truth: np.ndarray, steps: list[int]) -> dict:
    scores = {name: np.square(values - truth) for name, values in rows.items()}
    return {
        "base_rate": float(truth.mean()),
        "brier": {name: mean_interval(score.mean(axis=1)) for name, score in scores.items()},
        "ece": {name: expected_calibration_error(values, truth) for name, values in rows.items()}
        | {"base_rate": _BY_DEFINITION},
        "confusion": {name: confusion(values, truth) for name, values in rows.items()},
        "bins": {name: reliability(rows[name], truth) for name in ("world", "readout")},
        "by_step": {name: {str(t): mean_interval(score[:, t - 1]) for t in steps} for name, score in scores.items()},
    }


def _binned(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Cases, summed probability and summed truth (3, N, BINS) of every window in ten equal bins of probability."""
    which = np.clip((probability * BINS).astype(int), 0, BINS - 1)
    inside = which[..., None] == np.arange(BINS)
    return np.stack([(inside * values[..., None]).sum(axis=1) for values in (np.ones_like(truth), probability, truth)])


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Mean gap between what is said and how often it is so, over ten equal bins weighted by their cases, (N, H)."""
    cases, said, true = _binned(probability, truth)

    def of_draws(weights: np.ndarray) -> np.ndarray:
        return np.abs(weights @ said - weights @ true).sum(axis=1) / (weights @ cases).sum(axis=1)

    value = float(of_draws(np.ones((1, len(truth))))[0])
    low, high = bootstrap(of_draws, len(truth))
    if low is not None:  # resampling adds gaps of its own, so a small value can lie below its draws
        low, high = min(low, value), max(high, value)
    return {"mean": value, "low": low, "high": high}


def reliability(probability: np.ndarray, truth: np.ndarray) -> list[dict[str, float | int]]:
    """The bins that hold cases: what is said in the mean, and how often it was so (with a Wilson interval).

    Steps of one window are not independent, so intervals are too narrow for what happens rarely and lasts.
    """
    cases, said, true = _binned(probability, truth).sum(axis=1)
    bins = []
    for k in np.flatnonzero(cases):
        low, high = wilson(int(true[k]), int(cases[k]))
        bins.append({"said": float(said[k] / cases[k]), "true": float(true[k] / cases[k]), "low": low, "high": high,
                     "cases": int(cases[k])})  # fmt: skip
    return bins


def confusion(probability: np.ndarray, truth: np.ndarray) -> dict[str, float | int | None]:
    """Counts of deciding at one half, and the rates of both errors (None without cases)."""
    said, true = probability.ravel() > 0.5, truth.ravel() > 0.5
    counts = {
        "true_positive": int((said & true).sum()),
        "false_positive": int((said & ~true).sum()),
        "false_negative": int((~said & true).sum()),
        "true_negative": int((~said & ~true).sum()),
    }
    positive, negative = int(true.sum()), int((~true).sum())
    return counts | {
        "false_positive_rate": counts["false_positive"] / negative if negative else None,
        "false_negative_rate": counts["false_negative"] / positive if positive else None,
    }
