"""Camera actions step by step: against whole paths, against the exponential, and what they refuse."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sana_wm.world.camera_actions import KEY_MAPPINGS, KEYS, action_path, move_camera, standing_camera
from sana_wm.world.camera_codec import FRAMES, CameraDeltaCodec, CameraKeyCodec, se3_exp

CODECS = [CameraDeltaCodec(), *(CameraKeyCodec(name) for name in KEY_MAPPINGS)]
BOTH_MAPPINGS = pytest.mark.parametrize("mapping", KEY_MAPPINGS)
ALL_CODECS = pytest.mark.parametrize("codec", CODECS, ids=["delta", *KEY_MAPPINGS])


def sampled(codec, lanes, steps, seed=0):
    """Valid actions (steps, lanes, *shape)."""
    space = codec.action_space
    space.seed(seed)
    return np.array([[space.sample() for _ in range(lanes)] for _ in range(steps)])


def walk(codec, actions, carried=None):
    """Poses (B, 8 steps, 4, 4) of actions (steps, B, ...), and what is carried in the end."""
    carried = codec.initial(actions.shape[1]) if carried is None else carried
    poses = []
    for action in actions:
        path, carried = codec.advance(carried, action)
        poses.append(path)
    return torch.cat(poses, dim=1), carried


def delta(**columns):
    return np.array([[columns.get(name, 0.0) for name in CameraDeltaCodec.names]])


# keys


@BOTH_MAPPINGS
@pytest.mark.parametrize("seed", range(3))
def test_steps_of_keys_are_the_path_of_the_keys(mapping, seed):
    rng = np.random.default_rng(seed)
    actions = (rng.random((30, 1, 8)) < 0.3).astype(np.int8)
    actions[7] = actions[6]  # keys that stay down are no new press
    poses, carried = walk(CameraKeyCodec(mapping), actions)
    frames = ["".join(key for key, held in zip(KEYS, row[0], strict=True) if held) for row in actions.repeat(8, axis=0)]
    expected = action_path(frames, mapping)
    np.testing.assert_array_equal(poses[0].numpy().astype(np.float32), expected[1:])
    assert torch.equal(carried["pose"], poses[:, -1]) and poses.dtype == torch.float64


@BOTH_MAPPINGS
def test_a_path_cut_anywhere_goes_on_exactly(mapping):
    held = torch.from_numpy(np.random.default_rng(3).random((2, 31, 8)) < 0.3).double()
    mapping = KEY_MAPPINGS[mapping]
    whole, end = move_camera(standing_camera(2), held, mapping)
    for cut in (0, 1, 17, 31):
        first, between = move_camera(standing_camera(2), held[:, :cut], mapping)
        second, after = move_camera(between, held[:, cut:], mapping)
        assert torch.equal(torch.cat([first, second], dim=1), whole)
        assert all(torch.equal(after[name], end[name]) for name in end)


def test_keys_are_the_columns():
    codec = CameraKeyCodec("ad-turn")
    assert codec.names == tuple("wasdijkl") and codec.shape == codec.action_space.shape == (8,)
    forward = codec.advance(codec.initial(1), codec.check([[1, 0, 0, 0, 0, 0, 0, 0]]))[0][0, -1, :3, 3]
    np.testing.assert_allclose(forward, [0, 0, 8 * 0.025], atol=1e-15)


# deltas


def test_the_exponential_is_that_of_the_twist_matrix():
    generator = torch.Generator().manual_seed(0)
    xi = torch.randn(40, 6, dtype=torch.float64, generator=generator)
    for scale in (0.0, 1e-9, 1e-4, 9e-3, 1.1e-2, 1.0, 3.0):
        scaled = torch.cat([xi[:, :3], xi[:, 3:] * scale], dim=1)
        x, y, z = scaled[:, 3:].unbind(-1)
        matrix = torch.zeros(40, 4, 4, dtype=torch.float64)
        matrix[:, 2, 1], matrix[:, 0, 2], matrix[:, 1, 0] = x, y, z
        matrix = matrix - matrix.mT
        matrix[:, :3, 3] = scaled[:, :3]
        torch.testing.assert_close(se3_exp(scaled), torch.linalg.matrix_exp(matrix), rtol=0, atol=2e-14)


def test_eight_frames_share_a_step_evenly_and_end_at_its_twist():
    codec = CameraDeltaCodec()
    actions = sampled(codec, 3, 2)
    before, carried = walk(codec, actions[:1])
    poses, _ = codec.advance(carried, actions[1])
    assert poses.shape == (3, FRAMES, 4, 4) and poses.dtype == torch.float64
    xi = torch.from_numpy(actions[1]).double()
    xi[:, 3:] = torch.deg2rad(xi[:, 3:])
    torch.testing.assert_close(poses[:, -1], before[:, -1] @ se3_exp(xi), rtol=0, atol=1e-14)
    steps = torch.cat([before[:, -1:], poses], dim=1)
    between = torch.linalg.inv(steps[:, :-1]) @ steps[:, 1:]
    torch.testing.assert_close(between, se3_exp(xi / 8)[:, None].expand_as(between), rtol=0, atol=1e-14)


@pytest.mark.parametrize("axis", range(3))
def test_a_pure_translation_is_a_straight_line_along_the_cameras_axis(axis):
    codec = CameraDeltaCodec()
    turned = codec.advance(codec.initial(1), delta(turn_right=9, pitch_up=-5, roll_clockwise=3))[1]
    pose = turned["pose"][0].numpy()
    poses = codec.advance(turned, delta(**{codec.names[axis]: 0.32}))[0][0].numpy()
    np.testing.assert_allclose(poses[:, :3, :3], np.broadcast_to(pose[:3, :3], (8, 3, 3)), atol=1e-15)
    np.testing.assert_allclose(poses[:, :3, 3], np.outer(np.arange(1, 9) * 0.04, pose[:3, axis]), atol=1e-15)


@pytest.mark.parametrize(
    ("column", "looks", "towards"),
    [
        ("pitch_up", (0, 0, 1), (0, -1, 0)),
        ("turn_right", (0, 0, 1), (1, 0, 0)),
        ("roll_clockwise", (1, 0, 0), (0, 1, 0)),
    ],
)
def test_a_pure_rotation_turns_on_the_spot_in_the_sense_of_its_name(column, looks, towards):
    poses = CameraDeltaCodec().advance(CameraDeltaCodec().initial(1), delta(**{column: 8.0}))[0][0].numpy()
    assert (poses[:, :3, 3] == 0).all()
    angles = np.radians(np.arange(1, 9))[:, None]
    np.testing.assert_allclose(poses[:, :3, :3] @ looks, np.cos(angles) * looks + np.sin(angles) * towards, atol=1e-15)


def test_a_step_and_its_opposite_cancel_and_halves_make_a_whole():
    codec = CameraDeltaCodec()
    action = sampled(codec, 4, 1)
    there, carried = walk(codec, action)
    torch.testing.assert_close(walk(codec, -action, carried)[1], codec.initial(4), rtol=0, atol=1e-14)
    torch.testing.assert_close(walk(codec, np.stack([action[0] / 2] * 2))[1]["pose"], there[:, -1], rtol=0, atol=1e-8)


def test_pitch_has_no_limit():
    poses = walk(CameraDeltaCodec(), delta(pitch_up=9.0)[None].repeat(40, axis=0))[0][0]  # once around
    np.testing.assert_allclose(poses[-1], np.eye(4), atol=1e-13)
    assert poses[:, 1, 2].min() == pytest.approx(-1, abs=1e-4)


def test_rotations_stay_orthonormal_over_10000_steps():
    codec = CameraDeltaCodec()
    carried, actions = codec.initial(1), sampled(codec, 1, 50)
    for step in range(10_000):
        carried = codec.advance(carried, actions[step % 50])[1]
    rotation = carried["pose"][0, :3, :3]
    assert (rotation.mT @ rotation - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-9
    assert carried["pose"][0, 3].tolist() == [0, 0, 0, 1] and rotation.det() > 0


# both


@ALL_CODECS
def test_lanes_do_not_depend_on_each_other(codec):
    actions = sampled(codec, 5, 6)
    poses, carried = walk(codec, actions)
    for lane in range(5):
        alone, alone_carried = walk(codec, actions[:, lane : lane + 1])
        torch.testing.assert_close(alone[0], poses[lane], rtol=0, atol=1e-14)
        for name, values in alone_carried.items():
            torch.testing.assert_close(values[0], carried[name][lane], rtol=0, atol=1e-14)
    assert (poses[0] - poses[1]).abs().max() > 0.01


@ALL_CODECS
def test_what_is_carried_is_a_value_of_constant_size(codec):
    actions = sampled(codec, 3, 4)
    start = codec.initial(3)
    other = {"frames": torch.zeros(3, 1)}  # of the world, none of the codec's business
    copy = {name: tensor.clone() for name, tensor in start.items()}
    _, carried = walk(codec, actions, start | other)
    assert all(torch.equal(start[name], copy[name]) for name in start)
    assert {name: (t.shape, t.dtype) for name, t in carried.items()} == {
        name: (t.shape, torch.float64) for name, t in start.items()
    }


@ALL_CODECS
def test_a_codec_survives_json(codec):
    changed = replace(codec, frames=3)
    if isinstance(codec, CameraKeyCodec):
        changed = replace(changed, mapping=replace(codec.mapping, rotation_speed=2.5))
    else:
        changed = replace(changed, high=(1, 2, 3, 4, 5, 6))
    for each in (codec, changed):
        values = json.loads(json.dumps(each.to_dict()))
        assert type(codec).from_dict(values) == each
    assert changed != codec and changed.advance(changed.initial(1), np.zeros((1, *codec.shape)))[0].shape[1] == 3
    with pytest.raises(ValueError, match=f"expected '{codec.kind}'"):
        type(codec).from_dict(codec.to_dict() | {"kind": "robot"})


@ALL_CODECS
def test_check_takes_what_the_space_holds(codec):
    actions = sampled(codec, 2, 3)
    checked = codec.check(actions)
    np.testing.assert_array_equal(checked, actions)
    assert checked.dtype == codec.action_space.dtype and codec.action_space.contains(checked[0, 0])


def test_bounds_are_the_published_speeds_and_can_be_others():
    space = CameraDeltaCodec().action_space
    np.testing.assert_allclose(space.high, [0.4, 0.4, 0.4, 9.6, 9.6, 9.6], rtol=1e-6)
    np.testing.assert_array_equal(space.low, -space.high)
    CameraDeltaCodec().check(space.high)
    wide = replace(CameraDeltaCodec(), high=(3, 3, 3, 90, 90, 90))
    wide.check([0, 0, 2.5, 0, 45, 0])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.1] * 5, r"shape \(5,\), expected \(..., 6\): right, down, forward, pitch_up"),
        (0.0, r"shape \(\)"),
        ("left", "6 numbers"),
        ([0, 0, np.nan, 0, 0, 0], "NaN"),
        ([[0] * 6, [0, 0, 0, 0, np.inf, 0]], "NaN or infinity: .*inf"),
        ([0, 0, 0.41, 0, 0, 0], "action forward is 0.41, allowed are -0.4 to 0.4"),
        ([[0] * 6, [0, 0, 0, 0, -10, 0]], "action turn_right is -10, allowed are -9.6 to 9.6"),
    ],
)
def test_bad_deltas_name_what_is_wrong(action, message):
    with pytest.raises(ValueError, match=message):
        CameraDeltaCodec().check(action)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([1, 0, 0], r"shape \(3,\), expected \(..., 8\): w, a, s, d"),
        ([0, 0, 2, 0, 0, 0, 0, 0], "key s is 2, expected 1"),
        ([0, 0, 0, 0.5, 0, 0, 0, 0], "key d is 0.5"),
        ([0, 0, 0, 0, 0, np.nan, 0, 0], "key j is nan"),
        ("wd", "8 numbers"),
    ],
)
def test_bad_keys_name_what_is_wrong(action, message):
    with pytest.raises(ValueError, match=message):
        CameraKeyCodec("ad-turn").check(action)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CameraDeltaCodec(low=(0,) * 5), "six finite bounds"),
        (lambda: CameraDeltaCodec(high=(-1,) * 6), "low below high"),
        (lambda: CameraDeltaCodec(high=(np.inf,) * 6), "finite"),
        (lambda: CameraDeltaCodec(frames=0), "frames=0"),
        (lambda: CameraKeyCodec("wasd"), "ad-turn, ad-strafe"),
        (lambda: CameraKeyCodec("ad-turn", frames=2.5), "frames=2.5"),
        (lambda: CODECS[0].advance(CODECS[0].initial(2), np.zeros((3, 6))), r"\(3, 6\), expected \(2, 6\)"),
        (lambda: CODECS[1].advance(CODECS[1].initial(2), np.zeros((2, 6))), r"\(2, 6\), expected \(2, 8\)"),
    ],
)
def test_codecs_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
