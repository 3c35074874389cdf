import pickle
import sys
import warnings
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import sana_wm  # noqa: F401  registers SanaWM-v0
from sana_wm.envs.env_state import EnvState
from sana_wm.envs.sana_wm_env import SanaWMEnv
from tests.envs.fake_world import HIGH, LOW, SIDE, FakeState, FakeWorld

RIGHT = np.array([3.0, 0.5], np.float32)


def play(env, actions):
    """What a caller sees of the given actions: observations, rewards and ends, info without arrays."""
    return [
        (obs.tobytes(), reward, terminated, truncated, info["frame"], info["proprio"].tobytes())
        for obs, reward, terminated, truncated, info in map(env.step, actions)
    ]


def random_actions(count, seed=0):
    return np.random.default_rng(seed).uniform(LOW, HIGH, (count, 2)).astype(np.float32)


@pytest.fixture
def env():
    env = SanaWMEnv(FakeWorld())
    env.reset(seed=0)
    return env


@pytest.fixture
def fake_state_bytes(monkeypatch):
    """Bytes hold whatever state type the world library has; here the fake one."""
    monkeypatch.setitem(sys.modules, "sana_wm.world", SimpleNamespace(WorldState=FakeState))


@pytest.mark.parametrize("heads", [{}, {"has_success": False}, {"has_reward": False, "has_terminated": False}])
def test_check_env_raises_no_warning_on_normalized_actions(heads):
    env = gym.make("SanaWM-v0", world=FakeWorld(**heads), action_units="normalized", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_check_env_only_warns_of_the_range_on_dataset_actions():
    env = gym.make("SanaWM-v0", world=FakeWorld(), render_mode="rgb_array")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    assert len(caught) == 1 and "symmetric and normalized space" in str(caught[0].message)


def test_spaces_and_metadata_come_from_the_world(env):
    assert env.observation_space == gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
    assert env.action_space == gym.spaces.Box(LOW, HIGH, dtype=np.float32)
    assert env.metadata["render_fps"] == 5 and SanaWMEnv.metadata["render_fps"] == 10


def test_same_seed_same_future_and_other_seed_another():
    def run(seed):
        env = SanaWMEnv(FakeWorld())
        first, _ = env.reset(seed=seed)
        return [first.tobytes(), *play(env, random_actions(4))]

    assert run(7) == run(7)
    assert len({repr(run(seed)) for seed in range(6)}) == 6


def test_unseeded_resets_go_on_in_the_generator(env):
    def starts():
        env.reset(seed=3)
        return [env.reset()[0].tobytes() for _ in range(8)]

    first = starts()
    assert first == starts() and len(set(first)) > 1


def test_step_moves_by_the_action_in_dataset_units(env):
    before = env.get_state().world.latent.numpy().ravel()
    _, reward, _, _, info = env.step(RIGHT)
    moved = (info["proprio"] - before - RIGHT + SIDE / 2) % SIDE - SIDE / 2
    assert np.abs(moved).max() <= 1  # the fake world's noise
    assert reward == pytest.approx(info["proprio"][1] / SIDE) and isinstance(reward, float)


def test_normalized_actions_are_the_dataset_range_rescaled():
    plain, normalized = SanaWMEnv(FakeWorld()), SanaWMEnv(FakeWorld(), action_units="normalized")
    plain.reset(seed=1), normalized.reset(seed=1)
    for action in ([-1, -1], [1, 1], [0, 0.5]):
        dataset = LOW + (np.array(action, np.float32) + 1) / 2 * (HIGH - LOW)
        assert play(normalized, [action]) == play(plain, [dataset])


def test_episode_truncates_at_the_limit_of_the_world_the_argument_or_gym():
    def length(env):
        env.reset(seed=0)
        for count in range(1, 50):
            if env.step(np.array([1, 0], np.float32))[3]:
                return count

    never_done = {"goal_row": 99}
    assert length(SanaWMEnv(FakeWorld(**never_done))) == 6
    assert length(SanaWMEnv(FakeWorld(**never_done), max_episode_steps=9)) == 9
    assert length(SanaWMEnv(FakeWorld(**never_done), max_episode_steps=-1)) is None
    assert length(gym.make("SanaWM-v0", world=FakeWorld(**never_done), max_episode_steps=4)) == 4


@pytest.mark.parametrize(
    ("has_terminated", "has_success"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_termination_and_success_follow_the_heads(has_terminated, has_success):
    world = FakeWorld(goal_row=10, max_episode_steps=30, has_terminated=has_terminated, has_success=has_success)
    env = SanaWMEnv(world)
    _, info = env.reset(seed=0, options={"start": 2})
    assert ("is_success" in info) == has_success
    reached = 0
    for _ in range(20):
        *_, terminated, _, info = env.step(np.array([0, 2], np.float32))
        at_goal = info["proprio"][1] > 10
        reached += at_goal
        assert terminated == (at_goal and (has_terminated or has_success))
        if has_success:
            assert info["is_success"] is bool(at_goal)
            assert info["success_probability"] == pytest.approx(0.9 * at_goal)
    assert 0 < reached < 20


def test_threshold_decides():
    env = SanaWMEnv(FakeWorld(goal_row=-1), threshold=0.95)
    _, info = env.reset()
    assert info["success_probability"] == pytest.approx(0.9) and not info["is_success"]


def test_start_option_chooses_the_start_and_keeps_the_noise():
    env = SanaWMEnv(FakeWorld())
    seeds = set()
    for index in range(5):
        obs, _ = env.reset(seed=4, options={"start": index})
        np.testing.assert_array_equal(obs, env.world.starts.frames[index, -1])
        seeds.add(int(env.get_state().world.seeds[0]))
    assert len(seeds) == 1


def test_frames_option_begins_in_the_given_context(env):
    frames = env.world.starts.frames[[1, 3], 0]
    obs, info = env.reset(options={"frames": frames, "actions": RIGHT[None]})
    np.testing.assert_array_equal(obs, frames[1])
    assert info["frame"] == 1


def test_state_is_a_value_that_replays_exactly(env):
    actions = random_actions(6)
    play(env, actions[:2])
    saved = env.get_state()
    future = play(env, actions[2:])
    observation = env.set_state(saved)
    assert env.observation_space.contains(observation)
    assert play(env, actions[2:]) == future  # truncation at step 6 included: elapsed steps are part of the state
    assert future[-1][3] and saved.elapsed == 2


def test_state_cannot_be_written_to(env):
    with pytest.raises(ValueError, match="read-only"):
        env.get_state().elapsed[:] = 0
    with pytest.raises(AttributeError):
        env.get_state().world = None


def test_environments_of_one_world_sample_actions_on_their_own():
    world = FakeWorld()
    one, other = SanaWMEnv(world), SanaWMEnv(world)
    one.action_space.seed(0), other.action_space.seed(0)
    np.testing.assert_array_equal(one.action_space.sample(), other.action_space.sample())


def test_state_survives_pickle_and_bytes(env, fake_state_bytes):
    play(env, random_actions(2))
    saved = env.get_state()
    future = play(env, random_actions(3, seed=1))
    for copy in (pickle.loads(pickle.dumps(saved)), EnvState.from_bytes(saved.to_bytes()), saved.to_bytes()):
        other = SanaWMEnv(FakeWorld())
        other.set_state(copy)
        assert play(other, random_actions(3, seed=1)) == future
    assert saved.nbytes > 0


def test_reset_to_a_state_begins_an_episode_there(env, fake_state_bytes):
    play(env, random_actions(3))
    saved = env.get_state()
    position = env.render_mode, saved.world.latent.clone()
    future = [seen[0] for seen in play(env, random_actions(2, seed=1))]
    for state in (saved, saved.world, saved.to_bytes()):
        env.reset(options={"state": state})
        assert env.get_state().elapsed == 0 and (env.get_state().world.latent == position[1]).all()
        assert [seen[0] for seen in play(env, random_actions(2, seed=1))] == future


def test_fork_equals_the_original_and_is_independent(env):
    play(env, random_actions(2))
    forks = env.fork(3)
    future = play(env, random_actions(4, seed=1))
    assert play(forks[0], random_actions(4, seed=1)) == future
    assert play(forks[1], random_actions(4, seed=2)) != future
    assert play(forks[2], random_actions(4, seed=1)) == future
    assert env.reset()[0].tobytes() == forks[1].reset()[0].tobytes()  # the generator is copied too
    assert forks[0].world is env.world


def test_state_methods_are_reachable_through_wrappers():
    env = gym.make("SanaWM-v0", world=FakeWorld(), max_episode_steps=5)
    assert env is not env.unwrapped
    env.reset(seed=0)
    saved = env.get_wrapper_attr("get_state")()
    first = env.step(RIGHT)[0]
    env.get_wrapper_attr("set_state")(saved)
    np.testing.assert_array_equal(env.step(RIGHT)[0], first)
    assert len(env.get_wrapper_attr("fork")(2)) == 2


def test_returned_observations_are_the_callers():
    env = SanaWMEnv(FakeWorld())
    obs, _ = env.reset(seed=0)
    obs[:] = 0
    assert env.set_state(env.get_state()).any() and env._observation().any()


def test_render_shows_the_observation_enlarged(env):
    env = SanaWMEnv(FakeWorld(), render_mode="rgb_array")
    with pytest.raises(ResetNeeded, match="reset"):
        env.render()
    obs, _ = env.reset(seed=0)
    image = env.render()
    assert image.shape == (256, 256, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image[7::16, 7::16], obs)
    with pytest.warns(UserWarning, match="rgb_array"):
        silent = SanaWMEnv(FakeWorld())
        assert silent.render() is None


@pytest.mark.parametrize("units", ["dataset", "normalized"])
@pytest.mark.parametrize(
    "bad",
    [[1.0], [0.5, 0.5, 0.5], [[0.5, 0.5]], 0.5, None, "left", [np.nan, 0.5], [np.inf, 0.5], [0.5, 9.0], [-9, 0.5]],
)
def test_bad_actions_raise_and_change_nothing(bad, units):
    env, twin = (SanaWMEnv(FakeWorld(), action_units=units) for _ in range(2))
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError, match="got"):
        env.step(bad)
    assert play(env, [[0.5, 0.5]]) == play(twin, [[0.5, 0.5]])


def test_stepping_before_reset_says_so():
    env = SanaWMEnv(FakeWorld())
    for call in (lambda: env.step(RIGHT), env.get_state, lambda: env.fork(2)):
        with pytest.raises(ResetNeeded, match="reset"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"satrt": 1}, "unknown reset options"),
        ({"start": 5}, "starts 0 to 4"),
        ({"start": -1}, "starts 0 to 4"),
        ({"start": 1.5}, "integer"),
        ({"start": 1, "frames": np.zeros((1, SIDE, SIDE, 3), np.uint8)}, "one of them"),
        ({"actions": np.zeros((1, 2), np.float32)}, "without 'frames'"),
        ({"frames": np.zeros((1, SIDE, SIDE, 3))}, "uint8"),
        ({"frames": np.zeros((1, SIDE, SIDE + 1, 3), np.uint8)}, "shape"),
        ({"frames": np.zeros((0, SIDE, SIDE, 3), np.uint8)}, "at least 1"),
        ({"frames": np.zeros((3, SIDE, SIDE, 3), np.uint8)}, "without the actions"),
        ({"frames": np.zeros((3, SIDE, SIDE, 3), np.uint8), "actions": np.zeros((3, 2))}, "shape"),
        ({"frames": np.zeros((2, SIDE, SIDE, 3), np.uint8), "actions": np.full((1, 2), np.nan)}, "not a number"),
        ({"state": "here"}, "EnvState"),
        ([1], "dict"),
    ],
)
def test_bad_reset_options_raise_and_change_nothing(env, options, message):
    twin = SanaWMEnv(FakeWorld())
    twin.reset(seed=0)
    with pytest.raises((ValueError, TypeError), match=message):
        env.reset(seed=99, options=options)
    assert play(env, [RIGHT]) == play(twin, [RIGHT]) and env.reset()[0].tobytes() == twin.reset()[0].tobytes()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x08\0\0\0\0\0\0\0{}      "])
def test_bytes_that_are_no_state_raise(env, data, fake_state_bytes):
    with pytest.raises(ValueError, match="to_bytes"):
        env.set_state(data)


def test_state_of_many_lanes_does_not_fit(env):
    with pytest.raises(ValueError, match="select"):
        env.set_state(env.get_state().repeat(2))
    env.set_state(env.get_state().repeat(2).select([1]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"render_mode": "ansi"}, ValueError, "rgb_array"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps"),
        ({"action_units": "pixels"}, ValueError, "normalized"),
        ({"threshold": 1.5}, ValueError, "probability"),
        ({"device": "cuda"}, ValueError, "device"),
        ({"world": 3}, TypeError, "WorldModel"),
    ],
)
def test_bad_arguments_say_what_to_pass(arguments, error, message):
    with pytest.raises(error, match=message):
        SanaWMEnv(**{"world": FakeWorld(), **arguments})
