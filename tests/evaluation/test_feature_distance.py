"""Fréchet distance against its closed form."""

import numpy as np
import pytest

from sana_wm.evaluation.feature_distance import Normal, distance_intervals, feature_distance, frechet_distance

RNG = np.random.default_rng


def turned(values, seed=0):
    """A covariance with these eigenvalues."""
    q, _ = np.linalg.qr(RNG(seed).normal(size=(len(values), len(values))))
    return (q * values) @ q.T


def test_normals_that_share_their_axes():
    """There the distance is |m1 - m2|^2 + sum of (s1 - s2)^2 over the standard deviations."""
    first, second = np.array([4.0, 1.0, 0.25, 0.0, 9.0]), np.array([1.0, 1.0, 4.0, 1.0, 0.0])
    a, b = Normal(np.zeros(5), turned(first)), Normal(np.arange(5.0), turned(second))
    expected = 30 + np.square(np.sqrt(first) - np.sqrt(second)).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, abs=1e-6)


def test_normals_that_do_not():
    """By the definition: the trace of the root of C1 C2, which is not symmetric."""
    a, b = (turned(RNG(i).uniform(0.1, 3, 4), i) for i in (1, 2))
    root = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    got = frechet_distance(Normal(np.zeros(4), a), Normal(np.zeros(4), b))
    assert got == pytest.approx(np.trace(a) + np.trace(b) - 2 * root) and got > 0.1


def test_of_features():
    rows = RNG(0).normal(size=(400, 3, 2))
    assert feature_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    assert feature_distance(rows, rows.astype(np.float32) + 2) == pytest.approx(6 * 4, rel=1e-5)
    one = Normal.of(rows[:7])
    np.testing.assert_allclose(one.covariance, np.cov(rows[:7].reshape(7, 6).T))
    few = rows[:4]  # of less than full rank
    assert feature_distance(few, few) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.array([[1.0], [np.nan]])])
def test_what_has_no_distance(bad):
    with pytest.raises(ValueError, match="two rows at least"):
        Normal.of(bad)
    with pytest.raises(ValueError, match="3 and of 2"):
        frechet_distance(Normal.of(np.eye(3)), Normal.of(np.eye(2)))


def test_intervals_hold_the_distance_and_the_ratio_is_of_pairs():
    rng = RNG(3)
    real = rng.normal(size=(900, 3))
    groups = np.arange(900) // 3
    near, far = (
        real + [0.5, 0, 0] + 0.2 * rng.normal(size=real.shape),
        real + [0, 1.0, 0] + 0.3 * rng.normal(size=real.shape),
    )
    found = distance_intervals({"near": near, "far": far, "again": near}, real, groups, over="near", draws=60)
    for name, made in (("near", near), ("far", far)):
        row = found[name]
        assert row["distance"] == pytest.approx(feature_distance(made, real))
        assert row["low"] <= row["distance"] <= row["high"]
    assert found["again"]["ratio"] == found["again"]["ratio_low"] == found["again"]["ratio_high"] == 1
    assert 3.5 < found["far"]["ratio_low"] < found["far"]["ratio"] < found["far"]["ratio_high"] < 5.5
    width = found["near"]["high"] - found["near"]["low"]
    few = distance_intervals({"near": near[:225]}, real[:225], groups[:225], draws=60)["near"]
    assert few["high"] - few["low"] > 1.4 * width  # of a quarter of the cases: about twice
    with pytest.raises(ValueError, match="3 groups"):
        distance_intervals({"near": near[:9]}, real[:9], groups[:9])
    with pytest.raises(ValueError, match="900 rows have a group"):
        distance_intervals({"near": near[1:]}, real, groups)
