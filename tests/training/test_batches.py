from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sana_wm.data.arrays import EpisodeArrays
from sana_wm.diffusion.flow import FlowConfig
from sana_wm.models.heads import Heads, HeadsConfig
from sana_wm.nn.proprio import proprio_channels, unpack
from sana_wm.training import recipe
from sana_wm.training.batches import batch_rng, noise_generator, take_frames, window_starts
from sana_wm.training.dynamics_stage import DynamicsLoss, DynamicsTraining
from sana_wm.training.heads_stage import HeadsLoss
from sana_wm.training.loop import LoopConfig
from sana_wm.training.recipe import (
    Bounds,
    Columns,
    action_codec,
    start_bank,
    train_heads,
    transition_labels,
    with_proprio,
)
from tests.world.tiny import tiny_transformer

LENGTHS = (6, 3, 9, 5)
STARTS = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
COLUMNS = Columns("camera", "action", ("state",), "reward", "done", "success")


def arrays(frame_shape=(2, 2, 3)):
    """Every value tells its episode (hundreds) and its row in it."""
    code = np.concatenate([100.0 * e + np.arange(n) for e, n in enumerate(LENGTHS)]).astype(np.float32)
    frames = np.broadcast_to(np.arange(len(code), dtype=np.uint8)[:, None, None, None], (len(code), *frame_shape))
    columns = {
        "action": np.stack([code, -code], 1),
        "state": code[:, None] + 0.5,
        "reward": code[:, None],
        "done": np.concatenate([np.arange(n) == n - 1 for n in LENGTHS])[:, None],
        "success": (code % 2 == 1)[:, None],
    }
    return EpisodeArrays(frames, columns, STARTS)


def test_batches_are_pure_functions_of_seed_and_step():
    def draw(seed, step):
        noise = torch.randn(4, generator=noise_generator(seed, step, torch.device("cpu")))
        return batch_rng(seed, step).random(4).tolist() + noise.tolist()

    assert draw(0, 5) == draw(0, 5)
    assert len({tuple(draw(seed, step)) for seed in (0, 1, 5) for step in (0, 1, 5)}) == 9


@pytest.mark.parametrize("length", [1, 3, 4, 9])
def test_windows_never_cross_episodes_and_none_is_missing(length):
    starts = window_starts(STARTS, range(1, 4), length)
    episode_of = np.repeat(np.arange(4), LENGTHS)
    windows = starts[:, None] + np.arange(length)
    assert (episode_of[windows] == episode_of[windows[:, :1]]).all()
    assert sorted(starts) == sorted(set(starts)) and len(starts) == sum(max(0, n - length + 1) for n in LENGTHS[1:])
    assert STARTS[1] <= starts.min()


def test_windows_longer_than_every_episode_are_refused():
    with pytest.raises(ValueError, match="no episode has 10 frames .the longest has 9."):
        window_starts(STARTS, range(4), 10)


def test_take_frames_keeps_the_order():
    rows = np.array([[5, 0], [22, 5]])
    frames = take_frames(arrays().frames, rows, torch.device("cpu"))
    assert frames.shape == (2, 2, 2, 2, 3) and frames[..., 0, 0, 0].tolist() == rows.tolist()


def test_labels_belong_to_the_transition_that_led_to_the_frame():
    data = arrays()
    labels = transition_labels(data, COLUMNS)
    code = data.columns["reward"][:, 0]
    latents = code[:, None, None, None]
    frames, net = 4, tiny_transformer(in_channels=1, grid=(1, 1), patch_size=1, depth=1)
    starts = window_starts(STARTS, range(4), frames)
    loss = DynamicsLoss(frames=frames)
    training = DynamicsTraining(net, FlowConfig(), loss, latents, data.columns["action"], starts, 1, 0, "off")
    clip, actions = training.window(starts)
    for lane, row in enumerate(starts):
        assert actions[lane, 0].tolist() == [0, 0]
        assert clip[lane, 0, :, 0, 0].tolist() == code[row : row + frames].tolist()
        for t in range(1, frames):
            assert actions[lane, t, 0] == code[row + t - 1]  # the action of row t - 1 leads to frame t
    for row in np.setdiff1d(np.arange(len(code)), STARTS):
        assert labels["reward"][row] == code[row - 1]
        assert labels["terminated"][row] == float(data.columns["done"][row - 1, 0])
        assert labels["success"][row] == float(data.columns["success"][row - 1, 0])
    np.testing.assert_array_equal(labels["proprio"][:, 0], code + 0.5)  # of the frame itself


