import numpy as np
import pytest
import torch

from sana_wm.diffusion.flow import FlowConfig
from sana_wm.training.batches import noise_generator
from sana_wm.training.dynamics_stage import DynamicsLoss, DynamicsTraining, motion_of_windows
from sana_wm.training.loop import LoopConfig, run_stage
from sana_wm.training.optimizer import OptimizerConfig
from sana_wm.world import world_model
from tests.training.toys import QuietLog
from tests.world.tiny import CHANNELS, tiny_actions, tiny_frames, tiny_transformer, tiny_world

FLOWS = [FlowConfig(steps=1), FlowConfig(prediction="change", steps=1)]
EVERY_FLOW = pytest.mark.parametrize("flow", FLOWS, ids=["velocity", "change"])


def moving(flow, loss, rows=400):
    """Latents on a 1x1 grid that an action moves; proprioception is the same, swapped."""
    torch.manual_seed(0)
    actions = np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)
    place = np.zeros((rows, 2), np.float32)
    for t in range(rows - 1):
        place[t + 1] = 0.8 * place[t] + 0.5 * actions[t]
    net = tiny_transformer(in_channels=4, grid=(1, 1), patch_size=1, depth=2)
    latents = np.concatenate([place, place[:, ::-1]], 1)[..., None, None]  # 2 of image, 2 of proprioception
    return DynamicsTraining(net, flow, loss, latents, actions, np.arange(rows - loss.frames + 1), 2, 0, "off")


@EVERY_FLOW
def test_it_learns_that_actions_move_latents(flow, tmp_path):
    loss = DynamicsLoss(batch_size=8, frames=5, self_forcing=0.5, past_noise=0.02, movement=0.0)
    training = moving(flow, loss)

    def level(seed):
        with torch.no_grad():
            return {k: float(v) for k, v in training.losses(seed, 0.0).items()}

    before = level(10_000)
    config = LoopConfig(steps=60, optimizer=OptimizerConfig(lr=1e-2), warmup=5, ema=0.8)
    run_stage("dynamics", training, training.losses, config, tmp_path, QuietLog())
    after = level(10_000)
    assert {"loss", "image", "proprio"} == set(before)
    assert all(after[name] < 0.5 * before[name] for name in before)


def test_losses_are_a_pure_function_of_the_step():
    training = moving(FLOWS[1], DynamicsLoss(batch_size=4, frames=5))
    first = {k: float(v.detach()) for k, v in training.losses(7, 0.9).items()}
    torch.manual_seed(123)
    assert first == {k: float(v.detach()) for k, v in training.losses(7, 0.9).items()}
    assert first != {k: float(v.detach()) for k, v in training.losses(8, 0.9).items()}


def test_windows_are_drawn_in_proportion_to_what_moves_in_them():
    proprio = np.zeros((40, 2, 1, 1), np.float32)
    proprio[20:, 0] = 3.0  # one jump, between rows 19 and 20
    proprio[30:, 0] = 4.0  # a third of it, between rows 29 and 30
    starts = np.array([0, 5, 15, 16, 25, 26, 34])
    share = np.diff(motion_of_windows(proprio, starts, 6), prepend=0.0)
    np.testing.assert_allclose(share / share.sum(), np.array([0, 0, 3, 3, 1, 1, 0]) / 8)

    training = moving(FLOWS[1], DynamicsLoss(batch_size=700, frames=6, motion_share=0.5))
    training.starts, training.motion = starts, np.cumsum(share)
    rows = np.concatenate([training.draw_windows(np.random.default_rng(k)) for k in range(20)])
    drawn = (rows[:, None] == starts).mean(axis=0)
    np.testing.assert_allclose(drawn, 0.5 / 7 + 0.5 * share / share.sum(), atol=0.015)

    with pytest.raises(ValueError, match="set it to 0"):
        motion_of_windows(proprio[:10], np.arange(3), 6)
    with pytest.raises(ValueError, match="set it to 0"):
        motion_of_windows(proprio[:, :0], starts, 6)


