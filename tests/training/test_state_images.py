"""Pictures told by states: which frames, what is told, and what is held out."""

import numpy as np
import pytest
import torch
from torch import nn

from sana_wm.data import LeRobotDataset, LeRobotWriter
from sana_wm.training.state_images import PickedFrames, StateImages, state_images, state_tokens, told_values

SIZE, LENGTHS = (16, 24), (7, 5, 6, 8, 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Episodes whose frame t is of one grey, and whose column pose holds (10 e + t, angle, grey)."""
    folder = tmp_path_factory.mktemp("data") / "set"
    features = {
        "observation.image": {"dtype": "video", "shape": (*SIZE, 3)},
        "pose": {"dtype": "float32", "shape": (3,), "names": ["x", "turn", "grey"]},
        "flag": {"dtype": "bool", "shape": (1,), "names": ["f"]},
    }
    with LeRobotWriter(folder, 10, features) as writer:
        for episode, length in enumerate(LENGTHS):
            grey = 20 + 40 * episode + 4 * np.arange(length)
            frames = np.broadcast_to(grey[:, None, None, None], (length, *SIZE, 3)).astype(np.uint8)
            pose = np.stack([10.0 * episode + np.arange(length), 0.5 * np.arange(length), grey], 1).astype(np.float32)
            flag = np.zeros((length, 1), bool)
            writer.add_episode({"observation.image": frames, "pose": pose, "flag": flag}, "look")
    return folder


class Mean(nn.Module):
    """A tokenizer whose latent is the mean of the frame's pixels."""

    def __init__(self):
        super().__init__()
        self.register_buffer("background", torch.zeros(1))

    def encode(self, frames):
        return frames.float().mean((1, 2, 3))[:, None, None, None].expand(-1, 2, 1, 1)


@pytest.mark.parametrize("every", [1, 3])
def test_picked_frames_are_those_of_the_episodes(root, every):
    dataset = LeRobotDataset(root)
    picked = PickedFrames(dataset, "observation.image", every)
    whole = np.concatenate([dataset.episode(e)["observation.image"][::every] for e in range(len(LENGTHS))])
    assert len(picked) == len(whole) and picked.rows().shape == (len(whole), 2)
    for start in range(len(whole)):
        for stop in (start + 1, start + 4, len(whole) + 5):
            np.testing.assert_array_equal(picked[start:stop], whole[start:stop])
    for (episode, frame), got in zip(picked.rows(), whole, strict=True):
        np.testing.assert_array_equal(dataset.episode(episode)["observation.image"][frame], got)


def settings(root, **changes):
    return StateImages(str(root), **{"told": ("pose/x",), "angles": ("pose/turn",), "every": 2} | changes)


def test_pictures_and_what_is_told_of_them_belong_together(root, tmp_path):
    told = settings(root, told=("pose/grey",), angles=())
    train, held_out = state_images(told, Mean(), tmp_path / "latents")
    grey = told_values(LeRobotDataset(root), ("pose/grey",), 2)
    latents = np.concatenate([train.buckets[0].latents, held_out.latents])[:, 0, 0, 0]
    np.testing.assert_allclose(latents, grey[:, 0], atol=3)  # of a video codec
    # five episodes: the last two are held out, of 8 and 3 frames, every second of which is a picture
    assert held_out.rows.tolist() == [[3, 0], [3, 2], [3, 4], [3, 6], [4, 0], [4, 2]] and len(train) == 4 + 3 + 3
    both = np.concatenate([train.text, held_out.text])
    low, high = grey[:10].min(), grey[:10].max()
    np.testing.assert_allclose(both, state_tokens(grey, low, high, np.zeros((16, 0))))
    assert train.mask.all() and train.null_mask.all() and not train.null_text.any()
    batch = train.draw(np.random.default_rng(0), 4)
    assert batch.text.shape == (4, 1, 17) and batch.latents.shape == (4, 2, 1, 1)
    again, _ = state_images(told, Mean(), tmp_path / "latents", progress=lambda *_: pytest.fail("encoded anew"))
    np.testing.assert_array_equal(again.buckets[0].latents, train.buckets[0].latents)


def test_tokens_tell_values_apart_and_angles_are_circles():
    values, angles = np.array([[0.0], [1.0], [512.0], [300.0]]), np.array([[0.1], [0.1 + 2 * np.pi], [0.2], [-3.0]])
    tokens = state_tokens(values, np.zeros(1), np.full(1, 512.0), angles)
    assert tokens.shape == (4, 2, 18) and tokens.dtype == np.float32
    apart = np.linalg.norm(tokens[:, None, 0] - tokens[None, :, 0], axis=-1)
    assert apart[0, 1] > 0.3 and apart[0, 2] > 1  # a pixel, and the two ends of the range
    np.testing.assert_allclose(tokens[0, 1], tokens[1, 1], atol=1e-5)
    assert np.linalg.norm(tokens[0, 1] - tokens[2, 1]) > 1
    np.testing.assert_array_equal(tokens[0, :, 16:], np.eye(2))  # which of them it is


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"told": ("pose/y",)}, "'pose/y'.*no such value.*pose/x"),
        ({"angles": ("poses/turn",)}, "poses/turn"),
        ({"camera": "front"}, "no camera 'front'.*observation.image"),
    ],
)
def test_what_the_dataset_lacks_is_said(root, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        state_images(settings(root, **changes), Mean(), tmp_path / "latents")


@pytest.mark.parametrize("changes", [{"every": 0}, {"told": (), "angles": ()}])
def test_settings_that_cannot_be_meant(root, changes):
    with pytest.raises(ValueError, match="every from 1 on"):
        settings(root, **changes)