def test_the_heads_never_train_on_a_frame_that_nothing_led_to(monkeypatch, tmp_path):
    data, seen = arrays(), {}
    heads = Heads(HeadsConfig(1, (1, 1), 1, True, True, True, hidden=4))
    monkeypatch.setattr(recipe, "run_stage", lambda name, training, *_: seen.update(training=training))
    latents = data.columns["reward"][:, :, None, None]
    train_heads(
        heads, HeadsLoss(batch_size=500), LoopConfig(), latents, data, COLUMNS, tmp_path, torch.device("cpu"), None
    )
    rows = seen["training"].rows
    assert rows.tolist() == [1, 2, 3, 4, 5, 7, 8]  # the two training episodes without their first frames
    train = data.columns["state"][: STARTS[2]]
    assert heads.proprio_mean.item() == pytest.approx(train.mean()) and heads.proprio_std.item() == pytest.approx(
        train.std()
    )
    assert set(seen["training"].losses(0, 0.0)) == {"proprio", "reward", "terminated", "success", "loss"}


def test_recorded_proprioception_becomes_channels():
    heads = Heads(HeadsConfig(3, (2, 2), 5, hidden=4))
    heads.proprio_mean.fill_(1.0), heads.proprio_std.fill_(2.0)
    proprio = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    latents = np.ones((4, 3, 2, 2), np.float16)
    everything = with_proprio(latents, heads, proprio)
    assert everything.shape == (4, 3 + proprio_channels(5, (2, 2)), 2, 2) == (4, 5, 2, 2)
    np.testing.assert_array_equal(everything[:, :3], latents)
    back = unpack(torch.from_numpy(everything[:, 3:].astype(np.float32)), 5) * 2 + 1
    np.testing.assert_allclose(back, proprio, atol=4e-3)
    assert (everything[:, 3:].reshape(4, 8)[:, 5:] == 0).all()
    bare = Heads(HeadsConfig(3, (2, 2), 0, hidden=4))
    assert with_proprio(latents, bare, proprio[:, :0]) is latents


def test_starts_come_from_validation_episodes_with_the_actions_between():
    data = arrays()
    starts = start_bank(data, COLUMNS, context=3, count=50, seed=0)
    assert len(starts) == 7  # every window of the validation episode, number 2, which begins at row 9
    code = data.columns["reward"][:, 0]
    rows = starts.frames[:, :, 0, 0, 0].astype(int)
    assert ((rows >= STARTS[2]) & (rows < STARTS[3])).all() and (np.diff(rows) == 1).all()
    np.testing.assert_array_equal(starts.actions[..., 0], code[rows[:, :-1]])


def test_bounds_hold_for_every_split_and_statistics_are_of_training():
    data = arrays()
    dataset = SimpleNamespace(features={"action": {"shape": (2,), "names": ["up", "down"]}})
    codec = action_codec(dataset, data, COLUMNS, Bounds(), "m")
    codec.check(data.columns["action"])  # the held-out episodes' too
    train = data.columns["action"][: STARTS[2]]
    assert codec.mean == pytest.approx(train.mean(0)) and codec.names == ("up", "down")
    with pytest.raises(ValueError, match="data.bounds do not hold for column 'action'.*up is 101"):
        action_codec(dataset, data, COLUMNS, Bounds(-1000, 100.5), "m")
