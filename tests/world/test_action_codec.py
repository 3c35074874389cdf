import json

import numpy as np
import pytest
import torch

from sana_wm.world import ActionCodec


@pytest.fixture
def codec():
    return ActionCodec(("x", "y"), (0.0, -1.0), (10.0, 1.0), (4.0, 0.5), (2.0, 0.25), "cm")


def test_fit_takes_bounds_and_statistics_from_the_data():
    actions = np.random.default_rng(0).normal([3, -1], [2, 0.1], (500, 2)).astype(np.float32)
    codec = ActionCodec.fit(actions, ["x", "y"], unit="cm")
    np.testing.assert_array_equal(codec.low, actions.min(0))
    np.testing.assert_array_equal(codec.high, actions.max(0))
    normalised = codec.normalise(torch.from_numpy(actions))
    assert normalised.mean(0).abs().max() < 1e-4 and (normalised.std(0, correction=0) - 1).abs().max() < 1e-4
    assert (codec.names, codec.unit, codec.width) == (("x", "y"), "cm", 2)
    codec.check(actions)  # what it was fitted to is allowed


def test_fit_with_given_bounds_and_no_names():
    actions = np.random.default_rng(0).uniform(2, 3, (50, 3))
    codec = ActionCodec.fit(actions, low=0, high=[5, 6, 7])
    assert codec.low.tolist() == [0, 0, 0] and codec.high.tolist() == [5, 6, 7]
    assert codec.names == ("action_0", "action_1", "action_2")


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_a_constant_column_stays_harmless(value):
    actions = np.stack([np.linspace(0, 1, 20), np.full(20, value)], 1).astype(np.float32)
    codec = ActionCodec.fit(actions)
    assert (codec.normalise(torch.from_numpy(actions))[:, 1] == 0).all()
    space = codec.action_space
    samples = torch.from_numpy(np.stack([space.low, space.high, space.sample()]))

    assert codec.normalise(samples)[:, 1].abs().max() <= 1e-3 * max(1, abs(value)) * 1.01
    assert codec.normalise(samples)[:, 0].abs().max() < 10  # whatever the space allows


def test_normalise_is_affine_per_column(codec):
    normalised = codec.normalise(torch.tensor([[6.0, 0.0], [4.0, 0.5]]))
    torch.testing.assert_close(normalised, torch.tensor([[1.0, -2], [0, 0]]))
    assert codec.normalise(torch.zeros(3, 4, 2, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([1.0], r"shape \(1,\), expected \(\.\.\., 2\): x, y"),
        (3.0, r"shape \(\)"),
        ([[1.0, 0.0, 0.0]], r"shape \(1, 3\)"),
        ([[1.0, np.nan]], "NaN or infinity"),
        ([[np.inf, 0.0]], "NaN or infinity"),
        ([[1.0, 1.5]], "action y is 1.5, allowed are -1 to 1"),
        ([[1.0, 0.0], [-0.5, 0.0]], "action x is -0.5, allowed are 0 to 10"),
        (["up", "down"], "expected 2 numbers"),
        (None, "shape|expected"),
    ],
)
def test_bad_actions_are_named(codec, actions, message):
    with pytest.raises(ValueError, match=message):
        codec.check(actions)


def test_bounds_themselves_and_any_leading_axes_are_allowed(codec):
    assert codec.check([[0, -1], [10, 1]]).dtype == np.float32
    assert codec.check(np.zeros((2, 3, 4, 2))).shape == (2, 3, 4, 2)
    for _ in range(20):
        codec.check(codec.action_space.sample())


def test_space_is_the_bounds(codec):
    space = codec.action_space
    assert space.shape == (2,) and space.dtype == np.float32
    assert space.low.tolist() == [0, -1] and space.high.tolist() == [10, 1]


def test_json_round_trip(codec):
    again = ActionCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again == codec and again.low.dtype == np.float32
    assert again != ActionCodec.from_dict(codec.to_dict() | {"unit": "mm"})
    with pytest.raises(ValueError, match="read-only"):
        codec.low[0] = -1


def test_columns_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="every action column"):
        ActionCodec(("x",), (0.0, 0.0), (1.0,), (0.0,), (1.0,))
    with pytest.raises(ValueError, match="must lie below"):
        ActionCodec(("x",), (1.0,), (1.0,), (0.0,), (1.0,))
