"""Several steps in one call are the same steps, up to the end of an episode."""

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from sana_wm.diffusion.flow import FlowConfig
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.envs.compare import assert_same
from tests.envs.fake_video_world import FakeVideoWorld
from tests.envs.fake_world import HIGH, LOW, FakeWorld
from tests.world.tiny import tiny_actions, tiny_world


def actions_for(*lead, seed=0):
    return np.random.default_rng(seed).uniform(LOW, HIGH, (*lead, 2)).astype(np.float32)


def without_steps(info):
    return {name: value for name, value in info.items() if name.strip("_") != "steps"}


@pytest.mark.parametrize("obs", ["pixels", "dict", "latents"])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_chunk_is_its_steps_up_to_the_first_end(obs, count):
    ends = 0
    for seed in range(6):
        one, many = (SanaWMEnv(FakeWorld(goal_row=11, max_episode_steps=5), obs=obs) for _ in range(2))
        one.reset(seed=seed), many.reset(seed=seed)
        total, actions = 0.0, actions_for(count, seed=seed)
        for taken, action in enumerate(actions, start=1):  # noqa: B007
            *seen, info = one.step(action)
            total += seen[1]
            if seen[2] or seen[3]:
                ends += taken < count
                break
        *chunk, chunk_info = many.step_chunk(actions)
        assert chunk_info["steps"] == taken
        assert_same(chunk[0], seen[0])
        assert chunk[1] == pytest.approx(total) and isinstance(chunk[1], float) and chunk[2:] == seen[2:]
        assert_same(without_steps(chunk_info), info)
        assert_same(many.step(actions[0]), one.step(actions[0]))
    assert ends or count < 9, "the test must see chunks cut short"


def test_a_chunk_decodes_once():
    world = FakeWorld()
    env = SanaWMEnv(world)
    env.reset(seed=0)
    world.decoded.clear()
    env.step_chunk(actions_for(4))
    assert world.decoded == [1] and len(world.batches) == 4


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_a_chunk_of_lanes_is_the_chunk_of_each(mode):
    def make(lanes):
        return SanaWMVectorEnv(lanes, FakeWorld(goal_row=11, max_episode_steps=7), autoreset_mode=mode)

    together, apart = make(4), [make(1) for _ in range(4)]
    together.reset(seed=3)
    for lane, env in enumerate(apart):
        env.reset(seed=3 + lane)
    lengths = set()
    for actions in actions_for(8, 4, 3):
        observations, rewards, terminated, truncated, infos = together.step_chunk(actions)
        for lane, env in enumerate(apart):
            obs, reward, end, cut, info = env.step_chunk(actions[[lane]])
            np.testing.assert_array_equal(obs[0], observations[lane])
            assert (reward[0], end[0], cut[0]) == (rewards[lane], terminated[lane], truncated[lane])
            assert info["frame"][0] == infos["frame"][lane]
            if "steps" in info:
                lengths.add(int(info["steps"][0]))
                assert infos["steps"][lane] == info["steps"][0]
            if mode == "same_step" and (end | cut).any():
                assert infos["final_info"]["steps"][lane] == info["final_info"]["steps"][0]
                np.testing.assert_array_equal(infos["final_obs"][lane], info["final_obs"][0])
        ended = terminated | truncated
        if mode == "disabled" and ended.any():
            with pytest.raises(ResetNeeded, match="are over"):
                together.step_chunk(actions)
            together.reset(options={"reset_mask": ended})
            for lane in np.flatnonzero(ended):
                apart[lane].reset()
    assert mode == "same_step" or len(lengths) > 1, "the test must see chunks cut short"


def test_lanes_that_ended_leave_the_forward_pass():
    world = FakeWorld(goal_row=99, max_episode_steps=3)
    env = SanaWMVectorEnv(3, world, autoreset_mode="disabled")
    env.reset(seed=0)
    env.step(actions_for(3))
    env.reset(options={"reset_mask": np.array([True, False, False])})  # lane 0 is a step behind
    world.batches.clear()
    env.step_chunk(actions_for(3, 5))
    assert world.batches == [3, 3, 1]


def test_a_chunk_of_a_real_world_and_of_one_of_video():
    world = tiny_world(flow=FlowConfig(prediction="change", steps=1))
    one, many = (SanaWMEnv(world, max_episode_steps=-1, threshold=0.999999) for _ in range(2))
    one.reset(seed=0), many.reset(seed=0)
    for action in tiny_actions(4):
        *seen, info = one.step(action)
    *chunk, chunk_info = many.step_chunk(tiny_actions(4))
    assert_same(chunk[0], seen[0])
    assert_same(without_steps(chunk_info), info)
    keys = SanaWMEnv(FakeVideoWorld("keys", num_starts=1))
    keys.reset(seed=0)
    observation, *_, info = keys.step_chunk(np.eye(8, dtype=np.int8)[:3])
    np.testing.assert_array_equal(info["frames"][-1], observation)
    assert info["frame"] == 4 and info["steps"] == 3


@pytest.mark.parametrize(
    "bad", [np.zeros((0, 2)), np.zeros(2), np.zeros((2, 3)), 0.5, None, "ab", [[0, 0], [0, 9]], [[0, 0], [np.nan, 0]]]
)
def test_bad_chunks_change_nothing(bad):
    env, vector = SanaWMEnv(FakeWorld()), SanaWMVectorEnv(2, FakeWorld())
    for call in (env.step_chunk, vector.step_chunk):
        with pytest.raises((ResetNeeded, ValueError)):
            call(bad)
    env.reset(seed=0), vector.reset(seed=0)
    before = env.get_state(), vector.get_state()
    with pytest.raises(ValueError, match="got"):
        env.step_chunk(bad)
    for lanes in (bad, [bad, bad]):
        with pytest.raises(ValueError, match="got"):
            vector.step_chunk(lanes)
    assert env.get_state() is before[0] and vector.get_state() is before[1]


def test_a_complaint_in_the_middle_of_a_chunk_changes_nothing():
    calls = []

    def reward(prediction):
        calls.append(len(prediction.latents))
        return [np.nan if len(calls) == 3 else 1.0] * len(prediction.latents)

    env, twin = SanaWMEnv(FakeWorld(), reward_fn=reward), SanaWMEnv(FakeWorld(), reward_fn=lambda _: [1.0])
    env.reset(seed=0), twin.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="finite"):
        env.step_chunk(actions_for(4))
    assert env.get_state() is before
    assert_same(env.step(actions_for(1)[0]), twin.step(actions_for(1)[0]))
