import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_wm.diffusion.flow import FlowConfig
from sana_wm.world import WorldModel, WorldState, trust_calibration
from sana_wm.world.bundle import TRUST
from sana_wm.world.trust import SIGNALS
from sana_wm.world.trust_calibration import Clips, calibrate
from tests.world.tiny import CONTEXT, SIDE, begun, identical, tiny_actions, tiny_world

STEPS = 5


def smooth_frames(lanes, frames, seed):
    """uint8 (B, T, H, W, 3): ramps of one family, so that noise is foreign to them."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, SIDE)
    slopes = rng.uniform(0, 120, (lanes, frames, 1, 1, 3))
    return (slopes * ramp[:, None, None] + slopes[..., ::-1] * ramp[None, :, None]).astype(np.uint8)


def clips(count, seed, steps=STEPS):
    """Actions in the middle of the bounds, [-2, 2] x [0, 8]."""
    middle = np.random.default_rng(seed).normal((0.0, 4.0), (0.3, 0.6), (count, CONTEXT + steps - 1, 2))
    return Clips(smooth_frames(count, CONTEXT + steps, seed), middle.astype(np.float32), CONTEXT)


def trusted(**changes):
    world = tiny_world(**changes)
    world.trust = calibrate(world, clips(37, 1), clips(150, 2), lanes=64)
    return world


@pytest.fixture(scope="module")
def world():
    return trusted()


def told(world, some, lanes=slice(None), seeds=None):
    """The signals of every step of clips: name -> (N, H)."""
    frames, actions = some.frames[lanes], some.actions[lanes]
    seeds = np.arange(len(some.frames))[lanes] if seeds is None else seeds
    state = world.watch(world.begin(frames[:, :CONTEXT], actions[:, : CONTEXT - 1], seeds=seeds))
    steps = []
    for k in range(CONTEXT - 1, actions.shape[1]):
        before = state
        state, prediction = world.step(before, actions[:, k])
        steps.append(world.signals(before, prediction, actions[:, k], world.frames(state)))
    return {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]}


def test_about_one_in_a_hundred_fresh_steps_exceeds_one(world):
    signals = told(world, clips(200, 3))
    assert set(signals) == set(SIGNALS)
    for name, values in signals.items():
        assert values.shape == (200, STEPS) and values.dtype == np.float32 and (values >= 0).all()
        assert 0 < (values > 1).mean() < 0.035, (name, (values > 1).mean())


def test_a_lane_says_the_same_alone(world):
    some = clips(7, 4)
    together = told(world, some)
    for lane in (0, 4, 6):
        alone = told(world, some, lanes=slice(lane, lane + 1))
        for name in SIGNALS:
            np.testing.assert_allclose(alone[name][0], together[name][lane], rtol=2e-3, atol=1e-4, err_msg=name)


def test_uncertainty_adds_up_and_rollout_says_the_same(world):
    some = clips(5, 5)
    step_by_step = told(world, some)["model_uncertainty"]
    assert (np.diff(step_by_step, axis=1) > 0).all(), "a doubt once had is not forgotten"
    seeds, actions = np.arange(5), some.actions
    state = world.begin(some.frames[:, :CONTEXT], actions[:, : CONTEXT - 1], seeds=seeds)
    assert world.rollout(state, actions[:, CONTEXT - 1 :]).uncertainty is None
    prediction = world.rollout(state, actions[:, CONTEXT - 1 :], uncertainty=True)
    np.testing.assert_allclose(prediction.uncertainty.numpy(), step_by_step, rtol=1e-4)
    first, _ = world.step(world.watch(state), actions[:, CONTEXT - 1])
    later = world.rollout(first, actions[:, CONTEXT:], uncertainty=True).uncertainty
    np.testing.assert_allclose(later.numpy(), step_by_step[:, 1:], rtol=1e-4)


def test_watching_changes_nothing_else(world):
    state = begun(world)
    watched = world.watch(state)
    actions = tiny_actions(3)
    plain, said = world.step(state, actions)
    counted, more = world.step(watched, actions)
    assert identical(plain, counted) and torch.equal(said.latents, more.latents)
    assert said.uncertainty is None and more.uncertainty.shape == (3,)
    assert not plain.carried and counted.nbytes == plain.nbytes + 4 * 3
    again = WorldState.from_bytes(counted.to_bytes())
    assert torch.equal(again.carried["doubt"], counted.carried["doubt"])
    assert world.watch(counted) is counted and not world.watch(counted, on=False).carried


def test_actions_that_nobody_took_stand_out(world):
    usual = clips(40, 6)
    corners = np.where(np.random.default_rng(0).random(usual.actions.shape) < 0.5, (-2.0, 0.0), (2.0, 8.0))
    unusual = Clips(usual.frames, corners.astype(np.float32), CONTEXT)
    assert np.median(told(world, usual)["ood_action"]) < 0.7
    assert told(world, unusual)["ood_action"].min() > 1


def test_foreign_frames_stand_out(world):
    """Before any step, too: the latents alone say it."""
    usual, foreign = clips(12, 7).frames, np.random.default_rng(0).integers(0, 256, (12, 1, SIDE, SIDE, 3), np.uint8)
    found = [world.signals(None, world.read(world.encode(f)[:, 0]), None) for f in (usual[:, :1], foreign)]
    assert all(list(signals) == ["ood_state"] for signals in found)
    assert found[0]["ood_state"].max() < found[1]["ood_state"].min()


def test_drift_is_zero_for_the_very_frames(world):
    own, other = clips(4, 8).frames[:, -1:], clips(4, 9).frames[:, -1:]
    latents = world.encode(own)[:, 0]
    prediction = world.read(latents)
    assert world.signals(None, prediction, None, own)["drift"].max() < 1e-4
    theirs = world.read(world.encode(other)[:, 0]).proprio
    apart = ((prediction.proprio - theirs) / world.heads.proprio_std).square().mean(1).sqrt().numpy()
    expected = apart / world.trust.thresholds["drift"]
    np.testing.assert_allclose(world.signals(None, prediction, None, other)["drift"], expected, rtol=1e-3)


@pytest.mark.parametrize("flow", [FlowConfig(prediction="change", steps=1), FlowConfig(start="noise", steps=2)])
@pytest.mark.parametrize("proprio", [0, 2])
def test_every_kind_of_world_can_be_calibrated(flow, proprio):
    heads = {"proprio_dim": proprio}
    world = trusted(flow=flow, heads=heads, refined=bool(proprio))
    signals = told(world, clips(30, 9))
    for name, values in signals.items():
        assert np.isfinite(values).all() and (values > 0).any() and (values > 1).mean() < 0.1, name


def test_percentiles_rise_to_the_threshold(world):
    values = np.array([0.0, 0.3, 0.6, 1.0, 1e6])
    for name in SIGNALS:
        share = world.trust.percentile(name, values)
        assert (np.diff(share) >= 0).all() and share[3] == pytest.approx(0.99, abs=1e-6) and share[-1] == 1


def test_calibration_is_repeatable_and_needs_clips(world):
    again = calibrate(world, clips(37, 1), clips(150, 2), lanes=64).tensors()
    assert all(torch.equal(tensor, again[name]) for name, tensor in world.trust.tensors().items())
    with pytest.raises(ValueError, match="held_out clips .* at least one clip of more frames"):
        calibrate(world, clips(3, 1), clips(3, 2, steps=0))
    assert trust_calibration.PLACES * (trust_calibration.AXES + 1) * 2 < 100_000, "bundles stay small"


@pytest.fixture(scope="module")
def saved(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "trusted"
    world.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, world, tmp_path):
    world.save_pretrained(tmp_path / "copy")
    return tmp_path / "copy"


def test_a_bundle_keeps_the_calibration_exactly(world, saved):
    loaded = WorldModel.from_pretrained(saved)
    assert loaded.signal_names == SIGNALS and loaded.trust.thresholds == world.trust.thresholds
    mine, theirs = world.trust.tensors(), loaded.trust.tensors()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    for name, values in told(loaded, clips(6, 10)).items():
        np.testing.assert_allclose(values, told(world, clips(6, 10))[name], rtol=1e-4, atol=1e-5)


def test_a_world_without_calibration_says_nothing(saved, copy):
    (copy / TRUST).unlink()
    for world in (WorldModel.from_pretrained(copy), WorldModel.from_pretrained(saved, trust=False)):
        state = begun(world)
        _, prediction = world.step(state, tiny_actions(3))
        assert world.signal_names == () and world.signals(state, prediction, tiny_actions(3)) == {}
        with pytest.raises(ValueError, match="no trust data"):
            world.rollout(state, tiny_actions(3, 2), uncertainty=True)


@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_a_damaged_file_is_named(copy, damage):
    data = (copy / TRUST).read_bytes()
    (copy / TRUST).write_bytes(data[: len(data) // 2] if damage == "truncated" else b"nothing of the kind")
    with pytest.raises(ValueError, match=f"{TRUST}: not a readable"):
        WorldModel.from_pretrained(copy)


def test_contents_that_cannot_be_are_named(copy):
    path = copy / TRUST
    tensors, header = load_file(path), path.read_bytes()
    facts = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    cases = [
        ({"action_mean": torch.zeros(9, 2)}, facts, r"action_mean is \(9, 2\), expected \(3, 2\)"),
        ({"extra": torch.zeros(1)}, facts, "extra is"),
        ({"quantiles": 0 * tensors["quantiles"]}, facts, "quantiles"),
        ({"place_mean": tensors["place_mean"] * float("nan")}, facts, "place_mean"),
        ({}, facts | {"format": "sana_wm.trust.9"}, "sana_wm.trust.9"),
        ({}, None, "format .None"),
    ]
    for changes, said, message in cases:
        save_file(tensors | changes, path, metadata=said)
        with pytest.raises(ValueError, match=message) as error:
            WorldModel.from_pretrained(copy)
        assert "calibrate" in str(error.value)
    del tensors["places"]
    save_file(tensors, path, metadata=facts)
    with pytest.raises(ValueError, match="places is None"):
        WorldModel.from_pretrained(copy)


@pytest.mark.parametrize("part", ["transformer", "heads", "tokenizer", "refiner"])
def test_the_calibration_of_other_weights_is_left_aside(copy, tmp_path, part):
    tiny_world(seed=3).save_pretrained(tmp_path / "other")
    (copy / f"{part}.safetensors").write_bytes((tmp_path / "other" / f"{part}.safetensors").read_bytes())
    with pytest.warns(UserWarning, match="other weights"):
        assert WorldModel.from_pretrained(copy).trust is None


def test_weights_that_changed_since_take_no_calibration_with_them(copy, tmp_path):
    world = WorldModel.from_pretrained(copy)
    world.save_pretrained(tmp_path / "same")
    assert WorldModel.from_pretrained(tmp_path / "same").trust is not None
    with torch.no_grad():
        next(world.heads.parameters()).mul_(1.3)
    with pytest.warns(UserWarning, match="not those that trust was calibrated for"):
        world.save_pretrained(tmp_path / "changed")
    assert WorldModel.from_pretrained(tmp_path / "changed").trust is None


def test_watched_and_unwatched_states_do_not_mix(world):
    plain = begun(world, lanes=2)
    for states in ([plain, world.watch(plain)], [world.watch(plain), plain]):
        with pytest.raises(ValueError, match="some are watched"):
            WorldState.cat(states)
