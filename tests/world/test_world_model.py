from dataclasses import replace

import numpy as np
import pytest
import torch

from sana_wm.diffusion.flow import FlowConfig
from sana_wm.world import WorldState
from sana_wm.world.noise import lane_noise
from tests.world.tiny import (
    CHANNELS,
    CONTEXT,
    GRID,
    SIDE,
    begun,
    identical,
    tensors_of,
    tiny_actions,
    tiny_frames,
    tiny_world,
)

FLOWS = [FlowConfig(steps=2), FlowConfig(prediction="change", steps=2), FlowConfig(start="noise", steps=3, shift=2.0)]


EVERY_FLOW = pytest.mark.parametrize("world", FLOWS, ids=["velocity", "change", "noise"], indirect=True)


@pytest.fixture(scope="module")
def world(request):
    return tiny_world(flow=getattr(request, "param", FLOWS[1]))


def play(world, state, actions_BHA):
    """Steps through; -> states and latents (B, H, ...)."""
    states, latents = [], []
    for k in range(actions_BHA.shape[1]):
        state, prediction = world.step(state, actions_BHA[:, k])
        states.append(state)
        latents.append(prediction.latents)
    return states, torch.stack(latents, 1)


@EVERY_FLOW
def test_same_seed_same_future_other_seed_another(world):
    actions = tiny_actions(3, 4)
    first = play(world, begun(world), actions)[0][-1]
    assert identical(first, play(world, begun(world), actions)[0][-1])
    other = world.begin(tiny_frames(3, CONTEXT), tiny_actions(3, CONTEXT - 1), seeds=[100, 7, 102])
    last = play(world, other, actions)[0][-1]
    torch.testing.assert_close(last.latent[[0, 2]], first.latent[[0, 2]])
    assert (last.latent[1] - first.latent[1]).abs().max() > 1e-2


def test_actions_and_context_matter(world):
    a = world.rollout(begun(world), tiny_actions(3, 3)).latents
    b = world.rollout(begun(world), tiny_actions(3, 3, seed=1)).latents
    c = world.rollout(begun(world, seed=5), tiny_actions(3, 3)).latents
    assert (a - b).abs().amax((1, 2, 3, 4)).min() > 1e-3 and (a - c).abs().amax((1, 2, 3, 4)).min() > 1e-3


def test_a_lane_does_not_depend_on_how_many_there_are(world):
    state, actions = begun(world, 5), tiny_actions(5, 4)
    together = play(world, state, actions)[1]
    for lane in range(5):
        alone = play(world, state.select([lane]), actions[lane : lane + 1])[1]
        torch.testing.assert_close(alone[0], together[lane], rtol=0, atol=1e-5)
    fresh = world.begin(tiny_frames(5, CONTEXT)[3:4], tiny_actions(5, CONTEXT - 1)[3:4], seeds=[103])
    torch.testing.assert_close(play(world, fresh, actions[3:4])[1][0], together[3], rtol=0, atol=1e-5)


def test_a_fork_goes_on_as_the_original(world):
    state = play(world, begun(world, 1), tiny_actions(1, 2))[0][-1]
    actions = tiny_actions(1, 3, seed=3)
    fork = WorldState.from_bytes(state.to_bytes())
    assert identical(play(world, state, actions)[0][-1], play(world, fork, actions)[0][-1])
    copies = play(world, state.repeat(4), np.repeat(actions, 4, 0))[1]
    assert all(torch.equal(copies[0], copy) for copy in copies)


@EVERY_FLOW
def test_a_rollout_is_its_steps(world):
    state, actions = begun(world), tiny_actions(3, 4)
    imagined = world.rollout(state, torch.from_numpy(actions))
    assert imagined.latents.shape == (3, 4, CHANNELS + 1, *GRID)  # the image's, and proprioception's
    assert torch.equal(imagined.latents, play(world, state, actions)[1])
    for k, after in enumerate(play(world, state, actions)[0]):
        single = world.read(after.latent)
        for name in ("reward", "terminated", "success", "proprio"):
            torch.testing.assert_close(getattr(imagined, name)[:, k], getattr(single, name))


def test_the_refiner_has_the_last_word_on_every_picture():
    refined, plain = tiny_world(), tiny_world(refined=False)
    state, actions = replace(begun(plain), origin=""), tiny_actions(3)
    first = plain.step(state, actions)[1].latents
    noise = lane_noise(state.seeds, state.frame, 1, (CHANNELS, *GRID))
    expected = refined.refiner.redraw(first, noise)
    assert (expected - first).abs().max() > 0.1
    torch.testing.assert_close(refined.step(state, actions)[1].latents, expected)


def test_old_states_stay_valid(world):
    state = begun(world)
    kept = [tensor.clone() for tensor in tensors_of(state)]
    states, latents = play(world, state, tiny_actions(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(state), kept, strict=True))
    again = play(world, states[2], tiny_actions(3, 6)[:, 3:])[1]
    assert torch.equal(again, latents[:, 3:])


