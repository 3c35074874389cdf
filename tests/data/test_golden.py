"""Reading a set that the official lerobot 0.4.4 writer made: solid frames, channel episode % 3 holds frame * 10."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sana_wm.data import LeRobotDataset
from tests.data.datasets import GOLDEN

CAMERA = "observation.images.front"


@pytest.fixture
def golden_copy(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "set")
    return tmp_path / "set"


def test_describes_the_set():
    dataset = LeRobotDataset(GOLDEN)
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (3, 39, 10)
    assert dataset.episode_lengths.tolist() == [12, 13, 14]
    assert dataset.cameras == [CAMERA]
    assert dataset.tasks == {0: "task 0", 1: "task 1"}
    assert dataset.features[CAMERA]["shape"] == (64, 64, 3)
    assert dataset.stats[CAMERA]["mean"].shape == (3, 1, 1)
    assert dataset.stats["action"]["q99"].shape == (2,)
    dataset.validate()


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 0]])
def test_frames_belong_to_their_rows(order):
    dataset = LeRobotDataset(GOLDEN)
    for index in order:
        episode = dataset.episode(index)
        length = 12 + index
        assert episode[CAMERA].shape == (length, 64, 64, 3) and episode[CAMERA].dtype == np.uint8
        means = episode[CAMERA].mean(axis=(1, 2))
        # AV1 in yuv420p moves the levels by up to 2; neighbouring frames are 10 apart.
        np.testing.assert_allclose(means[:, index % 3], 10 * np.arange(length), atol=3)
        assert np.delete(means, index % 3, axis=1).max() < 5
        np.testing.assert_array_equal(episode["next.reward"][:, 0], np.arange(length))
        np.testing.assert_array_equal(episode["episode_index"][:, 0], index)
        np.testing.assert_array_equal(episode["next.done"][:, 0], np.arange(length) == length - 1)
        assert episode["action"].shape == (length, 2) and episode["action"].dtype == np.float32
        assert episode["task"] == [f"task {index % 2}"] * length


def test_only_the_keys_asked_for():
    dataset = LeRobotDataset(GOLDEN)
    assert list(dataset.episode(1, ["task", "action"])) == ["task", "action"]
    assert list(dataset.episode(1, [CAMERA])) == [CAMERA]
    with pytest.raises(KeyError, match="observation.images.rear"):
        dataset.episode(0, ["observation.images.rear"])
    with pytest.raises(IndexError, match="0 to 2"):
        dataset.episode(3)


def test_task_text_under_its_newer_column_name(golden_copy):
    path = golden_copy / "meta/tasks.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.table({"task_index": table["task_index"], "task": table["__index_level_0__"]}), path)
    assert LeRobotDataset(golden_copy).episode(1, ["task"])["task"][0] == "task 1"


def test_unknown_keys_float_fps_and_absent_statistics_are_no_obstacle(golden_copy):
    path = golden_copy / "meta/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"fps": 10.0, "tools": ["a"], "video_path": info["video_path"]}))
    (golden_copy / "meta/stats.json").unlink()
    dataset = LeRobotDataset(golden_copy)
    assert dataset.fps == 10.0 and dataset.stats == {}
    dataset.validate()


def test_camera_described_channels_first(golden_copy):
    path = golden_copy / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"][CAMERA] |= {"shape": [3, 64, 64], "names": ["channels", "height", "width"]}
    path.write_text(json.dumps(info))
    assert LeRobotDataset(golden_copy).episode(0)[CAMERA].shape == (12, 64, 64, 3)
