"""The reader on v2.1, embedded images, files with different boundaries, and in other processes."""

import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest

from sana_wm.data import DatasetError, LeRobotDataset, LeRobotWriter, VideoEncoding
from sana_wm.data.columns import to_arrow
from tests.data.datasets import assert_marked, build_v21, make_episode, marked_frames, write_dataset


def test_importing_the_room_does_not_import_torch():
    code = "import sys, sana_wm.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_v21(tmp_path):
    dataset = LeRobotDataset(build_v21(tmp_path / "set"))
    assert dataset.episode_lengths.tolist() == [5, 7, 4]
    for index in (2, 0, 1):
        episode, source = dataset.episode(index), make_episode(index, int(dataset.episode_lengths[index]))
        assert_marked(episode["observation.images.top"], index)
        np.testing.assert_array_equal(episode["observation.state"], source["observation.state"])
        assert episode["task"] == [f"task {index % 2}"] * len(source["action"])
    states = np.concatenate([dataset.episode(i)["observation.state"] for i in range(3)]).astype(np.float64)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(dataset.stats["observation.state"][name], getattr(states, name)(axis=0), rtol=1e-6)
    dataset.validate()


def test_cameras_with_different_file_boundaries(tmp_path):
    """Small files: the noisy camera rolls over often, the plain one seldom, within a part and across parts."""
    shapes = {"observation.images.plain": (16, 24, 3), "observation.images.noisy": (33, 21, 3)}
    features = {key: {"dtype": "video", "shape": shape} for key, shape in shapes.items()}
    rng = np.random.default_rng(0)
    lengths = [3, 9, 5, 8, 4, 6, 7, 5, 2]
    noise = [rng.integers(0, 256, (length, *shapes["observation.images.noisy"]), np.uint8) for length in lengths]
    encoding = VideoEncoding(options={"crf": "10", "tune": "zerolatency"})  # sizes are known at once
    with LeRobotWriter(
        tmp_path / "set", 10, features, flush_every=5, video_file_megabytes=0.008, encoding=encoding
    ) as writer:
        for index, length in enumerate(lengths):
            frames = {
                "observation.images.plain": marked_frames(index, length),
                "observation.images.noisy": noise[index],
            }
            writer.add_episode(frames, "look")
    files = {key: len(list((tmp_path / "set/videos" / key).rglob("*.mp4"))) for key in shapes}
    assert 2 <= files["observation.images.plain"] < files["observation.images.noisy"] < len(lengths) + 1
    dataset = LeRobotDataset(tmp_path / "set")
    for index in (4, 8, 0, 7, 1, 2, 3, 5, 6):
        episode = dataset.episode(index)
        assert_marked(episode["observation.images.plain"], index)
        assert episode["observation.images.noisy"].shape == noise[index].shape
        error = episode["observation.images.noisy"].astype(float) - noise[index]
        assert np.abs(error).mean() < 12  # two different noise frames are 85 apart
    dataset.validate()


def test_embedded_images_strings_and_nested_shapes(tmp_path):
    features = {
        "observation.image": {"dtype": "image", "shape": (9, 13, 3)},
        "note": {"dtype": "string", "shape": (1,)},
        "grid": {"dtype": "float64", "shape": (2, 3)},
        "count": {"dtype": "uint8", "shape": (1,)},
    }
    rng = np.random.default_rng(0)
    episodes = [
        {
            "observation.image": rng.integers(0, 256, (length, 9, 13, 3), np.uint8),
            "note": [f"note {index}.{t}" for t in range(length)],
            "grid": rng.normal(size=(length, 2, 3)),
            "count": rng.integers(0, 256, (length, 1), np.uint8),
        }
        for index, length in enumerate([4, 2])
    ]
    with LeRobotWriter(tmp_path / "set", 5, features) as writer:
        for episode in episodes:
            writer.add_episode(episode, "t")
    dataset = LeRobotDataset(tmp_path / "set")
    assert not (tmp_path / "set/videos").exists()
    for index, source in enumerate(episodes):
        episode = dataset.episode(index)
        for key in ("observation.image", "grid", "count"):  # PNG is lossless
            np.testing.assert_array_equal(episode[key], source[key])
            assert episode[key].dtype == source[key].dtype
        assert episode["note"].tolist() == source["note"]
    dataset.validate()


def test_jpeg_cells_decode_too(tmp_path):
    import av

    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 16, 16, "yuvj444p", 1
    grey = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 90, np.uint8), format="rgb24").reformat(format="yuvj444p")
    jpeg = b"".join(bytes(packet) for packet in [*context.encode(grey), *context.encode(None)])
    from sana_wm.data.video import decode_image

    np.testing.assert_allclose(decode_image(jpeg, "cell"), 90, atol=2)
    with pytest.raises(DatasetError, match="cell"):
        decode_image(jpeg[:20], "cell")


def _read_in_child(dataset: LeRobotDataset, connection) -> None:
    connection.send([dataset.episode(index)["cam"] for index in (5, 3)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_use_in_loader_processes(tmp_path, method):
    """A child opens files of its own: where it reads does not move the place where its parent reads on.

    The video is noise, so that it is larger than any read-ahead of the parent.
    """
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not available on this system")
    noise = np.random.default_rng(0).integers(0, 256, (6, 12, 64, 64, 3), np.uint8)
    with LeRobotWriter(tmp_path, 10, {"cam": {"dtype": "video", "shape": (64, 64, 3)}}) as writer:
        for frames in noise:
            writer.add_episode({"cam": frames}, "t")
    expected = [LeRobotDataset(tmp_path).episode(index)["cam"] for index in range(6)]

    dataset = LeRobotDataset(tmp_path)
    dataset.episode(0)
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_read_in_child, args=(dataset, sender))
    child.start()
    sender.close()  # so that a child that fails ends the wait below
    assert receiver.poll(60), "the child does not answer"
    there = receiver.recv()
    child.join(30)
    assert child.exitcode == 0
    np.testing.assert_array_equal(there, [expected[5], expected[3]])
    for index in (1, 2):
        np.testing.assert_array_equal(dataset.episode(index)["cam"], expected[index])


def test_pickle_keeps_dataset_and_error(tmp_path):
    dataset = pickle.loads(pickle.dumps(LeRobotDataset(write_dataset(tmp_path / "set"))))
    assert_marked(dataset.episode(1)["observation.images.top"], 1)
    error = pickle.loads(pickle.dumps(DatasetError("bad", ["a", "b"])))
    assert error.problems == ["a", "b"] and str(error) == "bad\n  - a\n  - b"


def test_hub_name_that_cannot_be_had(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def unreachable(repo, **kwargs):
        asked.append((repo, kwargs))
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(DatasetError, match=r"lerobot/pusht.*Hugging Face hub.*no network.*local copy"):
        LeRobotDataset("lerobot/pusht", revision="v3.0")
    assert asked == [("lerobot/pusht", {"repo_type": "dataset", "revision": "v3.0"})]
    with pytest.raises(DatasetError, match="no such folder"):
        LeRobotDataset(tmp_path / "nowhere")


def test_hub_name_that_downloads(monkeypatch, tmp_path):
    import huggingface_hub

    root = write_dataset(tmp_path / "set")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(root))
    assert LeRobotDataset("someone/something").num_episodes == 4


def test_vectors_are_stored_with_a_fixed_size():
    import pyarrow as pa

    array = to_arrow(np.zeros((5, 2, 3), np.float32), {"dtype": "float32", "shape": (2, 3)})
    assert array.type == pa.list_(pa.list_(pa.float32(), 3), 2)
