"""The Stable-Baselines3 adapter against the raw vector environment, step by step; then its algorithms on top."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

pytest.importorskip("stable_baselines3")
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import sana_wm  # noqa: F401  registers SanaWM-v0
from sana_wm.agents.sb3 import SB3VecEnv, lane_infos
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from sana_wm.world import open_world
from tests.envs.fake_world import HIGH, LOW, FakeWorld
from tests.world.tiny import tiny_world

LANES = 5


def make(mode="same_step", obs="pixels", lanes=LANES, **arguments):
    return SanaWMVectorEnv(lanes, FakeWorld(goal_row=9), autoreset_mode=mode, obs=obs, **arguments)


def actions_for(steps, lanes=LANES, seed=0):
    return np.random.default_rng(seed).uniform(LOW, HIGH, (steps, lanes, 2)).astype(np.float32)


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return np.array_equal(a, b)


@pytest.mark.parametrize("mode", ["same_step", "disabled"])
@pytest.mark.parametrize("obs", ["pixels", "dict", "latents"])
def test_it_is_the_raw_environment_step_by_step(mode, obs):
    raw, adapted = make(obs=obs), SB3VecEnv(make(mode, obs))
    adapted.seed(7)
    first, infos = raw.reset(seed=7)
    assert same(adapted.reset(), first)
    assert all(same(a, b) for a, b in zip(adapted.reset_infos, lane_infos(infos, LANES), strict=True))
    truncated, terminated = 0, 0
    for actions in actions_for(25):
        obs, rewards, ends, cuts, infos = raw.step(actions)
        got, got_rewards, dones, got_infos = adapted.step(actions)
        assert same(got, obs) and got_rewards.dtype == np.float32 and dones.dtype == bool
        np.testing.assert_array_equal(got_rewards, rewards.astype(np.float32))
        np.testing.assert_array_equal(dones, ends | cuts)
        for lane, (info, expected) in enumerate(zip(got_infos, lane_infos(infos, LANES), strict=True)):
            assert info.pop("TimeLimit.truncated") == (cuts[lane] and not ends[lane])
            if dones[lane]:
                assert same(info.pop("terminal_observation"), expected.pop("final_obs"))
                assert same(info, expected.pop("final_info"))
                assert same(adapted.reset_infos[lane], expected) and info["frame"] != expected["frame"]
            else:
                assert same(info, expected)
        truncated, terminated = truncated + (cuts & ~ends).sum(), terminated + ends.sum()
    assert truncated and terminated  # both ways of ending were seen


def test_lanes_agree_with_single_environments():
    """The last observation of an episode is the one that a single environment ends with."""
    one = gym.make("SanaWM-v0", world=FakeWorld(goal_row=9))
    reference, adapted = DummyVecEnv([lambda: one]), SB3VecEnv(make(lanes=1))
    for env in (reference, adapted):
        env.seed(3)
    np.testing.assert_array_equal(reference.reset(), adapted.reset())
    for actions in actions_for(20, lanes=1):
        (obs, reward, done, [info]), (a_obs, a_reward, a_done, [a_info]) = (
            reference.step(actions),
            adapted.step(actions),
        )
        np.testing.assert_array_equal(obs, a_obs)
        assert reward == a_reward and done == a_done
        assert same(info, a_info)


def test_modes_that_it_cannot_serve_are_refused():
    with pytest.raises(ValueError, match='autoreset_mode="same_step"'):
        SB3VecEnv(make("next_step"))
    with pytest.raises(TypeError, match="make_vec"):
        SB3VecEnv(gym.make("SanaWM-v0", world=FakeWorld()))


def test_any_vector_environment_will_do():
    makers = [lambda: gym.make("Pendulum-v1", max_episode_steps=3)] * 2
    env = SB3VecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    env.seed(0)
    env.reset()
    for _ in range(3):
        *_, dones, infos = env.step(np.zeros((2, 1), np.float32))
    assert dones.all() and all(info["TimeLimit.truncated"] for info in infos)
    assert infos[1]["terminal_observation"].shape == (3,)
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [True, True]


def test_attributes_and_methods():
    env = SB3VecEnv(RecordEpisodeStatistics(make(render_mode="rgb_array")))
    env.reset()
    assert env.get_attr("num_envs", indices=[0, 2]) == [LANES, LANES]
    generators = env.get_attr("np_random")
    assert len({id(generator) for generator in generators}) == LANES  # one of each lane, not five times all
    env.set_attr("note", "ours")
    assert env.get_attr("note", 1) == ["ours"] and env.env.unwrapped.note == "ours"
    with pytest.raises(ValueError, match="one environment"):
        env.set_attr("note", "theirs", indices=[1])
    with pytest.raises(ValueError, match="one environment"):
        env.env_method("get_state", indices=0)
    assert [state.num_lanes for state in env.env_method("get_state")] == [LANES] * LANES
    assert env.env_is_wrapped(RecordEpisodeStatistics) == [True] * LANES
    assert env.env_is_wrapped(Monitor) == [False] * LANES
    assert not env.has_attr("nothing_of_the_kind")
    assert env.render_mode == "rgb_array" and len(env.get_images()) == LANES
    assert env.render().ndim == 3


def test_options_reach_their_lanes():
    env = SB3VecEnv(make(obs="latents"))
    env.set_options([{"start": lane % 2} for lane in range(LANES)])
    obs = env.reset()
    np.testing.assert_array_equal(obs[0], obs[2])
    assert not np.array_equal(obs[0], obs[1])
    env.set_options([{"start": 0}, *[{}] * (LANES - 1)])
    with pytest.raises(ValueError, match="the same everywhere"):
        env.reset()


def test_the_single_environment_passes_their_checker():
    check_env(gym.make("SanaWM-v0", world=tiny_world()).unwrapped, warn=False)


@pytest.fixture(scope="module")
def world():
    return open_world("tworoom-64")  # their convolutions want 36 pixels at least


@pytest.mark.parametrize(
    ("obs", "policy"), [("pixels", "CnnPolicy"), ("dict", "MultiInputPolicy"), ("latents", "MlpPolicy")]
)
def test_ppo_learns_from_every_kind_of_observation(world, obs, policy):
    envs = SanaWMVectorEnv(3, world, obs=obs, autoreset_mode="same_step", max_episode_steps=5)
    model = PPO(policy, VecMonitor(SB3VecEnv(envs)), n_steps=8, batch_size=12, n_epochs=1, seed=0, device="cpu",
                policy_kwargs={"net_arch": [8]})  # fmt: skip
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(48)
    assert model.num_timesteps == 48 and len(model.ep_info_buffer)
    assert any(not np.array_equal(a, b.detach()) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_sac_learns_in_dataset_units_and_is_evaluated():
    envs = SanaWMVectorEnv(3, tiny_world(), obs="latents", autoreset_mode="same_step")
    env = VecMonitor(SB3VecEnv(envs))
    model = SAC("MlpPolicy", env, learning_starts=30, batch_size=16, buffer_size=200, seed=0, device="cpu",
                policy_kwargs={"net_arch": [8]})  # fmt: skip
    model.learn(120)
    buffer = model.replay_buffer
    rows = buffer.pos
    # The next observation of an episode's last step is the last one of that episode, not the first of the next.
    ends = np.argwhere(buffer.dones[: rows - 1] > 0)
    assert len(ends)
    for row, lane in ends:
        assert not np.array_equal(buffer.next_observations[row, lane], buffer.observations[row + 1, lane])
    for row, lane in np.argwhere(buffer.dones[: rows - 1] == 0):
        np.testing.assert_array_equal(buffer.next_observations[row, lane], buffer.observations[row + 1, lane])
    mean, _ = evaluate_policy(model, env, n_eval_episodes=4, warn=False)
    assert np.isfinite(mean)


@pytest.mark.parametrize("mode", ["same_step", "disabled"])
def test_what_an_episode_came_to_is_told_where_it_ends(mode):
    env = SB3VecEnv(RecordEpisodeStatistics(make(mode, max_episode_steps=3)))
    env.reset()
    earned, steps, ends = np.zeros(LANES), np.zeros(LANES, int), 0
    for actions in actions_for(7):
        _, rewards, dones, infos = env.step(actions)
        earned, steps = earned + rewards, steps + 1
        for lane, (done, info) in enumerate(zip(dones, infos, strict=True)):
            assert ("episode" in info) == done
            if done:
                assert info["episode"]["l"] == steps[lane]
                assert info["episode"]["r"] == pytest.approx(earned[lane], rel=1e-4)
        ends += dones.sum()
        earned[dones], steps[dones] = 0.0, 0
    assert ends >= 2 * LANES
