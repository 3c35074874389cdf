import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sana_wm.envs.pusht import PushTEnv, Renderer
from sana_wm.envs.pusht_pose import PushTPoseDecoder, keypoints_of_pose, pose_of_keypoints, proprio_of_states


@pytest.fixture(scope="module")
def scenes():
    """States (90, 10) after a little pushing, and their frames."""
    env, rng, states, frames = PushTEnv(), np.random.default_rng(0), [], []
    for seed in range(30):
        env.reset(seed=seed)
        for _ in range(3):
            towards = env.get_state()[4:6] + rng.normal(0, 60, 2)
            env.set_state(env.simulate(env.get_state(), np.clip(np.tile(towards, (4, 1)), 0, 512))[-1])
            states.append(env.get_state())
            frames.append(env.set_state(states[-1]))
    return np.stack(states), np.stack(frames)


def errors(states, frames):
    pose = PushTPoseDecoder(frames.shape[1])(frames)
    turned = (pose.block[:, 2] - states[:, 6] + np.pi) % (2 * np.pi) - np.pi
    agent = np.linalg.norm(pose.agent - states[:, :2], axis=1)
    block = np.linalg.norm(pose.block[:, :2] - states[:, 4:6], axis=1)
    return agent, block, np.abs(np.rad2deg(turned)), pose


def test_true_frames_are_read_to_a_fraction_of_a_pixel(scenes):
    agent, block, angle, pose = errors(*scenes)
    assert np.median(agent) < 0.3 and np.quantile(agent, 0.95) < 1
    assert np.median(block) < 0.4 and np.quantile(block, 0.95) < 1.5
    assert np.median(angle) < 0.2 and np.quantile(angle, 0.95) < 1
    assert np.quantile(pose.block_match, 0.05) > 0.95
    assert (np.abs(pose.block[:, 2]) <= np.pi).all()


def half_colour(frame):
    """What a video codec does: colour at half the resolution."""
    ycc = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)
    ycc[..., 1:] = cv2.resize(cv2.resize(ycc[..., 1:], (32, 32), interpolation=cv2.INTER_AREA), (64, 64))
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: cv2.GaussianBlur(frame, (0, 0), 0.8),
        half_colour,
        lambda frame: np.clip(frame + np.random.default_rng(0).normal(0, 10, frame.shape), 0, 255).astype(np.uint8),
    ],
    ids=["blurred", "chroma subsampled", "noisy"],
)
def test_imperfect_frames_are_still_read(scenes, spoil):
    states, frames = scenes
    agent, block, angle, _ = errors(states, np.stack([spoil(frame) for frame in frames]))
    assert np.quantile(agent, 0.95) < 3
    assert np.quantile(block, 0.95) < 3
    assert np.quantile(angle, 0.95) < 3


def test_other_sizes(scenes):
    states, _ = scenes
    env = PushTEnv(observation_size=96)
    agent, block, angle, _ = errors(states[:30], np.stack([env.set_state(state) for state in states[:30]]))
    assert np.quantile(np.concatenate([agent, block, angle]), 0.95) < 1


def test_a_frame_does_not_depend_on_its_batch(scenes):
    decoder, frames = PushTPoseDecoder(), scenes[1]
    together, alone = decoder(frames[:8]), decoder(frames[3:4])
    assert np.allclose(together.block[3], alone.block[0], atol=1e-3)
    assert np.allclose(together.agent[3], alone.agent[0], atol=1e-3)


def test_an_empty_table_matches_nothing():
    nowhere = np.full(10, -1000.0)
    pose = PushTPoseDecoder()(Renderer()(nowhere, 64, 64)[None])
    assert pose.block_match[0] < 0.3 and pose.agent_match[0] < 0.3
    with pytest.raises(ValueError, match=r"uint8 \(N, 64, 64, 3\)"):
        PushTPoseDecoder()(np.zeros((1, 96, 96, 3), np.uint8))


def test_proprio_is_what_the_simulator_reports():
    env = PushTEnv()
    for seed in range(5):
        _, info = env.reset(seed=seed)
        assert np.allclose(proprio_of_states(env.get_state()), [*info["pos_agent"], *info["keypoints"]])


@settings(deadline=None)
@given(st.floats(0, 512), st.floats(0, 512), st.floats(-3.14, 3.14))
def test_pose_of_keypoints_inverts(x, y, angle):
    pose = np.array([x, y, angle])
    assert np.allclose(pose_of_keypoints(keypoints_of_pose(pose)), pose, atol=1e-8)


def test_pose_of_keypoints_averages_noise():
    rng = np.random.default_rng(0)
    pose = np.array([200.0, 300.0, 1.0])
    noisy = keypoints_of_pose(pose) + rng.normal(0, 5, (500, 16))
    found = pose_of_keypoints(noisy)
    assert np.allclose(found.mean(0), pose, atol=[0.5, 0.5, 0.01])
    assert np.rad2deg(found[:, 2].std()) < 3
