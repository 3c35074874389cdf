import shutil

import numpy as np
import pytest

from sana_wm.data import LeRobotDataset, LeRobotWriter, latent_cache
from sana_wm.data.arrays import load_arrays, resize_frames
from sana_wm.data.latent_cache import load_latents
from tests.world.tiny import FEATURES, SIDE, dot_episode, write_dots

KEYS = ["action", "observation.state"]


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    return LeRobotDataset(write_dots(tmp_path_factory.mktemp("dots") / "data", 3, 8))


def test_arrays_are_the_episodes_end_to_end(dots, tmp_path):
    done = []
    arrays = load_arrays(dots, "observation.image", KEYS, (SIDE, SIDE), tmp_path / "a", lambda *n: done.append(n))
    assert done == [(1, 3), (2, 3), (3, 3)] and arrays.starts.tolist() == [0, 8, 16, 24]
    for e in range(3):
        rows, truth = arrays.rows(range(e, e + 1)), dot_episode(e, 8)
        np.testing.assert_array_equal(arrays.columns["action"][rows], truth["action"])
        np.testing.assert_array_equal(arrays.columns["observation.state"][rows], truth["observation.state"])
        error = arrays.frames[rows].astype(int) - truth["observation.image"]
        assert np.abs(error).mean() < 3  # the video is lossy
    assert arrays.rows(range(1, 3)).tolist() == list(range(8, 24))
    again = load_arrays(dots, "observation.image", KEYS, (SIDE, SIDE), tmp_path / "a", lambda *n: done.append(n))
    assert len(done) == 3  # opened, not decoded again
    np.testing.assert_array_equal(again.frames, arrays.frames)
    with pytest.raises(ValueError, match="read-only"):
        again.frames[0] = 0


def test_arrays_are_made_again_for_other_settings_and_survive_a_kill(dots, tmp_path):
    def die(done, _):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_arrays(dots, "observation.image", KEYS, (SIDE, SIDE), tmp_path / "a", die)
    full = load_arrays(dots, "observation.image", KEYS, (SIDE, SIDE), tmp_path / "a")
    small = load_arrays(dots, "observation.image", KEYS[:1], (SIDE // 2, SIDE // 4), tmp_path / "a")
    assert small.frames.shape == (24, SIDE // 2, SIDE // 4, 3) and list(small.columns) == ["action"]
    blocks = full.frames.reshape(24, SIDE // 2, 2, SIDE // 4, 4, 3).mean((2, 4))
    assert np.abs(small.frames - blocks).mean() < 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_frames_of_a_dataset_that_was_recorded_anew_are_decoded_anew(tmp_path):
    def load():
        data = LeRobotDataset(tmp_path / "data")
        return load_arrays(data, "observation.image", KEYS, (SIDE, SIDE), tmp_path / "a")

    write_dots(tmp_path / "data", 3, 8)
    first = load()
    shutil.rmtree(tmp_path / "data")
    with LeRobotWriter(tmp_path / "data", 5, FEATURES) as writer:
        for episode in (5, 6, 7):  # as many, and as long
            writer.add_episode(dot_episode(episode, 8), "follow the dot")
    second = load()
    assert first.fingerprint != second.fingerprint
    np.testing.assert_array_equal(second.columns["action"][:8], dot_episode(5, 8)["action"])


def test_missing_columns_are_named(dots, tmp_path):
    with pytest.raises(ValueError, match=r"has no \['observation.wrist', 'torque'\]; it has \['action'"):
        load_arrays(dots, "observation.wrist", ["action", "torque"], (SIDE, SIDE), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_resizing_averages_over_areas():
    frames = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 3), dtype=np.uint8)
    assert resize_frames(frames, 12, 8) is frames
    small = resize_frames(frames, 6, 2)
    assert small.shape == (2, 6, 2, 3) and small.dtype == np.uint8
    flat = resize_frames(np.full((1, 12, 8, 3), 77, np.uint8), 6, 4)
    assert np.abs(flat.astype(int) - 77).max() <= 1


def encoder(calls, scale):
    def encode(frames):
        calls.append(len(frames))
        return frames.mean((1, 2))[:, :, None, None] * scale

    return encode


def test_latents_are_encoded_once_for_each_tokenizer(tmp_path):
    frames, calls, shown = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8), [], []
    expected = frames.mean((1, 2))[:, :, None, None]
    first = load_latents(frames, encoder(calls, 1.0), "a", tmp_path / "z", lambda *n: shown.append(n), batch=4)
    np.testing.assert_array_equal(first, expected.astype(np.float16))
    assert calls == [4, 4, 2] and shown == [(4, 10), (8, 10), (10, 10)] and first.dtype == np.float16
    load_latents(frames, encoder(calls, 1.0), "a", tmp_path / "z", batch=4)
    assert len(calls) == 3
    second = load_latents(frames, encoder(calls, 2.0), "b", tmp_path / "z", batch=4)
    np.testing.assert_array_equal(second, (2 * expected).astype(np.float16))
    load_latents(frames[:6], encoder(calls, 2.0), "b", tmp_path / "z", batch=6)
    assert calls == [4, 4, 2, 4, 4, 2, 6]


def test_a_killed_encoding_starts_over(tmp_path):
    frames = np.zeros((10, 4, 4, 3), np.uint8)

    def die(part):
        if calls:
            raise KeyboardInterrupt
        return encoder(calls, 1.0)(part)

    calls = []
    with pytest.raises(KeyboardInterrupt):
        load_latents(frames, die, "a", tmp_path / "z", batch=4)
    assert not (tmp_path / "z").exists()
    calls.clear()
    assert load_latents(frames, encoder(calls, 1.0), "a", tmp_path / "z", batch=4).shape == (10, 3, 1, 1)
    assert calls == [4, 4, 2] and [path.name for path in tmp_path.iterdir()] == ["z"]


def test_interrupted_latents_go_on_where_they_were_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(latent_cache, "NOTE_EVERY", 2)
    frames = np.arange(13 * 12, dtype=np.uint8).reshape(13, 2, 2, 3)
    calls: list[int] = []

    def die_at_the_fourth(batch):
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encoder(calls, 1.0)(batch)

    with pytest.raises(KeyboardInterrupt):
        load_latents(frames, die_at_the_fourth, "a", tmp_path / "z", batch=2)
    rest: list[int] = []
    again = load_latents(frames, encoder(rest, 1.0), "a", tmp_path / "z", batch=2)
    assert sum(calls) == 6 and sum(rest) == 9  # the third batch was not noted yet
    whole = load_latents(frames, encoder([], 1.0), "a", tmp_path / "y", batch=5)
    np.testing.assert_array_equal(again, whole)
    with pytest.raises(KeyboardInterrupt):
        calls.clear()
        load_latents(frames, die_at_the_fourth, "b", tmp_path / "z", batch=2)
    anew: list[int] = []
    load_latents(frames, encoder(anew, 1.0), "c", tmp_path / "z", batch=2)
    assert sum(anew) == 13 and [path.name for path in sorted(tmp_path.iterdir())] == ["y", "z"]
