import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana_wm.evaluation.intervals import bootstrap, mean_interval, ratio_interval, success_interval, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3 (score without continuity correction)
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_mirrors(case):
    successes, trials = case
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("case", [(1, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(case):
    with pytest.raises(ValueError, match="successes"):
        wilson(*case)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    entries = [mean_interval(rng.normal(3, 2, 100)) for _ in range(400)]
    covered = np.mean([entry["low"] <= 3 <= entry["high"] for entry in entries])
    assert 0.91 < covered < 0.98


def test_ratio_and_success():
    rng = np.random.default_rng(0)
    below = rng.uniform(1, 2, 300)
    entry = ratio_interval(2 * below + rng.normal(0, 0.1, 300), below)
    assert entry["low"] < 2 < entry["high"] and entry["high"] - entry["low"] < 0.05
    assert success_interval(np.array([True, False, True, True]))["rate"] == 0.75


def test_a_mean_of_rare_errors_is_never_below_zero():
    entry = mean_interval(np.array([0.0] * 30 + [1.0]))
    assert 0 <= entry["low"] < entry["mean"] < entry["high"] and entry["count"] == 31


def test_what_has_no_interval_says_so():
    assert mean_interval([2.5]) == {"mean": 2.5, "low": None, "high": None, "median": 2.5, "count": 1}
    assert mean_interval([])["mean"] is None
    assert ratio_interval(np.ones(3), np.zeros(3)) == {"mean": None, "low": None, "high": None}
    assert bootstrap(lambda weights: np.full(len(weights), np.nan), 5) == (None, None)
