import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import sana_wm  # noqa: F401  registers SanaWM-v0
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.envs.compare import assert_same
from tests.envs.fake_world import HIGH, LOW, SIDE, FakeWorld

MODES = list(AutoresetMode)


def actions_for(lanes, steps, seed=0):
    return np.random.default_rng(seed).uniform(LOW, HIGH, (steps, lanes, 2)).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_equals_gymnasiums_own_vector_env_over_single_envs(mode):
    world = FakeWorld(goal_row=11, max_episode_steps=7)
    ours = SanaWMVectorEnv(4, world, render_mode="rgb_array", autoreset_mode=mode)
    theirs = SyncVectorEnv(
        [lambda: SanaWMEnv(FakeWorld(goal_row=11, max_episode_steps=7), "rgb_array")] * 4, autoreset_mode=mode
    )
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.metadata == theirs.metadata
    assert_same(ours.reset(seed=5), theirs.reset(seed=5))
    ends = {"terminated": 0, "truncated": 0}
    for actions in actions_for(4, 40):
        mine, reference = ours.step(actions), theirs.step(actions)
        assert_same(mine, reference)
        assert_same(ours.render(), theirs.render())
        terminated, truncated = mine[2:4]
        ends["terminated"] += terminated.sum()
        ends["truncated"] += truncated.sum()
        ended = terminated | truncated
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended}))
    assert min(ends.values()) > 0, "the test must see both ends"
    assert_same(ours.np_random_seed, theirs.np_random_seed)


def test_make_vec_uses_one_forward_pass_for_all_lanes():
    world = FakeWorld(goal_row=99)
    envs = gym.make_vec("SanaWM-v0", num_envs=8, world=world, max_episode_steps=3, autoreset_mode="same_step")
    assert isinstance(envs, SanaWMVectorEnv) and envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    envs.reset(seed=0)
    truncations = [envs.step(actions)[3].all() for actions in actions_for(8, 6)]
    assert truncations == [False, False, True] * 2
    assert world.batches == [8] * 6


def test_lanes_do_not_depend_on_how_many_there_are():
    few, many = SanaWMVectorEnv(2, FakeWorld()), SanaWMVectorEnv(5, FakeWorld())
    np.testing.assert_array_equal(few.reset(seed=9)[0], many.reset(seed=9)[0][:2])
    for actions in actions_for(5, 25):  # several episodes
        for mine, theirs in zip(few.step(actions[:2])[:4], many.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs[:2])


def test_seed_list_seeds_each_lane_and_none_leaves_it():
    env = SanaWMVectorEnv(3, FakeWorld())
    observations, _ = env.reset(seed=[4, 4, 11])
    np.testing.assert_array_equal(observations[0], observations[1])
    assert env.np_random_seed == (4, 4, 11)
    following, _ = env.reset()
    env.reset(seed=[4, 4, 11])
    again, _ = env.reset(seed=[None, None, None])
    np.testing.assert_array_equal(following, again)
    with pytest.raises(ValueError, match="3 lanes"):
        env.reset(seed=[1, 2])


def test_next_step_ignores_the_action_of_a_finished_lane():
    env = SanaWMVectorEnv(2, FakeWorld(max_episode_steps=1, goal_row=99))
    env.reset(seed=0)
    assert env.step(actions_for(2, 1)[0])[3].all()
    _, rewards, terminations, truncations, infos = env.step(np.full((2, 2), np.nan))
    assert not (rewards.any() or terminations.any() or truncations.any())
    assert infos["frame"].tolist() == [0, 0]


def test_same_step_gives_the_last_frame_and_info_apart():
    env = SanaWMVectorEnv(2, FakeWorld(max_episode_steps=1, goal_row=99), autoreset_mode="same_step")
    env.reset(seed=0)
    observations, _, _, truncations, infos = env.step(actions_for(2, 1)[0])
    assert truncations.all() and infos["final_info"]["frame"].tolist() == [1, 1] and infos["frame"].tolist() == [0, 0]
    assert all((final != now).any() for final, now in zip(infos["final_obs"], observations, strict=True))


def test_disabled_refuses_to_step_a_finished_lane():
    env = SanaWMVectorEnv(2, FakeWorld(max_episode_steps=1, goal_row=99), autoreset_mode="disabled")
    env.reset(seed=0)
    env.step(actions_for(2, 1)[0])
    env.reset(options={"reset_mask": np.array([True, False])})
    before = env.get_state()
    with pytest.raises(ResetNeeded, match=r"lanes \[1\] are over"):
        env.step(actions_for(2, 1)[0])
    assert env.get_state() is before