@EVERY_FLOW
def test_one_step_of_own_past_is_what_the_world_predicts(flow, monkeypatch):
    """Parallel over frames in training, one at a time in the world: the same prediction from the same true past."""
    world = tiny_world(flow=flow, refined=False)
    frames, actions, count = tiny_frames(2, 6), tiny_actions(2, 5), 6
    past = world.encode(frames).transpose(1, 2).clone()
    led_by = torch.zeros(2, count + 1, 2)
    led_by[:, 1:count] = world.codec.normalise(torch.from_numpy(actions))
    empty = np.zeros(0)
    loss = DynamicsLoss(frames=count + 1)
    training = DynamicsTraining(world.transformer, flow, loss, empty, empty, empty, CHANNELS, 0, "off")
    cpu = torch.device("cpu")
    made = training.own_past(past, led_by, 1, noise_generator(3, 4, cpu))
    draws = torch.randn(past.shape, generator=noise_generator(3, 4, cpu))
    monkeypatch.setattr(world_model, "lane_noise", lambda seeds, frame, draw, shape: draws[:, :, int(frame[0]) - 1])
    assert torch.equal(made[:, :, 0], past[:, :, 0])
    for t in range(1, count):
        state = world.begin(frames[:, :t], actions[:, : t - 1])
        predicted = world.step(state, actions[:, t - 1])[1].latents
        torch.testing.assert_close(made[:, :, t], predicted, rtol=0, atol=1e-4)
        assert (predicted - past[:, :, t]).abs().max() > 1e-2


def test_deeper_own_past_compounds_errors():
    training = moving(FLOWS[1], DynamicsLoss(batch_size=4, frames=6))
    with torch.no_grad():
        for p in training.transformer.parameters():
            p.add_(0.2 * torch.randn_like(p))
    clip, actions = training.window(np.array([0, 50]))
    past = clip[:, :, :-1]
    one, two = (training.own_past(past, actions, depth, noise_generator(0, 0, past.device)) for depth in (1, 2))
    # frame 1 is made from the true frame 0 at any depth (other noise), frame 2 from a made frame 1 at depth 2
    assert torch.equal(one[:, :, 0], two[:, :, 0]) and not torch.allclose(one[:, :, 2], two[:, :, 2])
    assert not one.requires_grad


def test_without_proprioception_only_the_image_counts():
    training = moving(FLOWS[0], DynamicsLoss(batch_size=2, frames=4))
    training.image_channels = 4
    losses = training.losses(0, 0.0)
    assert set(losses) == {"image", "loss"} and losses["image"] == losses["loss"]


def test_own_past_has_the_refiners_pictures():
    training = moving(FLOWS[1], DynamicsLoss(batch_size=4, frames=6))
    clip, actions = training.window(np.array([0, 50]))
    past = clip[:, :, :-1]
    plain = training.own_past(past, actions, 1, noise_generator(0, 0, past.device))
    training.redraw = lambda latents, noise: torch.cat([latents[:, :2] + 7, latents[:, 2:]], 1)
    redrawn = training.own_past(past, actions, 1, noise_generator(0, 0, past.device))
    assert torch.equal(redrawn[:, :, 0], plain[:, :, 0])
    torch.testing.assert_close(redrawn[:, :2, 1:], plain[:, :2, 1:] + 7)
    assert torch.equal(redrawn[:, 2:], plain[:, 2:])


def test_chosen_windows_begin_with_what_the_heads_read():
    training = moving(FLOWS[1], DynamicsLoss(batch_size=4, frames=6))
    training.read, training.context = training.latents[:, 2:] + 100, 3
    rows = np.array([0, 50, 7])
    past = training.window(rows)[0][:, :, :-1]
    made = training.begun_from_frames(past, rows, np.array([True, False, True]))
    difference = made - past
    assert torch.equal(difference[1], torch.zeros_like(difference[1])) and not difference[:, :2].any()
    torch.testing.assert_close(difference[[0, 2], 2:, :3], torch.full((2, 2, 3, 1, 1), 100.0))
    assert not difference[:, :, 3:].any()
    training.context = 20  # longer than a window
    assert training.begun_from_frames(past, rows, np.ones(3, bool)).shape == past.shape


@pytest.mark.filterwarnings("ignore:.*lru_cache")
def test_a_compiled_step_is_the_same_step():
    plain, fast = (moving(FLOWS[1], DynamicsLoss(batch_size=2, frames=4)) for _ in range(2))
    fast.denoise = torch.compile(fast.transformer.forward, backend="aot_eager")
    torch.testing.assert_close(fast.losses(3, 0.9), plain.losses(3, 0.9))
