"""Rewards: the world's head, a function of the user's, a goal image; and what a world says of its own trust."""

import numpy as np
import pytest
import torch

from sana_wm.diffusion.flow import FlowConfig
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.envs.fake_world import FakeWorld
from tests.world.tiny import SIDE, tiny_actions, tiny_frames, tiny_world

MOVE = np.array([1, 0.5], np.float32)


@pytest.fixture(scope="module")
def world():
    return tiny_world(flow=FlowConfig(prediction="change", steps=1))


def test_a_function_of_the_prediction_replaces_the_learned_reward():
    env = SanaWMVectorEnv(3, FakeWorld(), reward_fn=lambda prediction: 2 * prediction.proprio[:, 0])
    env.reset(seed=0)
    for _ in range(4):
        _, rewards, *_, infos = env.step(np.tile(MOVE, (3, 1)))
        np.testing.assert_allclose(rewards, 2 * infos["proprio"][:, 0], rtol=1e-6)
        assert rewards.dtype == np.float64


def test_a_function_sees_the_lanes_that_step_and_no_others():
    seen = []

    def reward(prediction):
        seen.append(len(prediction.latents))
        return np.ones(len(prediction.latents))

    env = SanaWMVectorEnv(3, FakeWorld(max_episode_steps=2, goal_row=99), reward_fn=reward)
    env.reset(seed=0)
    env.step(np.tile(MOVE, (3, 1)))
    env.reset(options={"reset_mask": np.array([True, False, False])})
    for _ in range(3):
        rewards = env.step(np.tile(MOVE, (3, 1)))[1]
    assert seen == [3, 3, 1, 2] and rewards.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "wrong", [lambda p: 1.0, lambda p: [1.0, 2.0], lambda p: [np.nan], lambda p: ["a"], lambda p: None]
)
def test_a_function_that_gives_something_else_changes_nothing(wrong):
    env = SanaWMEnv(FakeWorld(), reward_fn=wrong)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="reward_fn returned"):
        env.step(MOVE)
    assert env.get_state() is before


def test_a_goal_rewards_the_nearness_of_latents(world):
    goals = tiny_frames(2, 1)[:, 0]
    env = SanaWMVectorEnv(2, world, goal=list(goals), obs="latents", max_episode_steps=-1, threshold=0.999999)
    env.reset(seed=0)
    wanted = world.encode(goals[:, None])[:, 0].numpy()
    for actions in tiny_actions(3, 2):
        latents, rewards, *_ = env.step(actions)
        np.testing.assert_allclose(rewards, -((latents - wanted) ** 2).mean((1, 2, 3)), rtol=1e-4)
    fork = env.fork(2)
    four = fork.step(tiny_actions(1, 4)[0])
    np.testing.assert_allclose(four[1], -((four[0] - wanted.repeat(2, 0)) ** 2).mean((1, 2, 3)), rtol=1e-4)


def test_a_goal_belongs_to_its_lane_when_only_some_step():
    goals = [FakeWorld().starts.frames[index, -1] for index in range(3)]
    env = SanaWMVectorEnv(3, FakeWorld(max_episode_steps=2, goal_row=99), goal=goals, obs="latents")
    env.reset(seed=0)
    env.step(np.tile(MOVE, (3, 1)))
    env.reset(options={"reset_mask": np.array([False, False, True])})
    env.step(np.tile(MOVE, (3, 1)))  # lanes 0 and 1 end
    latents, rewards, *_ = env.step(np.tile(MOVE, (3, 1)))  # lane 2 alone steps
    wanted = FakeWorld().encode(np.stack(goals)[:, None])[:, 0].numpy()
    assert rewards[2] == pytest.approx(-((latents[2] - wanted[2]) ** 2).mean(), rel=1e-5) and not rewards[:2].any()


def test_a_goal_of_any_size_is_cut_to_the_world(world):
    env = SanaWMEnv(world, goal=np.zeros((SIDE + 9, 3 * SIDE, 3), np.uint8))
    env.reset(seed=0)
    assert env.step(tiny_actions(1)[0])[1] < 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"reward_fn": 3}, TypeError, "function"),
        ({"reward_fn": len, "goal": np.zeros((4, 4, 3), np.uint8)}, ValueError, "one of them"),
        ({"goal": np.zeros((4, 4))}, ValueError, "uint8"),
        ({"goal": 3}, TypeError, "image"),
    ],
)
def test_bad_rewards_say_what_to_pass(arguments, error, message):
    with pytest.raises(error, match=message):
        SanaWMEnv(FakeWorld(), **arguments)


class TellingWorld(FakeWorld):
    """Says what it was asked about."""

    def signals(self, state, prediction, actions):
        moved = (prediction.latents - state.latent)[..., 0, 0]
        return {
            "ood_action": torch.as_tensor(actions[:, 0] > 2),
            "drift": (moved - torch.as_tensor(actions)).abs().amax(1),
            "model_uncertainty": np.arange(len(actions), dtype=np.float32),
        }


def test_trust_signals_of_a_world_are_in_the_info_of_each_step():
    env = SanaWMVectorEnv(3, TellingWorld())
    _, infos = env.reset(seed=0)
    assert "drift" not in infos, "nothing was predicted yet"
    actions = np.array([[3, 1.5], [2, 1.5], [2.5, 1.5]], np.float32)
    *_, infos = env.step(actions)
    assert infos["ood_action"].tolist() == [True, False, True] and infos["ood_action"].dtype == bool
    assert infos["model_uncertainty"].tolist() == [0, 1, 2]
    assert (infos["drift"] <= 1).all(), (
        "the state before the step, and its actions: only the fake world's noise is left"
    )
    single = SanaWMEnv(TellingWorld())
    single.reset(seed=0)
    info = single.step(actions[1])[-1]
    assert info["ood_action"] is False and isinstance(info["drift"], float)