def test_masked_reset_touches_nothing_else():
    env = SanaWMVectorEnv(3, FakeWorld(), autoreset_mode="disabled")
    env.reset(seed=0)
    before, _, _, _, _ = env.step(actions_for(3, 1)[0])
    options = {"reset_mask": np.array([False, True, False]), "start": 3}
    after, infos = env.reset(options=options)
    assert options.keys() == {"reset_mask", "start"}, "the caller's options stay his"
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(after[1], env.world.starts.frames[3, -1])
    assert infos["_frame"].tolist() == [False, True, False]
    assert env.get_state().elapsed.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("mask", "message"),
    [([True, False], "numpy"), (np.ones(2), "bool"), (np.ones(3, bool), "shape"), (np.zeros(2, bool), "True")],
)
def test_bad_reset_masks_raise(mask, message):
    env = SanaWMVectorEnv(2, FakeWorld())
    env.reset(seed=0)
    with pytest.raises((TypeError, ValueError), match=message):
        env.reset(options={"reset_mask": mask})


def test_a_part_cannot_be_reset_first():
    env = SanaWMVectorEnv(2, FakeWorld())
    with pytest.raises(ResetNeeded, match="without reset_mask"):
        env.reset(options={"reset_mask": np.array([True, False])})


def test_options_for_one_lane_serve_all_and_for_each_lane_each():
    env = SanaWMVectorEnv(2, FakeWorld())
    starts = env.world.starts.frames
    observations, _ = env.reset(options={"start": [1, 2]})
    np.testing.assert_array_equal(observations, starts[[1, 2], -1])
    np.testing.assert_array_equal(env.reset(options={"start": 2})[0], starts[[2, 2], -1])
    np.testing.assert_array_equal(env.reset(options={"frames": starts[4]})[0], starts[[4, 4], -1])
    np.testing.assert_array_equal(env.reset(options={"frames": starts[[4, 0]]})[0], starts[[4, 0], -1])
    state = env.get_state().select([1])
    np.testing.assert_array_equal(env.reset(options={"state": state})[0], starts[[0, 0], -1])
    with pytest.raises(ValueError, match="1 or 2"):
        env.reset(options={"state": state.repeat(3)})


@pytest.mark.parametrize("mode", MODES)
def test_state_replays_exactly_in_the_middle_of_an_autoreset(mode):
    env = SanaWMVectorEnv(3, FakeWorld(max_episode_steps=4, goal_row=99), autoreset_mode=mode)
    env.reset(seed=2)
    actions = actions_for(3, 6)
    for step in range(4):
        env.step(actions[step])
    fork, saved = env.fork(1), env.get_state()
    if mode is AutoresetMode.DISABLED:
        fork.reset(), env.reset()
    assert_same(env.step(actions[4]), fork.step(actions[4]))
    assert_same(env.step(actions[5]), fork.step(actions[5]))
    env.set_state(saved)
    assert env.get_state().elapsed.tolist() == saved.elapsed.tolist()


def test_fork_lays_copies_side_by_side():
    env = SanaWMVectorEnv(2, FakeWorld())
    env.reset(seed=0)
    forked = env.fork(3)
    assert forked.num_envs == 6
    actions = actions_for(2, 1)[0]
    observations = forked.step(actions.repeat(3, axis=0))[0]
    np.testing.assert_array_equal(observations, env.step(actions)[0].repeat(3, axis=0))


def test_a_lane_of_the_vector_env_goes_on_in_the_single_env():
    envs, env = SanaWMVectorEnv(3, FakeWorld()), SanaWMEnv(FakeWorld())
    envs.reset(seed=0)
    first, second = actions_for(3, 2)
    envs.step(first)
    env.set_state(envs.get_state().select([2]))
    np.testing.assert_array_equal(env.step(second[2])[0], envs.step(second)[0][2])


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros(2), np.full((3, 2), np.nan), np.full((3, 2), 50.0)])
def test_bad_actions_of_any_lane_move_none(bad):
    env = SanaWMVectorEnv(3, FakeWorld())
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(np.zeros((3, 2)))
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="got"):
        env.step(bad)
    assert env.get_state() is before


def test_autoreset_mode_by_name_value_or_member():
    for mode in MODES:
        for name in (mode, mode.name, mode.name.lower(), mode.value):
            assert SanaWMVectorEnv(1, FakeWorld(), autoreset_mode=name).autoreset_mode is mode
    with pytest.raises(ValueError, match="next_step"):
        SanaWMVectorEnv(1, FakeWorld(), autoreset_mode="always")


def test_needs_at_least_one_lane():
    with pytest.raises(ValueError, match="at least 1"):
        SanaWMVectorEnv(0, FakeWorld())


def test_gymnasium_vector_wrappers_work_on_top():
    env = gym.wrappers.vector.RecordEpisodeStatistics(SanaWMVectorEnv(2, FakeWorld(max_episode_steps=3, goal_row=99)))
    env.reset(seed=0)
    total = np.zeros(2)
    for actions in actions_for(2, 3):
        observations, rewards, _, _, infos = env.step(actions)
        total += rewards
    assert observations.shape == (2, SIDE, SIDE, 3)
    np.testing.assert_allclose(infos["episode"]["r"], total, rtol=1e-6)
    assert infos["episode"]["l"].tolist() == [3, 3]
