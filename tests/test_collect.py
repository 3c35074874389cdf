"""Collecting: episodes are pure functions of (seed, index), rows pair up, a stopped run goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

import sana_wm.collect
from sana_wm.collect import collect, record_episode, record_episodes
from sana_wm.data import LeRobotDataset
from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.pusht_physics import GOAL_POSE
from sana_wm.envs.simulators import recording
from sana_wm.envs.tworoom_physics import path_length

FEATURES = recording("pusht").features
TWOROOM = {
    "seed": 7, "steps": 12, "mix": {"expert": 0.5, "walk": 0.5}, "near_goal": 0.1, "simulator": "tworoom",
}  # fmt: skip
MIX = {"scripted": 0.5, "noisy": 0.3, "random": 0.2}
SETTINGS = {"seed": 7, "steps": 12, "mix": MIX, "near_goal": 0.1}


def assert_same_episode(a: dict, b: dict, keys=FEATURES) -> None:
    for key in keys:
        np.testing.assert_array_equal(np.asarray(a[key]).reshape(np.shape(b[key])), b[key], err_msg=key)


def columns(root, name: str) -> list:
    files = sorted((root / "meta/episodes").rglob("*.parquet"))
    return [value for file in files for value in pq.read_table(file, columns=[name])[name].to_pylist()]


@pytest.mark.parametrize("settings", [SETTINGS, TWOROOM], ids=["pusht", "tworoom"])
def test_rows_pair_observation_action_and_what_follows(settings):
    how = recording(settings.get("simulator", "pusht"))
    episode, metadata = record_episode(index=3, **settings)
    assert list(episode) == list(how.features) and metadata["policy"] in settings["mix"] and metadata["seed"] == 7
    env = how.make_env()
    for key, spec in how.features.items():
        assert (
            episode[key].shape == (12, *spec["shape"])
            and len(spec["names"]) == spec["shape"][-1]
            or key == ("observation.image")
        )
    states = episode["observation.sim_state"]
    for t in range(12):
        np.testing.assert_array_equal(env.set_state(states[t]), episode["observation.image"][t])
        _, reward, terminated, _, info = env.step(episode["action"][t])
        assert episode["next.reward"][t, 0] == np.float32(reward)
        assert (episode["next.done"][t, 0], episode["next.success"][t, 0]) == (terminated, info["is_success"])
        if t < 11:
            np.testing.assert_array_equal(env.get_state(), states[t + 1])
            np.testing.assert_array_equal(episode["observation.state"][t + 1], info["pos_agent"].astype(np.float32))
            rest = info["keypoints"] if how.make_env is PushTEnv else [info["door_y"], *info["pos_goal"]]
            rest = np.asarray(rest, np.float32)
            np.testing.assert_array_equal(episode["observation.environment_state"][t + 1], rest)


def test_episodes_depend_on_seed_and_index_alone():
    first, again = record_episode(index=1, **SETTINGS)[0], record_episode(index=1, **SETTINGS)[0]
    assert_same_episode(first, again)
    for other in (record_episode(index=2, **SETTINGS)[0], record_episode(index=1, **{**SETTINGS, "seed": 8})[0]):
        assert not np.array_equal(first["observation.sim_state"], other["observation.sim_state"])


def test_mix_is_respected():
    policies = [record_episode(seed=0, index=i, steps=1, mix=MIX, near_goal=0)[1]["policy"] for i in range(100)]
    for policy, share in MIX.items():
        assert abs(policies.count(policy) / 100 - share) < 0.15


def test_near_goal_starts_are_near_the_goal():
    starts = [record_episode(seed=0, index=i, steps=1, mix=MIX, near_goal=1)[0] for i in range(25)]
    gaps = [np.linalg.norm(e["observation.sim_state"][0, 4:6] - GOAL_POSE[:2]) for e in starts]
    assert np.median(gaps) < 30 and any(e["next.success"].any() for e in starts)


def test_tworoom_starts_near_the_goal_when_asked():
    starts = [record_episode(index=i, **{**TWOROOM, "steps": 1, "near_goal": 1})[0] for i in range(25)]
    gaps = np.array([path_length(e["observation.sim_state"][0]) for e in starts])
    assert np.median(gaps) < 13 and any(e["next.success"].any() for e in starts)


def test_a_tworoom_collection(tmp_path):
    out = collect(tmp_path / "set", episodes=2, workers=0, **TWOROOM)
    dataset = LeRobotDataset(out)
    assert (dataset.num_episodes, dataset.fps) == (2, 10)
    assert json.loads((out / "meta/info.json").read_text())["robot_type"] == "tworoom"
    keys = ["observation.sim_state", "action", "next.reward", "next.success"]
    assert_same_episode(dataset.episode(1, keys), record_episode(index=1, **TWOROOM)[0], keys)


def test_a_collection_of_before_there_were_several_simulators_goes_on(tmp_path):
    collect(tmp_path / "set", episodes=1, workers=0, **SETTINGS)
    note = tmp_path / "set/meta/collect.json"
    note.write_text(json.dumps(SETTINGS))
    collect(tmp_path / "set", episodes=2, workers=0, **SETTINGS)
    assert LeRobotDataset(tmp_path / "set").num_episodes == 2


def test_pusht_is_recorded_as_it_always_was():
    """The shipped world's data: the same numbers come of the same seed."""
    episode, _ = record_episode(seed=0, index=5, steps=3, mix=MIX, near_goal=0.1)
    places = [318.20706304, 82.83162479, 39.46965339, 69.35983942, 210.65632658, 188.8784664, -2.27266599]
    np.testing.assert_allclose(episode["observation.sim_state"][2, :7], places, atol=1e-6)
    np.testing.assert_allclose(episode["action"][2], [274.14853, 135.19647], atol=1e-4)


