"""Statistics of the whole from those of its parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sana_wm.data.statistics import QUANTILES, RowSample, column_stats, image_stats, pool_stats

lengths_of_parts = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(lengths=lengths_of_parts, shape=st.sampled_from([(1,), (3,), (2, 2)]), seed=st.integers(0, 1000))
def test_pooled_moments_are_those_of_all_rows(lengths, shape, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(rng.normal(), 2, (length, *shape)) for length in lengths]
    pooled, whole = pool_stats([column_stats(part) for part in parts]), column_stats(np.concatenate(parts))
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(pooled[name], whole[name], rtol=1e-9, atol=1e-12)
    for name in QUANTILES:
        assert (pooled[name] >= whole["min"] - 1e-12).all() and (pooled[name] <= whole["max"] + 1e-12).all()


def test_pooling_leaves_out_quantiles_that_an_entry_lacks():
    full = column_stats(np.arange(5.0)[:, None])
    without = {name: value for name, value in full.items() if name not in QUANTILES}
    assert pool_stats([full, without]).keys() == without.keys()


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 12), height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 100))
def test_image_statistics_are_those_of_the_pixels(length, height, width, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (length, height, width, 3), np.uint8)
    stats, pixels = image_stats(frames), frames.reshape(-1, 3) / 255
    assert all(stats[name].shape == (3, 1, 1) for name in stats.keys() - {"count"})
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats[name][:, 0, 0], getattr(pixels, name)(axis=0), atol=1e-12)
    for name, q in QUANTILES.items():
        expected = np.quantile(pixels, q, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(stats[name][:, 0, 0], expected, atol=1e-12)
    assert stats["count"].tolist() == [length]


def test_long_large_videos_are_thinned():
    frames = np.zeros((250, 400, 200, 3), np.uint8)
    frames[:, :, :, 1] = 255
    stats = image_stats(frames)
    assert stats["count"].tolist() == [84]
    assert stats["mean"].ravel().tolist() == [0, 1, 0]


@pytest.mark.parametrize("bound", [{"max_rows": 100}, {"max_bytes": 100 * 16}])
def test_row_sample_stays_small_and_tells_the_quantiles(bound):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 1))
    sample = RowSample(**bound)
    for start in range(0, 5000, 70):
        rows = slice(start, min(start + 70, 5000))
        sample = sample.extended({"index": np.arange(5000)[rows, None], "value": values[rows]})
    assert 50 <= len(sample.rows["value"]) <= 100
    np.testing.assert_array_equal(sample.rows["value"], values[:: sample.stride])
    assert abs(sample.quantiles()["value"]["q50"] - np.median(values)) < 0.4


def test_small_row_sample_is_exact():
    values = np.random.default_rng(1).normal(size=(90, 2))
    sample = RowSample()
    for start in (0, 30, 60):
        rows = slice(start, start + 30)
        sample = sample.extended({"index": np.arange(90)[rows, None], "value": values[rows]})
    np.testing.assert_allclose(sample.quantiles()["value"]["q10"], np.quantile(values, 0.1, axis=0))
