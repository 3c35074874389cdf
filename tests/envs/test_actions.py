"""Discrete actions: a choice out of a set of the world's own."""

import gymnasium as gym
import numpy as np
import pytest

from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.envs.compare import assert_same
from tests.envs.fake_video_world import FakeVideoWorld
from tests.envs.fake_world import HIGH, LOW, FakeWorld

SET = [[-4, 0], [0, 1.5], [3, 2]]


def test_a_choice_is_the_action_it_stands_for():
    chosen, plain = SanaWMEnv(FakeWorld(), action_set=SET), SanaWMEnv(FakeWorld())
    assert chosen.action_space == gym.spaces.Discrete(3)
    chosen.reset(seed=0), plain.reset(seed=0)
    for index in (2, 0, np.int64(1), np.uint8(1), np.array(2)):
        assert_same(chosen.step(index), plain.step(np.array(SET[int(index)], np.float32)))
    assert_same(chosen.fork(1)[0].step(0), plain.step(SET[0]))


def test_a_set_is_in_the_units_of_the_environment():
    chosen = SanaWMEnv(FakeWorld(), action_set=[[-1, 1], [0, 0]], action_units="normalized")
    plain = SanaWMEnv(FakeWorld())
    chosen.reset(seed=0), plain.reset(seed=0)
    assert_same(chosen.step(0), plain.step([LOW[0], HIGH[1]]))
    assert_same(chosen.step(1), plain.step((LOW + HIGH) / 2))


def test_lanes_choose_each_for_itself_and_in_chunks():
    chosen, plain = SanaWMVectorEnv(3, FakeWorld(), action_set=SET), SanaWMVectorEnv(3, FakeWorld())
    assert chosen.single_action_space == gym.spaces.Discrete(3) and chosen.action_space == gym.spaces.MultiDiscrete(
        [3] * 3
    )
    chosen.reset(seed=0), plain.reset(seed=0)
    table = np.array(SET, np.float32)
    for index in ([0, 1, 2], np.array([2, 2, 0]), chosen.action_space.sample()):
        assert_same(chosen.step(index), plain.step(table[np.asarray(index)]))
    index = np.array([[0, 1], [2, 2], [1, 0]])
    assert_same(chosen.step_chunk(index), plain.step_chunk(table[index]))


def test_keys_can_be_a_set_too():
    held = np.eye(8, dtype=np.int8)[[0, 3]]
    env, plain = (SanaWMEnv(FakeVideoWorld("keys", num_starts=2), action_set=chosen) for chosen in (held, None))
    env.reset(seed=0), plain.reset(seed=0)
    assert_same(env.step(1), plain.step(held[1]))


@pytest.mark.parametrize("bad", [3, -1, 0.5, 1.0, True, None, "up", [0], [0, 1], np.nan])
def test_bad_choices_raise_and_change_nothing(bad):
    env = SanaWMEnv(FakeWorld(), action_set=SET)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="got (an )?action"):
        env.step(bad)
    assert env.get_state() is before


@pytest.mark.parametrize("bad", [[], [[0, 0, 0]], [[0, 9]], [[np.nan, 0]], 3, [0, 1], "ab"])
def test_bad_sets_say_what_to_pass(bad):
    with pytest.raises(ValueError, match="action_set"):
        SanaWMEnv(FakeWorld(), action_set=bad)
