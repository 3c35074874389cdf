"""Imagined episodes as a LeRobot dataset: what was lived through is what is read back."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import NormalizeReward, RescaleAction

from sana_wm.data import LeRobotDataset
from sana_wm.envs import record_episodes
from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.envs.fake_video_world import FakeVideoWorld
from tests.envs.fake_world import HIGH, LOW, FakeWorld
from tests.world.tiny import CONTEXT, tiny_world

DOWN = np.array([1.0, 1.5], np.float32)


def world():
    return FakeWorld(goal_row=11, max_episode_steps=7)


def still(observation):
    """The same action always, for one lane or for all of a vector environment."""
    return np.broadcast_to(DOWN, (*observation.shape[:-3], 2))


def columns(root):
    dataset = LeRobotDataset(root)
    dataset.validate()
    return [dataset.episode(index) for index in range(dataset.num_episodes)]


def test_an_episode_is_what_the_environment_did(tmp_path):
    env = SanaWMEnv(world())
    [*episodes] = columns(record_episodes(env, still, tmp_path / "set", 5, seed=3))
    ends = set()
    for index, episode in enumerate(episodes):
        observation, info = env.reset(seed=3 + index)
        for row in range(len(episode["action"])):
            assert np.abs(episode["observation.image"][row].astype(int) - observation).mean() < 30  # video is lossy
            np.testing.assert_array_equal(episode["observation.state"][row], info["proprio"])
            np.testing.assert_array_equal(episode["action"][row], DOWN)
            observation, reward, terminated, truncated, info = env.step(DOWN)
            assert episode["next.reward"][row] == np.float32(reward)
            assert (episode["next.done"][row], episode["next.truncated"][row]) == (terminated, truncated)
            assert episode["next.success"][row] == info["is_success"]
            assert episode["task"][row] == "chase the dot"
        assert terminated or truncated
        ends.add((terminated, truncated))
    assert len(ends) > 1, "the test must see both ends"


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_lanes_record_what_single_environments_do(tmp_path, mode):
    one = columns(record_episodes(SanaWMEnv(world()), still, tmp_path / "one", 5, seed=1))
    lanes = SanaWMVectorEnv(3, world(), autoreset_mode=mode)
    many = columns(record_episodes(lanes, still, tmp_path / "many", 5, seed=1))
    assert len(one) == len(many) == 5 and len({len(episode["action"]) for episode in one}) > 1
    for ours, theirs in zip(many, one, strict=True):
        for name in ours:
            if name != "observation.image":  # encoded with other neighbours
                np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_recording_goes_on_where_it_ended(tmp_path):
    whole = columns(record_episodes(SanaWMEnv(world()), still, tmp_path / "whole", 4))
    record_episodes(SanaWMEnv(world()), still, tmp_path / "parts", 1)
    parts = columns(record_episodes(SanaWMVectorEnv(2, world()), still, tmp_path / "parts", 3))
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(ours["observation.state"], theirs["observation.state"])


@pytest.mark.parametrize(
    "arguments", [{"obs": "latents"}, {"obs": "dict"}, {"action_units": "normalized"}, {"action_set": [DOWN]}]
)
def test_whatever_the_policy_sees_and_says_frames_and_dataset_units_are_recorded(tmp_path, arguments):
    def policy(observation):
        if arguments.get("action_units"):
            return (DOWN - LOW) / (HIGH - LOW) * 2 - 1
        return 0 if "action_set" in arguments else DOWN

    env = NormalizeReward(gym.make("SanaWM-v0", world=world(), **arguments))
    ours = columns(record_episodes(env, policy, tmp_path / "ours", 2))
    theirs = columns(record_episodes(SanaWMEnv(world()), still, tmp_path / "theirs", 2))
    for one, other in zip(ours, theirs, strict=True):
        for name in ("observation.image", "observation.state"):
            np.testing.assert_array_equal(one[name], other[name])
        np.testing.assert_allclose(one["action"], other["action"], atol=1e-5)


def test_a_policy_with_a_memory_is_told_when_episodes_begin(tmp_path):
    class Policy:
        begun = 0

        def reset(self):
            self.begun += 1

        def __call__(self, observation):
            return DOWN

    policy = Policy()
    record_episodes(SanaWMEnv(world()), policy, tmp_path, 3, max_steps=2)
    assert policy.begun == 3
    assert [len(episode["action"]) for episode in columns(tmp_path)] == [2] * 3


def test_worlds_without_heads_and_with_keys_are_recorded(tmp_path):
    env = SanaWMEnv(FakeVideoWorld("keys"), image=np.full((20, 30, 3), 90, np.uint8))
    held = np.eye(8, dtype=np.int8)[3]
    with pytest.raises(ValueError, match="max_steps"):
        record_episodes(env, lambda _: held, tmp_path / "set", 1)
    [episode] = columns(record_episodes(env, lambda _: held, tmp_path / "set", 1, max_steps=3, task="walk"))
    assert "observation.state" not in episode and "next.success" not in episode
    np.testing.assert_array_equal(episode["action"], np.tile(held, (3, 1)))


def test_a_real_world_can_be_fitted_to_its_own_dreams(tmp_path):
    real = tiny_world()
    env = SanaWMVectorEnv(2, real, max_episode_steps=4, threshold=0.999999)
    root = record_episodes(env, lambda seen: np.ones((2, 2), np.float32), tmp_path / "dreams", 3)
    for episode in columns(root):
        assert episode["observation.image"].shape == (4, *real.config.resolution, 3)
        assert len(episode["action"]) >= CONTEXT and LeRobotDataset(root).fps == real.config.fps


@pytest.mark.parametrize("env", [PushTEnv, lambda: RescaleAction(SanaWMEnv(FakeWorld()), -2, 2)])
def test_other_environments_say_what_was_expected(tmp_path, env):
    with pytest.raises(ValueError, match="got .* expected"):
        record_episodes(env(), still, tmp_path / "set", 1)
    assert not (tmp_path / "set").exists()
