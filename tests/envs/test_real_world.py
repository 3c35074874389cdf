"""The environments on a real WorldModel of random weights; their rules are tested on a fake one beside this."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sana_wm  # noqa: F401  registers SanaWM-v0
from sana_wm.diffusion.flow import FlowConfig
from sana_wm.envs.env_state import EnvState
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.world.tiny import SIDE, tiny_actions, tiny_world


@pytest.fixture(scope="module")
def world():
    return tiny_world(flow=FlowConfig(prediction="change", steps=1))


def play(env, actions):
    """Observation, reward and ends of each step, exactly."""
    seen = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        seen.append((obs.tobytes(), np.asarray(reward).tolist(), np.asarray(info["proprio"]).tobytes()))
        seen.append((np.asarray(terminated).tolist(), np.asarray(truncated).tolist()))
    return seen


def test_check_env_has_nothing_to_say(world):
    env = gym.make("SanaWM-v0", world=world, action_units="normalized", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_spaces_and_units_are_the_worlds(world):
    env = SanaWMEnv(world)
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs) and obs.shape == (SIDE, SIDE, 3)
    assert env.action_space == world.codec.action_space and info["frame"] == world.config.context
    with pytest.raises(ValueError, match="dy is 9"):
        env.step([0, 9])


def test_the_same_seed_gives_the_same_frames(world):
    def run(seed):
        env = SanaWMEnv(world)
        first = env.reset(seed=seed)[0].tobytes()
        return [first, *play(env, tiny_actions(4))]

    assert run(3) == run(3)
    assert run(3)[0] != run(5)[0] or run(3) != run(5)


def test_a_single_env_is_a_lane_of_a_vector_env(world):
    vector = SanaWMVectorEnv(3, world, max_episode_steps=-1, threshold=0.999999)
    observations, _ = vector.reset(seed=7)
    singles = [SanaWMEnv(world, max_episode_steps=-1, threshold=0.999999) for _ in range(3)]
    for lane, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=7 + lane)[0], observations[lane])
    for actions in tiny_actions(5, 3):
        observations, rewards, *_, infos = vector.step(actions)
        for lane, env in enumerate(singles):
            obs, reward, *_, info = env.step(actions[lane])
            assert np.abs(obs.astype(int) - observations[lane]).max() <= 1  # rounding of 1e-6
            assert reward == pytest.approx(rewards[lane], abs=1e-4)
            np.testing.assert_allclose(info["proprio"], infos["proprio"][lane], atol=1e-3)


def test_setting_a_state_replays_exactly(world):
    env, other = SanaWMEnv(world, max_episode_steps=50), SanaWMEnv(world, max_episode_steps=50)
    env.reset(seed=1)
    play(env, tiny_actions(2))
    state, frame = env.get_state(), env.step(tiny_actions(1)[0])[0]
    ahead = play(env, tiny_actions(4, seed=2))
    env.set_state(state)
    np.testing.assert_array_equal(env.step(tiny_actions(1)[0])[0], frame)
    assert play(env, tiny_actions(4, seed=2)) == ahead
    other.set_state(EnvState.from_bytes(state.to_bytes()))
    np.testing.assert_array_equal(other.step(tiny_actions(1)[0])[0], frame)
    assert play(other, tiny_actions(4, seed=2)) == ahead


def test_forks_go_on_as_the_original_and_then_their_own_way(world):
    env = SanaWMEnv(world, max_episode_steps=50)
    env.reset(seed=1)
    play(env, tiny_actions(2))
    a, b = env.fork(2)
    ahead = play(a, tiny_actions(3))
    play(b, tiny_actions(3, seed=9))
    assert play(env, tiny_actions(3)) == ahead


def test_a_state_of_another_world_is_refused_and_nothing_changes(world):
    env, stranger = SanaWMEnv(world), SanaWMEnv(tiny_world(window=5))  # equal latents, another memory
    env.reset(seed=0), stranger.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="another world"):
        env.set_state(stranger.get_state())
    with pytest.raises(ValueError, match="another world"):
        env.reset(options={"state": stranger.get_state()})
    assert env.get_state() is before


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_every_autoreset_mode_runs_over_ends(world, mode):
    env = gym.make_vec("SanaWM-v0", num_envs=2, world=world, max_episode_steps=3, autoreset_mode=mode)
    observations, _ = env.reset(seed=0)
    ends = 0
    for step in range(9):
        observations, rewards, terminated, truncated, infos = env.step(tiny_actions(2, seed=step))
        ended = terminated | truncated
        ends += int(ended.sum())
        assert observations.shape == (2, SIDE, SIDE, 3) and np.isfinite(rewards).all()
        if mode == "disabled" and ended.any():
            env.reset(options={"reset_mask": ended})
    assert ends >= 4
