"""The unified 80 dimensions: where columns go, what the network sees of them, and what is refused."""

import json

import numpy as np
import pytest
import torch

from sana_wm.world import ActionCodec
from sana_wm.world.robot_layout import DIMS, HIDDEN, PROFILES, RESERVED, WIDTH, place_columns, visible

LEFT_RIGHT = {"dual_arm34": 34, "right_arm17": 17, "dual_hand20": 20}


def draws(width: int, seed: int = 0) -> np.ndarray:
    """Training actions (N, A) whose columns have statistics of their own."""
    rng = np.random.default_rng(seed)
    return rng.normal(np.arange(width), 1 + np.arange(width), (200, width)).astype(np.float32)


def test_the_table_is_that_of_the_specification():
    assert len(DIMS) == len(set(DIMS)) == WIDTH
    for dims, name in (
        (range(0, 7), "left_joint"), (range(7, 10), "left_position"), (range(10, 16), "left_rot6d"),
        ([16], "left_gripper"), (range(17, 29), "left_hand"), (range(29, 36), "right_joint"),
        (range(36, 39), "right_position"), (range(39, 45), "right_rot6d"), ([45], "right_gripper"),
        (range(46, 58), "right_hand"), (HIDDEN, "camera"), (RESERVED, "reserved"),
    ):  # fmt: skip
        assert all(DIMS[dim].startswith(name) for dim in dims), name
    assert (HIDDEN[0], HIDDEN[-1], RESERVED[0], RESERVED[-1]) == (58, 66, 67, 79)
    assert {name: len(set(dims)) for name, dims in PROFILES.items()} == LEFT_RIGHT
    seen = visible(range(WIDTH))
    assert seen.sum() == WIDTH - 9 and not seen[list(HIDDEN)].any()


def test_columns_are_placed_by_name_by_mapping_and_by_profile():
    assert place_columns(["right_gripper", "left_joint_0"]) == (45, 0)
    assert place_columns(["j", "right_gripper", "k"], {"j": "right_joint_0", "k": 31}) == (29, 45, 31)
    names = [f"motor_{i}" for i in range(17)]
    assert place_columns(names, profile="right_arm17") == PROFILES["right_arm17"]
    assert place_columns(["right_joint_2", "camera_0"], profile="right_arm17") == (31, 58)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: place_columns(["elbow", "left_gripper"]), r"columns \['elbow'\] have no place .*elbow: right_joint_0"),
        (lambda: place_columns(["a", "a"], {"a": 0}), r"columns \['a'\] are there more than once"),
        (lambda: place_columns(["a", "b"], {"a": 3, "b": "left_joint_3"}), "'a' and 'b' are both left_joint_3"),
        (lambda: place_columns(["a"], {"a": "elbow"}), "mapped to 'elbow': expected left_joint_0"),
        (lambda: place_columns(["a"], {"a": 80}), "mapped to 80"),
        (lambda: place_columns(["a"], {"a": 0, "b": 1}), r"columns \['b'\] that are not there; the columns are"),
        (lambda: place_columns(["a"], {"a": 70}), "reserved"),
        (lambda: place_columns(["camera_3"]), "the network would see none"),
        (lambda: place_columns(["left_joint_0"], profile="right_arm17"), "which the profile 'right_arm17' does not"),
        (lambda: place_columns(["left_joint_0"], profile="arm"), "expected one of dual_arm34, right_arm17"),
        (lambda: place_columns([f"m{i}" for i in range(16)], profile="right_arm17"), "have no place"),
    ],
)  # fmt: skip
def test_columns_that_have_no_place_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("per_latent", [1, 3])
def test_the_network_sees_values_at_their_dimensions_and_the_mask(per_latent):
    actions = draws(3)
    names = ["right_gripper", "camera_4", "left_joint_5"]
    codec = ActionCodec.unified_robot80(actions, names, per_latent=per_latent)
    plain = ActionCodec.fit(actions, names)
    step = torch.from_numpy(actions[: 4 * per_latent]).double().reshape(4, *codec.shape)
    seen = codec.normalise(step)
    assert seen.shape == (4, codec.network_width) and codec.network_width == (per_latent + 1) * WIDTH
    assert codec.shape == ((3,) if per_latent == 1 else (per_latent, 3))
    values, mask = seen.split([per_latent * WIDTH, WIDTH], dim=-1)
    values = values.reshape(4, per_latent, WIDTH)
    expected = torch.zeros_like(values)
    normal = plain.normalise(step.reshape(4, per_latent, 3))  # statistics of each column, wherever it goes
    expected[..., 45], expected[..., 5] = normal[..., 0], normal[..., 2]
    assert torch.equal(values, expected)
    assert set(mask[0].nonzero()[:, 0].tolist()) == {5, 45} and (mask == mask[0]).all()

    hidden = step.clone()
    hidden[..., 1] += 7  # the camera is for audit only
    assert torch.equal(codec.normalise(hidden), seen)


def test_robots_with_different_bodies_share_one_network():
    codecs = [
        ActionCodec.unified_robot80(draws(width), [f"m{i}" for i in range(width)], profile=profile, per_latent=8)
        for profile, width in LEFT_RIGHT.items()
    ]
    assert {codec.network_width for codec in codecs} == {720}
    assert [codec.shape for codec in codecs] == [(8, 34), (8, 17), (8, 20)]
    masks = [codec.normalise(torch.zeros(codec.shape))[-WIDTH:] for codec in codecs]
    assert [int(mask.sum()) for mask in masks] == [34, 17, 20]
    # a robot at its mean is not a robot without the dimension
    at_mean = [codec.normalise(torch.tensor(codec.mean).expand(codec.shape)) for codec in codecs]
    assert all(seen[:-WIDTH].abs().max() < 1e-5 for seen in at_mean)
    assert len({tuple(seen[-WIDTH:].tolist()) for seen in at_mean}) == 3


def test_the_layout_is_saved_with_the_codec():
    codec = ActionCodec.unified_robot80(draws(2), ["a", "b"], {"a": "left_gripper", "b": 45}, per_latent=8)
    again = ActionCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again == codec and again.dims == (16, 45) and again.network_width == 720
    assert again.action_space.shape == (8, 2)
