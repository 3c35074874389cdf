"""PushT: the state is the whole state, the physics is gym-pusht's, frames show sub-pixel motion."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gym_pusht.envs.pusht import PushTEnv as GymPushT
from gymnasium.utils.env_checker import check_env

from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.pusht_physics import (
    AGENT_RADIUS,
    BLOCK_CENTRE,
    GOAL_POSE,
    OUTLINE,
    STATE_SIZE,
    SUCCESS_COVERAGE,
    block_distance,
    block_points,
    coverage,
    on_table,
    random_state,
)
from sana_wm.envs.pusht_policies import POLICIES


def trajectory(policy: str, seed: int, steps: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """States `(steps + 1, 10)` and actions `(steps, 2)` of one policy."""
    env, rng = PushTEnv(), np.random.default_rng(seed)
    env.reset(options={"state": random_state(rng)})
    act, states, actions = POLICIES[policy](rng), [env.get_state()], []
    for _ in range(steps):
        actions.append(act(states[-1]))
        states.append(env.simulate(states[-1], actions[-1][None])[0])
    return np.array(states), np.array(actions)


@pytest.fixture(scope="module")
def trajectories() -> list[tuple[np.ndarray, np.ndarray]]:
    return [trajectory(policy, seed) for policy in POLICIES for seed in range(8)]


def test_replay_from_any_restored_state_is_exact_in_contact(trajectories):
    env, segments_with_contact = PushTEnv(), 0
    for states, actions in trajectories:
        for start in range(0, 75, 8):
            segment = states[start : start + 26]
            segments_with_contact += np.abs(segment[-1, 4:7] - segment[0, 4:7]).max() > 1
            np.testing.assert_array_equal(env.simulate(segment[0], actions[start : start + 25]), segment[1:])
    assert segments_with_contact > 100  # else the test shows nothing


def test_set_state_restores_a_stepped_environment(trajectories):
    states, actions = trajectories[0]
    env = PushTEnv()
    env.reset(seed=3)
    for action in actions[:30]:
        observation, *_ = env.step(action)
    saved, future = env.get_state(), [env.step(action) for action in actions[30:55]]
    np.testing.assert_array_equal(env.set_state(saved), observation)
    for action, (observation, reward, terminated, _, info) in zip(actions[30:55], future, strict=True):
        again = env.step(action)
        np.testing.assert_array_equal(again[0], observation)
        assert (again[1], again[2]) == (reward, terminated)
        np.testing.assert_array_equal(again[4]["block_pose"], info["block_pose"])


def test_physics_is_that_of_gym_pusht(trajectories):
    """The same bodies in gym-pusht, which keeps its contact cache and hidden push-out from step to step."""
    moved = 0.0
    for states, actions in trajectories[::2]:
        reference = GymPushT()
        reference.reset(seed=0)
        reference._setup()
        reference.agent.position = states[0, :2].tolist()
        reference.block.angle = states[0, 6]
        reference.block.position = states[0, 4:6].tolist()
        for action, state in zip(actions[:25], states[1:26], strict=True):
            reference.step(action.astype(np.float64))
            pose = [*reference.block.position, reference.block.angle]
            np.testing.assert_allclose(pose, state[4:7], atol=0.05)
            np.testing.assert_allclose(reference.agent.position, state[:2], atol=1e-9)
        moved = max(moved, np.abs(states[25, 4:6] - states[0, 4:6]).max())
    assert moved > 20


def test_keypoints_and_coverage_are_those_of_gym_pusht(trajectories):
    reference = GymPushT()
    reference.reset(seed=0)
    near_goal = np.zeros((5, STATE_SIZE))
    near_goal[:, 4:7] = GOAL_POSE + np.linspace(0, 1, 5)[:, None] * [20, -10, 0.4]
    env = PushTEnv()
    for state in [*near_goal, *(states[-1] for states, _ in trajectories)]:
        reference.block.angle = state[6]
        reference.block.position = state[4:6].tolist()
        assert coverage(state) == pytest.approx(reference._get_coverage(), abs=1e-9)
        env.set_state(state)
        info = env.reset(options={"state": state})[1]
        expected = reference.get_keypoints(reference._block_shapes).reshape(16)
        np.testing.assert_allclose(info["keypoints"], expected, atol=1e-9)


def test_reward_and_termination_at_the_goal():
    env = PushTEnv()
    state = np.array([50.0, 50.0, 0, 0, *GOAL_POSE, 0, 0, 0])
    _, info = env.reset(options={"state": state})
    assert info["is_success"] and info["coverage"] == pytest.approx(1)
    _, reward, terminated, truncated, info = env.step(np.array([50, 50], np.float32))
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)
    state[4] += 10
    env.set_state(state)
    _, reward, terminated, *_ = env.step(np.array([50, 50], np.float32))
    assert 0.5 < reward < 1 and not terminated


def test_frames_show_motion_smaller_than_a_pixel():
    env = PushTEnv()
    state = np.array([100.0, 100.0, 0, 0, 300.0, 300.0, 0.3, 0, 0, 0])
    frame = env.set_state(state).astype(int)
    for column, shift in ((0, 1.0), (4, 1.0), (6, 0.02)):  # one px of the table is 1/8 px of the frame
        other = state.copy()
        other[column] += shift
        assert np.abs(env.set_state(other).astype(int) - frame).max() >= 8


def test_frames_show_bodies_where_they_are():
    env = PushTEnv()
    for seed in range(5):
        env.reset(seed=seed)
        state, frame = env.get_state(), env.set_state(env.get_state()).astype(int)
        for colour, where in (((65, 105, 225), state[:2]), ((119, 136, 153), None)):
            weight = np.clip(1 - np.abs(frame - colour).sum(axis=-1) / 30, 0, None)
            ys, xs = np.nonzero(weight)
            centre = np.array([xs.mean(), ys.mean()]) * 8 + 4
            if where is None:  # the area centre of the T: bar 3600 px^2 at y 15, stem 2700 px^2 at y 75
                where = block_points(state[4:7], np.array([[0, (3600 * 15 + 2700 * 75) / 6300]]))[0]
            assert np.linalg.norm(centre - where) < 6


def test_reset_is_seeded_and_valid():
    env = PushTEnv()
    for seed in range(50):
        env.reset(seed=seed)
        state = env.get_state()
        assert on_table(state[4:7]) and block_distance(state[4:7], state[:2])[0] > AGENT_RADIUS
        env.reset(seed=seed)
        np.testing.assert_array_equal(env.get_state(), state)


def test_block_distance_matches_the_outline():
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(0)
    pose, points = np.array([200.0, 250.0, 0.7]), rng.uniform(50, 450, (200, 2))
    polygon = shapely.Polygon(block_points(pose, OUTLINE))
    expected = [polygon.distance(shapely.Point(p)) for p in points]
    np.testing.assert_allclose(block_distance(pose, points), expected, atol=1e-9)
    assert block_distance(pose, block_points(pose, BLOCK_CENTRE[None]))[0] == 0


def test_registered_environment_passes_the_checker():
    env = gym.make("sana_wm/PushT-v0", render_mode="rgb_array")
    assert env.spec.max_episode_steps == 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space.*")  # actions are px by design
        check_env(env.unwrapped)
    env.reset(seed=0)
    assert env.render().shape == (256, 256, 3)


def test_time_limit_truncates():
    env = gym.make("sana_wm/PushT-v0", max_episode_steps=3)
    env.reset(options={"state": np.array([50.0, 50, 0, 0, 300, 300, 0, 0, 0, 0])})
    assert [env.step(np.array([50, 50], np.float32))[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("action", [np.zeros(3), np.array([np.nan, 0]), np.array([0, 512.5]), np.array([-1, 0])])
def test_bad_actions_say_what_was_expected(action):
    env = PushTEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action: got .*expected .*px"):
        env.step(action)
    with pytest.raises(ValueError, match="action: got"):
        env.simulate(env.get_state(), action[None])


@pytest.mark.parametrize("state", [np.zeros(5), np.full(10, np.nan)])
def test_bad_states_say_what_was_expected(state):
    with pytest.raises(ValueError, match="expected 10 finite numbers"):
        PushTEnv().set_state(state)


@pytest.mark.parametrize("policy", list(POLICIES))
def test_policies_push_and_depend_on_the_generator_alone(policy, trajectories):
    per_policy = 8
    mine = trajectories[list(POLICIES).index(policy) * per_policy :][:per_policy]
    again = trajectory(policy, seed=0)
    np.testing.assert_array_equal(again[0], mine[0][0])
    env, moved = PushTEnv(), []
    for states, actions in mine:
        assert actions.dtype == np.float32 and all(env.action_space.contains(action) for action in actions)
        centres = np.array([block_points(state[4:7], BLOCK_CENTRE[None])[0] for state in states])
        for start in range(0, 76, 5):
            turn = np.degrees(abs(states[start + 25, 6] - states[start, 6]))
            moved.append(np.linalg.norm(centres[start + 25] - centres[start]) > 10 or turn > 10)
    assert np.mean(moved) > 0.4


def test_scripted_policy_reaches_the_goal_from_nearby():
    reached = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        pose = GOAL_POSE + rng.normal(0, [15, 15, 0.15])
        env, state, act = PushTEnv(), random_state(rng, pose), POLICIES["scripted"](rng)
        for _ in range(150):
            state = env.simulate(state, act(state)[None])[0]
            if coverage(state) > SUCCESS_COVERAGE:
                reached += 1
                break
    assert reached >= 2
