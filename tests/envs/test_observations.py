"""What environments show: pixels, pixels with proprioception, or latents of which nothing is decoded."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import sana_wm  # noqa: F401  registers SanaWM-v0
from sana_wm.diffusion.flow import FlowConfig
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.envs.compare import assert_same
from tests.envs.fake_video_world import FakeVideoWorld
from tests.envs.fake_world import HIGH, LOW, FakeWorld
from tests.world.tiny import tiny_actions, tiny_world

KINDS = ("pixels", "dict", "latents")
ALL_KINDS = pytest.mark.parametrize("obs", KINDS)


@pytest.fixture(scope="module")
def world():
    return tiny_world(flow=FlowConfig(prediction="change", steps=1))


def actions_for(lanes, steps, seed=0):
    return np.random.default_rng(seed).uniform(LOW, HIGH, (steps, lanes, 2)).astype(np.float32)


@ALL_KINDS
def test_check_env_finds_nothing_but_unbounded_numbers(obs):
    env = gym.make("SanaWM-v0", world=FakeWorld(), obs=obs, action_units="normalized", render_mode="rgb_array")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    assert all("infinity" in str(warning.message) for warning in caught)
    assert bool(caught) == (obs != "pixels")


@ALL_KINDS
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_equals_gymnasiums_own_vector_env_over_single_envs(obs, mode):
    limits = {"goal_row": 11, "max_episode_steps": 7}
    ours = SanaWMVectorEnv(4, FakeWorld(**limits), obs=obs, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: SanaWMEnv(FakeWorld(**limits), obs=obs)] * 4, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert_same(ours.reset(seed=5), theirs.reset(seed=5))
    for actions in actions_for(4, 25):
        mine = ours.step(actions)
        assert_same(mine, theirs.step(actions))
        assert ours.observation_space.contains(mine[0])
        ended = mine[2] | mine[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended}))


@pytest.mark.parametrize("lanes", [1, 3])
def test_all_kinds_tell_of_the_same_world(world, lanes):
    envs = {obs: SanaWMVectorEnv(lanes, world, obs=obs, max_episode_steps=3) for obs in KINDS}
    seen = {obs: env.reset(seed=3) for obs, env in envs.items()}
    for actions in [None, *tiny_actions(7, lanes)]:
        if actions is not None:
            seen = {obs: env.step(actions) for obs, env in envs.items()}
        state = envs["latents"].get_state()
        np.testing.assert_array_equal(seen["latents"][0], state.world.latent.numpy())
        np.testing.assert_array_equal(seen["dict"][0]["pixels"], seen["pixels"][0])
        assert np.abs(world.decode(state.world.latent).astype(int) - seen["pixels"][0]).max() <= 1
        told = seen["dict"][-1]["proprio"]
        np.testing.assert_array_equal(seen["dict"][0]["proprio"], told)
        if actions is not None:
            assert_same(seen["latents"][1:4], seen["pixels"][1:4])


def test_latents_are_never_decoded_unless_somebody_looks():
    world = FakeWorld(max_episode_steps=3)
    env = SanaWMVectorEnv(3, world, obs="latents", render_mode="rgb_array")
    env.reset(seed=0)
    for actions in actions_for(3, 5):
        env.step(actions)
    env.fork(2).step(actions_for(6, 1)[0])
    env.set_state(env.get_state())
    assert world.decoded == []
    pictures = env.render()
    np.testing.assert_array_equal(pictures[1][::16, ::16], world.decode(env.get_state().world.latent)[1])
    env.render()
    assert world.decoded == [3], "looked at twice, decoded once"


@ALL_KINDS
def test_setting_a_state_shows_what_was_seen_there(world, obs):
    env, other = (SanaWMEnv(world, obs=obs) for _ in range(2))
    env.reset(seed=0)
    seen = env.step(tiny_actions(1)[0])[0]
    state = env.get_state()
    assert_same(other.set_state(state), seen)
    assert_same(other.set_state(state.to_bytes()), seen)
    ahead = env.step(tiny_actions(1, seed=1)[0])
    assert_same(other.step(tiny_actions(1, seed=1)[0]), ahead)
    assert_same(env.fork(1)[0].step(tiny_actions(1, seed=2)[0]), other.fork(1)[0].step(tiny_actions(1, seed=2)[0]))


@ALL_KINDS
def test_observations_are_the_callers(obs):
    env = SanaWMEnv(FakeWorld(), obs=obs)
    first, _ = env.reset(seed=0)
    for array in first.values() if isinstance(first, dict) else [first]:
        array[:] = 7
    again = env.set_state(env.get_state())
    assert all((array != 7).any() for array in (again.values() if isinstance(again, dict) else [again]))


def test_a_dict_has_proprioception_only_where_the_world_reads_it():
    assert set(SanaWMEnv(FakeWorld(), obs="dict").observation_space) == {"pixels", "proprio"}
    env = SanaWMEnv(FakeVideoWorld(num_starts=2), obs="dict")
    observation, _ = env.reset(seed=0)
    assert set(observation) == set(env.observation_space) == {"pixels"}


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="got obs='video', expected one of"):
        SanaWMEnv(FakeWorld(), obs="video")


def test_size_of_the_state_on_demand():
    env = SanaWMVectorEnv(3, FakeWorld(), state_bytes=True)
    _, infos = env.reset(seed=0)
    assert infos["state_bytes"].tolist() == [env.get_state().nbytes // 3] * 3
    assert env.step(actions_for(3, 1)[0])[-1]["state_bytes"].tolist() == infos["state_bytes"].tolist()
    assert "state_bytes" not in SanaWMEnv(FakeWorld()).reset()[1]
