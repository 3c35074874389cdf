import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sana_wm
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


@pytest.fixture
def steps(codec):
    """The same columns, three raw actions a latent frame."""
    return replace(codec, per_latent=3)


def test_a_step_of_several_raw_actions_has_their_shape(steps):
    assert steps.shape == (3, 2) and steps.network_width == 6 and steps.width == 2
    space = steps.action_space
    assert space.shape == (3, 2) and space.low.tolist() == [[0, -1]] * 3 and space.high.tolist() == [[10, 1]] * 3
    assert steps.check(space.sample()).shape == (3, 2)
    assert steps.check(np.zeros((4, 5, 3, 2))).shape == (4, 5, 3, 2)
    assert ActionCodec.fit(np.random.rand(9, 2), per_latent=4).shape == (4, 2)


def test_the_network_sees_raw_actions_in_the_order_in_which_they_act(codec, steps):
    actions = torch.arange(2 * 3 * 2, dtype=torch.float64).reshape(2, 3, 2)
    seen = steps.normalise(actions)
    assert seen.shape == (2, 6)
    for k in range(3):
        assert torch.equal(seen[:, 2 * k : 2 * k + 2], codec.normalise(actions[:, k]))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(2), r"shape \(2,\), expected \(\.\.\., 3, 2\): x, y"),
        (np.zeros((2, 2)), r"expected \(\.\.\., 3, 2\)"),
        (np.zeros((3, 1)), r"expected \(\.\.\., 3, 2\)"),
        ([[0, 0], [0, 0], [0, 2]], "action y is 2, allowed are -1 to 1"),
        ([[0, 0], [np.nan, 0], [0, 0]], "NaN or infinity"),
    ],
)
def test_bad_steps_are_named(steps, actions, message):
    with pytest.raises(ValueError, match=message):
        steps.check(actions)


def test_a_step_goes_through_json(steps):
    again = ActionCodec.from_dict(json.loads(json.dumps(steps.to_dict())))
    assert again == steps and again.shape == (3, 2)


def test_codecs_saved_before_there_were_layouts_still_load(codec):
    old = {name: value for name, value in codec.to_dict().items() if name not in ("layout", "dims")}
    assert ActionCodec.from_dict(old) == codec
    shipped = Path(sana_wm.__file__).parent / "worlds" / "pusht-64" / "config.json"
    loaded = ActionCodec.from_dict(json.loads(shipped.read_text())["codec"])
    assert loaded.shape == (2,) and loaded.network_width == 2 and loaded.per_latent == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"per_latent": 0},
        {"per_latent": 2.5},
        {"layout": "robot81"},
        {"dims": (3, 4)},
        {"layout": "unified_robot80"},
        {"layout": "unified_robot80", "dims": (3, 3)},
        {"layout": "unified_robot80", "dims": (3, 80)},
    ],
)
def test_settings_that_mean_nothing_are_refused(codec, bad):
    with pytest.raises(ValueError, match="per_latent|layout"):
        replace(codec, **bad)