def test_workers_record_what_one_process_records():
    alone = list(record_episodes(2, 5, workers=0, **SETTINGS))
    together = list(record_episodes(2, 5, workers=2, **SETTINGS))
    assert len(alone) == len(together) == 3
    for (a, a_metadata), (b, b_metadata) in zip(alone, together, strict=True):
        assert a_metadata == b_metadata
        assert_same_episode(a, b)


def test_dataset_holds_the_episodes(tmp_path):
    out = collect(tmp_path / "set", episodes=3, workers=0, **SETTINGS)
    dataset = LeRobotDataset(out)
    assert (dataset.num_episodes, dataset.fps) == (3, 10)
    for index in range(3):
        episode, metadata = record_episode(index=index, **SETTINGS)
        stored = dataset.episode(index)
        assert_same_episode(stored, episode, keys=[key for key in FEATURES if key != "observation.image"])
        gap = stored["observation.image"].astype(float) - episode["observation.image"]
        assert 10 * np.log10(255**2 / np.mean(gap**2)) > 40
        assert columns(out, "policy")[index] == metadata["policy"] and columns(out, "seed")[index] == 7


def test_an_interrupted_collection_goes_on(tmp_path, monkeypatch):
    recorded = []

    def interrupted_at_third(*, index, **settings):
        if index == 3:
            raise KeyboardInterrupt
        recorded.append(index)
        return record_episode(index=index, **settings)

    monkeypatch.setattr(sana_wm.collect, "record_episode", interrupted_at_third)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "set", episodes=5, workers=0, **SETTINGS)
    assert LeRobotDataset(tmp_path / "set").num_episodes == 3  # flushed on the way out
    monkeypatch.setattr(sana_wm.collect, "record_episode", record_episode)
    collect(tmp_path / "set", episodes=5, workers=0, **SETTINGS)
    dataset = LeRobotDataset(tmp_path / "set")
    assert dataset.num_episodes == 5 and recorded == [0, 1, 2]
    keys = ["observation.sim_state", "action"]
    for index in range(5):
        assert_same_episode(dataset.episode(index, keys), record_episode(index=index, **SETTINGS)[0], keys)


def test_a_finished_collection_is_left_alone(tmp_path):
    collect(tmp_path / "set", episodes=2, workers=0, **SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*") if path.is_file()}
    collect(tmp_path / "set", episodes=2, workers=0, **SETTINGS)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*") if path.is_file()}


def test_other_settings_do_not_mix_into_a_collection(tmp_path):
    collect(tmp_path / "set", episodes=1, workers=0, **SETTINGS)
    with pytest.raises(ValueError, match="was begun with .* or another folder"):
        collect(tmp_path / "set", episodes=2, workers=0, **{**SETTINGS, "seed": 8})


@pytest.mark.parametrize(
    "wrong",
    [
        {"mix": {"scripted": 0.5}},
        {"mix": {"wizard": 1.0}},
        {"mix": {}},
        {"steps": 0},
        {"near_goal": 2},
        {"simulator": "chess"},
    ],
)
def test_senseless_settings_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ValueError, match="got .*expected"):
        collect(tmp_path / "set", episodes=1, workers=0, **{**SETTINGS, **wrong})
    assert not (tmp_path / "set").exists()


def test_command_line_killed_and_continued(tmp_path):
    command = [sys.executable, "-m", "sana_wm.collect", "out=set", "steps=10", "workers=1", "flush_every=2"]
    process = subprocess.Popen([*command, "episodes=100000"], cwd=tmp_path)
    try:
        info = tmp_path / "set/meta/info.json"
        deadline = time.monotonic() + 60
        while not (info.exists() and json.loads(info.read_text())["total_episodes"]):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    done = json.loads(info.read_text())["total_episodes"]
    assert done > 0
    subprocess.run([*command, f"episodes={done + 3}"], cwd=tmp_path, check=True)
    dataset = LeRobotDataset(tmp_path / "set")
    dataset.validate()
    assert dataset.num_episodes == done + 3
    assert [path.name for path in tmp_path.iterdir()] == ["set"]  # Hydra leaves nothing behind
