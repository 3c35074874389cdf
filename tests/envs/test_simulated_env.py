"""Every simulator: its state is a value, forks go their own way, and nonsense changes nothing."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.tworoom import TwoRoomEnv

IDS = {PushTEnv: "sana_wm/PushT-v0", TwoRoomEnv: "sana_wm/TwoRoom-v0"}
every_simulator = pytest.mark.parametrize("simulator", IDS)


def begun(simulator, steps=7, **arguments):
    """A simulator in the middle of an episode, and five actions to go on with."""
    env = simulator(**arguments)
    env.reset(seed=1)
    env.action_space.seed(2)
    for _ in range(steps):
        env.step(env.action_space.sample())
    return env, [env.action_space.sample() for _ in range(5)]


@every_simulator
def test_a_state_is_a_value_that_travels(simulator):
    here, actions = begun(simulator)
    env = gym.make(IDS[simulator])
    env.reset(seed=1)
    env.get_wrapper_attr("set_state")(here.get_state())
    state = env.get_wrapper_attr("get_state")()
    ahead = [env.step(action)[0] for action in actions]
    for copy in (state, state.tobytes(), bytearray(state.tobytes()), pickle.loads(pickle.dumps(state))):
        other = simulator()
        other.set_state(copy)
        np.testing.assert_array_equal([other.step(action)[0] for action in actions], ahead)
        other.reset(options={"state": copy})
        np.testing.assert_array_equal(other.get_state(), state)
    assert state.nbytes == len(state.tobytes()) == 8 * len(simulator.state_names)


@every_simulator
def test_simulating_is_stepping_and_leaves_the_environment_alone(simulator):
    env, actions = begun(simulator)
    before = env.get_state()
    states = env.simulate(before, np.stack(actions))
    np.testing.assert_array_equal(env.get_state(), before)
    for action, state in zip(actions, states, strict=True):
        env.step(action)
        np.testing.assert_array_equal(env.get_state(), state)


@every_simulator
def test_forks_go_on_as_the_original_and_then_their_own_way(simulator):
    env, actions = begun(simulator, render_mode="rgb_array")
    one, two = env.fork(2)
    other = [two.step(-action if simulator is TwoRoomEnv else 512 - action)[0] for action in actions]
    ahead = [env.step(action)[0] for action in actions]
    np.testing.assert_array_equal([one.step(action)[0] for action in actions], ahead)
    assert (other[-1] != ahead[-1]).any()
    np.testing.assert_array_equal(one.render(), env.render())
    np.testing.assert_array_equal(one.reset()[0], env.reset()[0])  # the generator is copied too
    with pytest.raises(ValueError, match="got n=0"):
        env.fork(0)


NONSENSE = st.one_of(
    st.none(), st.text(max_size=3), st.binary(max_size=30), st.integers(), st.floats(), st.just(object()),
    st.lists(st.floats(), max_size=4).filter(lambda row: len(row) != 2),
    st.lists(st.lists(st.floats(0, 1), max_size=3), min_size=2, max_size=3), st.just({"state": 1}),
)  # fmt: skip


@every_simulator
@given(nonsense=NONSENSE, seed=st.sampled_from([-1, 0.5, "a", True, [1]]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_nonsense_changes_nothing(simulator, nonsense, seed):
    env = simulator()
    env.reset(seed=0)
    before = env.get_state(), env.np_random.bit_generator.state
    calls = [
        lambda: env.set_state(nonsense),
        lambda: env.step(nonsense),
        lambda: env.reset(seed=seed),
        lambda: env.reset(seed=1, options={"state": "x" if nonsense is None else nonsense}),
        lambda: env.reset(seed=1, options={"stat": before[0]}),
        lambda: env.reset(seed=1, options=[1]),
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match="(?s)got .*expected"):
            call()
        np.testing.assert_array_equal(env.get_state(), before[0])
        assert env.np_random.bit_generator.state == before[1]


@every_simulator
def test_unknown_render_mode(simulator):
    with pytest.raises(ValueError, match="render_mode: got 'human'"):
        simulator(render_mode="human")
