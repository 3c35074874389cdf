import numpy as np
import pytest

from sana_wm.evaluation.fidelity import action_shuffle_ratio, fidelity, psnr
from sana_wm.evaluation.physics import errors_by_step, physical_errors
from sana_wm.evaluation.pusht import TASK
from sana_wm.evaluation.windows import cut_windows, imagine, reconstruct
from tests.evaluation.oracle_world import OracleWorld


@pytest.fixture(scope="module")
def windows(episodes):
    return cut_windows(episodes, range(8), count=6, context=2, horizon=25, camera="observation.image")


def test_psnr_of_known_errors():
    black = np.zeros((3, 8, 8, 3), np.uint8)
    values = psnr(np.stack([black[0], black[1] + 1, black[2] + 255]), black)
    assert values == pytest.approx([60.0, 48.1308, 0.0], abs=1e-4)


def test_windows_are_pieces_of_episodes(episodes, windows):
    assert windows.frames.shape == (6, 27, 64, 64, 3) and windows.actions.shape == (6, 26, 2)
    whole = [episodes.episode(e) for e in range(8)]
    for n in range(6):
        places = [
            (e, t)
            for e in range(8)
            for t in range(40 - 26)
            if np.array_equal(whole[e]["observation.sim_state"][t : t + 27], windows.sim_states[n])
        ]
        ((e, t),) = places
        assert np.array_equal(whole[e]["observation.image"][t : t + 27], windows.frames[n])
        assert np.array_equal(whole[e]["action"][t : t + 26], windows.actions[n])


def test_windows_are_reproducible_and_complete_about_what_is_missing(episodes):
    cut = dict(count=3, context=1, horizon=10)
    one, same = (cut_windows(episodes, range(8), camera="observation.image", **cut) for _ in range(2))
    assert np.array_equal(one.frames, same.frames)
    with pytest.raises(ValueError, match="no 'observation.wrist'"):
        cut_windows(episodes, range(8), camera="observation.wrist", **cut)
    with pytest.raises(ValueError, match="101 frames"):
        cut_windows(episodes, range(8), count=3, context=1, horizon=100, camera="observation.image")


def test_windows_come_in_the_size_the_world_sees(episodes):
    cut = dict(count=2, context=1, horizon=3, camera="observation.image")
    small, full = (cut_windows(episodes, range(8), resolution=size, **cut).frames for size in ((32, 32), None))
    assert small.shape == (2, 4, 32, 32, 3)
    averaged = full.reshape(2, 4, 32, 2, 32, 2, 3).mean(axis=(3, 5))
    assert np.abs(small - averaged).mean() < 1


def test_shuffling_gives_every_window_the_actions_of_another(windows):
    shuffled = windows.shuffled
    assert not any(np.array_equal(a, b) for a, b in zip(shuffled.future_actions, windows.future_actions, strict=True))
    as_sets = [sorted(map(bytes, w.future_actions)) for w in (shuffled, windows)]
    assert as_sets[0] == as_sets[1]
    assert np.array_equal(shuffled.actions[:, :1], windows.actions[:, :1])  # the past is not touched


def test_a_perfect_world_beats_copying_and_follows_actions(oracle, windows):
    imagined, reconstructed = imagine(oracle, windows, lanes=4), reconstruct(oracle, windows.future)
    rows = fidelity(windows, imagined, reconstructed)
    assert list(rows["world"])[0] == "1" and list(rows["world"])[-1] == "25"
    assert rows["world"]["25"]["mean"] > rows["copy_last_frame"]["25"]["mean"] + 5
    assert rows["tokenizer"]["25"]["mean"] > 33
    measured = physical_errors(TASK, errors_by_step(TASK, windows, imagined, reconstructed))
    errors = measured["rows"]
    assert errors["world"]["1"]["block_px"]["mean"] < 3
    assert errors["world"]["25"]["block_px"]["mean"] < 0.5 * errors["copy_last_frame"]["25"]["block_px"]["mean"]
    assert errors["world"]["1"]["found"]["mean"] == 1.0
    assert errors["decoder_floor"]["25"]["block_px"]["mean"] < 1
    assert errors["readout_floor"]["25"]["block_px"]["mean"] < 1
    shuffled = imagine(oracle, windows.shuffled)
    ratio = action_shuffle_ratio(windows, imagined, shuffled, reconstructed)
    assert ratio["pixels"]["mean"] > 3 and ratio["latents"]["low"] > 1.5


def test_a_world_that_ignores_actions_has_ratio_one(windows):
    world = OracleWorld(ignores_actions=True)
    imagined, shuffled = imagine(world, windows), imagine(world, windows.shuffled)
    ratio = action_shuffle_ratio(windows, imagined, shuffled, reconstruct(world, windows.future))
    assert ratio["pixels"] == pytest.approx({"mean": 1.0, "low": 1.0, "high": 1.0})


def test_imagination_does_not_depend_on_the_batch(oracle, windows):
    assert np.array_equal(imagine(oracle, windows, lanes=6).frames, imagine(oracle, windows, lanes=5).frames)


def test_labels_tell_of_the_step_that_follows(episodes):
    cut = cut_windows(
        episodes, range(8), count=3, context=2, horizon=6, camera="observation.image", labels={"reward": "next.reward"}
    )
    assert cut.labels["reward"].shape == (3, 7)
    whole = [episodes.episode(e) for e in range(8)]
    for states, rewards in zip(cut.sim_states, cut.labels["reward"], strict=True):
        places = [
            (e, t)
            for e in range(8)
            for t in range(34)
            if np.array_equal(whole[e]["observation.sim_state"][t : t + 8], states)
        ]
        ((e, t),) = places
        assert np.array_equal(rewards.astype(np.float32), whole[e]["next.reward"].ravel()[t : t + 7])