@pytest.mark.parametrize("flow", FLOWS[:2])
def test_context_at_once_equals_commits_one_by_one(flow):
    world = tiny_world(flow=flow)
    for module in (world.transformer, world.tokenizer, world.heads):
        module.double()
    frames, actions = tiny_frames(2, 7), tiny_actions(2, 6)
    state = world.begin(frames, actions, seeds=[1, 2])
    latents = world.encode(frames).transpose(1, 2)
    led_by = torch.cat([torch.zeros(2, 1, 2), world.codec.normalise(torch.from_numpy(actions))], 1)
    stream, before = world.transformer.initial_state(2), torch.zeros_like(latents[:, :, :1])
    with torch.inference_mode():
        for t in range(7):
            now = latents[:, :, t : t + 1]
            rest = {"actions": led_by[:, t : t + 1], "source": before, "commit": True}
            shown = now if flow.prediction == "velocity" else now - before
            stream = world.transformer(shown, torch.zeros(2, 1), state=stream, **rest).state
            before = now
    expected = WorldState(stream, latents[:, :, -1], torch.tensor([1, 2]))
    assert state.latent.dtype == torch.float64 and state.frame.tolist() == [7, 7]
    for a, b in zip(tensors_of(state), tensors_of(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_begin_counts_frames_and_numbers_lanes(world):
    state = world.begin(tiny_frames(3, 1))
    assert state.frame.tolist() == [1, 1, 1] and state.seeds.tolist() == [0, 1, 2]
    assert world.step(state, tiny_actions(3))[0].frame.tolist() == [2, 2, 2]


def test_proprio_is_in_dataset_units(world):
    latents = begun(world).latent
    raw = world.heads(latents[:, :CHANNELS])["proprio"]  # of a true frame: what the heads read from its image
    proprio = world.read(latents).proprio
    torch.testing.assert_close(proprio, raw * torch.tensor([10.0, 3.0]) + torch.tensor([100.0, -50.0]))
    imagined = world.step(begun(world), tiny_actions(3))[1]  # of an imagined one: what was imagined with it
    cells = imagined.latents[:, CHANNELS:].flatten(1)[:, :2]
    torch.testing.assert_close(imagined.proprio, cells * torch.tensor([10.0, 3.0]) + torch.tensor([100.0, -50.0]))
    for name in ("terminated", "success"):
        probability = getattr(world.read(latents), name)
        assert ((probability > 0) & (probability < 1)).all() and probability.shape == (3,)


def test_heads_that_a_world_lacks_are_none():
    world = tiny_world(heads={"success": True})
    prediction = world.rollout(begun(world), tiny_actions(3, 2))
    assert prediction.reward is prediction.terminated is prediction.proprio is prediction.uncertainty is None
    assert prediction.success.shape == (3, 2)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((3, 3), np.float32), r"shape \(3, 3\), expected \(3, 2\)"),
        (np.zeros(2, np.float32), r"shape \(2,\)"),
        (np.zeros((2, 2), np.float32), r"expected \(3, 2\)"),
        (np.array([[0, 1], [0, np.nan], [0, 1]]), "NaN"),
        (torch.tensor([[0.0, 1], [0, 1], [0, 99]]), "action dy is 99, allowed are 0 to 8"),
    ],
)
def test_bad_actions_are_refused_and_nothing_changes(world, actions, message):
    state = begun(world)
    kept = [tensor.clone() for tensor in tensors_of(state)]
    with pytest.raises(ValueError, match=message):
        world.step(state, actions)
    with pytest.raises(ValueError):
        world.rollout(state, actions)
    with pytest.raises(ValueError):
        world.rollout(state, np.asarray(actions)[:, None] if np.ndim(actions) == 2 else actions)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(state), kept, strict=True))


def test_a_rollout_of_no_steps_is_refused(world):
    with pytest.raises(ValueError, match="H"):
        world.rollout(begun(world), np.zeros((3, 0, 2), np.float32))


@pytest.mark.parametrize("changes", [{"width": 32}, {"window": 6}, {"depth": 3}, {"patch_size": 2}])
def test_a_state_of_another_world_is_refused(world, changes):
    state = begun(tiny_world(**changes))
    with pytest.raises(ValueError, match="another world"):
        world.step(state, tiny_actions(3))
    with pytest.raises(ValueError, match="another world"):
        world.rollout(state, tiny_actions(3, 2))


def test_a_state_with_another_latent_is_refused(world):
    state = begun(world)
    odd = WorldState(state.stream, state.latent[:, :, :4], state.seeds)
    with pytest.raises(ValueError, match="another world"):
        world.step(odd, tiny_actions(3))


@pytest.mark.parametrize(
    ("frames", "rest", "message"),
    [
        (tiny_frames(2, 1), {"prompt": "push"}, "prompt"),
        (tiny_frames(2, 1).astype(np.float32), {}, "float32"),
        (tiny_frames(2, 1)[0], {}, r"expected uint8 \(B, T, H, W, 3\)"),
        (np.zeros((1, 1, 64, 48, 3), np.uint8), {}, f"64x48 pixels, this world sees {SIDE}x{SIDE}"),
        (tiny_frames(2, 0), {}, "at least one frame"),
        (tiny_frames(2, 3), {}, r"actions have shape None, expected \(2, 2, 2\)"),
        (tiny_frames(2, 3), {"actions": tiny_actions(2, 3)}, r"shape \(2, 3, 2\), expected \(2, 2, 2\)"),
        (tiny_frames(2, 2), {"actions": np.full((2, 1, 2), np.nan)}, "NaN"),
        (tiny_frames(2, 1), {"seeds": [1]}, r"seeds have shape \(1,\), expected \(2,\)"),
    ],
)
def test_bad_starts_are_refused(world, frames, rest, message):
    with pytest.raises(ValueError, match=message):
        world.begin(frames, **rest)


def test_stepping_needs_no_gradient_and_leaves_the_weights_alone(world):
    before = {name: p.clone() for name, p in world.transformer.named_parameters()}
    state, prediction = world.step(begun(world), tiny_actions(3))
    assert not prediction.latents.requires_grad and not any(p.requires_grad for p in world.transformer.parameters())
    assert all(torch.equal(before[name], p) for name, p in world.transformer.named_parameters())
