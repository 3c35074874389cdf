"""TwoRoom: walls hold, paths are shortest, states are exact, pictures say where things are."""

import itertools
import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sana_wm  # noqa: F401  registers the environments
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_physics import (
    DOOR_RANGE,
    FAR,
    GOAL_RADIUS,
    HIGH,
    LOW,
    NEAR,
    PASSAGE_HALF,
    SIDE,
    STEP,
    move,
    path_length,
    random_place,
    random_state,
    way_through,
)
from sana_wm.envs.tworoom_policies import GRADED, POLICIES, Expert
from sana_wm.envs.tworoom_pose import decode_pose


def free(x: float, y: float, door: float, slack: float = 0.0) -> bool:
    inside = LOW - slack <= min(x, y) and max(x, y) <= HIGH + slack
    return inside and (not NEAR + slack < x < FAR - slack or abs(y - door) <= PASSAGE_HALF + slack)


def near_the_door(rng: np.random.Generator) -> tuple[float, float, float]:
    """A place from which one step may meet the wall, the door's edges or the passage."""
    while True:
        door = rng.uniform(*DOOR_RANGE)
        x, y = rng.uniform(NEAR - STEP, FAR + STEP), door + rng.uniform(-2.2, 2.2) * PASSAGE_HALF
        if free(x, y, door):
            return x, y, door


def moved_in_small_steps(x, y, dx, dy, door, parts=1000):
    for _ in range(parts):
        if free(x + dx / parts, y, door):
            x += dx / parts
        if free(x, y + dy / parts, door):
            y += dy / parts
    return x, y


def test_check_env_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("sana_wm/TwoRoom-v0", render_mode="rgb_array").unwrapped)


def test_motion_is_the_limit_of_small_steps():
    rng, entered = np.random.default_rng(0), 0
    for _ in range(300):
        x, y, door = near_the_door(rng)
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, STEP)
        way = length * math.cos(angle), length * math.sin(angle)
        got = move(x, y, *way, door)
        assert free(*got, door, slack=1e-9)
        np.testing.assert_allclose(got, moved_in_small_steps(x, y, *way, door), atol=2 * STEP / 1000)
        entered += x <= NEAR < got[0]
    assert entered > 3  # the cases are there


def test_nobody_leaves_the_rooms_or_passes_the_wall_beside_the_door():
    rng, env = np.random.default_rng(1), TwoRoomEnv()
    crossed = 0
    for _ in range(20):
        state = random_state(rng)
        states = env.simulate(state, np.repeat(rng.uniform(-1, 1, (30, 2)), 6, axis=0))
        path = np.concatenate([state[None], states])
        assert all(free(x, y, state[2], slack=1e-9) for x, y in path[:, :2])
        assert np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).max() <= STEP + 1e-9
        sides = path[:, 0] > SIDE / 2
        for t in np.flatnonzero(sides[1:] != sides[:-1]):
            crossed += 1
            assert abs(path[t : t + 2, 1] - state[2]).max() <= PASSAGE_HALF + STEP
        np.testing.assert_array_equal(path[:, 2:], np.broadcast_to(state[2:], (len(path), 3)))
    assert crossed


@pytest.mark.parametrize("seed", range(4))
def test_paths_are_shortest(seed):
    """Held against all paths along the passage's corners that walls do not cut (a visibility graph)."""
    rng = np.random.default_rng(seed)
    for _ in range(15):
        state = random_state(rng)
        if rng.random() < 0.3:  # one who stands in the passage
            state[0], state[1] = rng.uniform(NEAR, FAR), state[2] + rng.uniform(-1, 1) * PASSAGE_HALF
        start, goal, door = state[:2], state[3:5], state[2]
        corners = [np.array([x, door + s * PASSAGE_HALF]) for x in (NEAR, FAR) for s in (-1, 1)]

        def seen(a, b, door=door):
            return all(free(*(a + t * (b - a)), door, slack=1e-6) for t in np.linspace(0, 1, 400))

        best = np.inf
        for stops in itertools.chain.from_iterable(itertools.permutations(corners, n) for n in range(3)):
            points = [start, *stops, goal]
            if all(seen(a, b) for a, b in itertools.pairwise(points)):
                best = min(best, sum(np.linalg.norm(b - a) for a, b in itertools.pairwise(points)))
        one, two, length = way_through(start, goal, np.asarray(door))
        assert length == pytest.approx(best, abs=0.02)
        assert seen(start, one) and seen(one, two) and seen(two, goal)


def test_states_are_the_whole_state():
    env, other = TwoRoomEnv(), TwoRoomEnv()
    env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (17, 2))
    begin = env.get_state()
    future = env.simulate(begin, actions)
    np.testing.assert_array_equal(env.get_state(), begin)
    other.set_state(begin)
    for action, expected in zip(actions, future, strict=True):
        observation, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(observation, other.step(action)[0])
        np.testing.assert_array_equal(env.get_state(), expected)
        assert reward == -path_length(expected) / SIDE and not truncated
        assert terminated == info["is_success"] == (np.linalg.norm(expected[:2] - expected[3:]) <= GOAL_RADIUS)
        np.testing.assert_array_equal(other.set_state(expected), observation)


def test_a_longer_action_than_one_counts_as_one():
    env = TwoRoomEnv()
    state = np.array([15.0, 32.0, 32.0, 50.0, 50.0])
    diagonal = env.simulate(state, np.array([[1.0, 1.0]]))[0]
    assert np.linalg.norm(diagonal[:2] - state[:2]) == pytest.approx(STEP)
    half = env.simulate(state, np.array([[0.0, 0.5]]))[0]
    np.testing.assert_allclose(half[:2] - state[:2], [0, STEP / 2])


def test_resets_differ_and_are_unsolved():
    env, states = TwoRoomEnv(), []
    for seed in range(30):
        _, info = env.reset(seed=seed)
        assert not info["is_success"]
        states.append(env.get_state())
    assert (np.std(states, axis=0) > 5).all()
    rooms = np.array([[random_place(np.random.default_rng(i))[0] > SIDE / 2] for i in range(200)])
    assert 0.35 < rooms.mean() < 0.65


@pytest.mark.parametrize(
    "wrong",
    [
        [0.0, 0.0, 0.0],
        [np.nan] * 5,
        [32.0, 10.0, 40.0, 9.0, 9.0],
        [1.0, 30.0, 30.0, 9.0, 9.0],
        [9.0, 9.0, 2.0, 9.0, 9.0],
        [9.0, 9.0, 30.0, 70.0, 9.0],
    ],
)
def test_impossible_states_are_refused(wrong):
    env = TwoRoomEnv()
    before = env.get_state()
    with pytest.raises(ValueError, match="state: .*expected"):
        env.set_state(np.array(wrong))
    np.testing.assert_array_equal(env.get_state(), before)


@pytest.mark.parametrize("wrong", [[0.0], [[0.0, 0.0]], [np.nan, 0.0], [1.5, 0.0]])
def test_impossible_actions_are_refused(wrong):
    env = TwoRoomEnv()
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="action: got .*expected"):
        env.step(np.array(wrong))
    np.testing.assert_array_equal(env.get_state(), before)


@pytest.mark.parametrize("size", [48, 64, 96])
def test_pictures_say_where_things_are(size):
    rng, env = np.random.default_rng(size), TwoRoomEnv(observation_size=size)
    states = np.array([random_state(rng) for _ in range(60)])
    pose = decode_pose(np.stack([env.set_state(state) for state in states]))
    apart = np.linalg.norm(states[:, :2] - states[:, 3:5], axis=1) > 8
    assert np.linalg.norm(pose.agent - states[:, :2], axis=1).max() < 0.15
    assert np.linalg.norm(pose.goal - states[:, 3:5], axis=1)[apart].max() < 0.15
    assert np.abs(pose.door - states[:, 2]).max() < 0.15
    assert pose.agent_match.min() > 0.9 and pose.goal_match[apart].min() > 0.9


def test_motion_of_a_tenth_of_a_pixel_is_visible():
    env = TwoRoomEnv()
    state = np.array([15.0, 32.0, 32.0, 50.0, 50.0])
    frames = np.stack([env.set_state(state + [shift, 0, 0, 0, 0]) for shift in (0.0, 0.1)])
    agent = decode_pose(frames).agent
    np.testing.assert_allclose(agent[1] - agent[0], [0.1, 0.0], atol=0.03)


def test_a_frame_without_an_agent_has_no_agent():
    env = TwoRoomEnv()
    frame = env.set_state(np.array([15.0, 32.0, 32.0, 50.0, 50.0])).copy()
    frame[20:44, 5:25] = 255
    pose = decode_pose(frame[None])
    assert pose.agent_match[0] < 0.1 and pose.goal_match[0] > 0.9


@pytest.mark.parametrize("name", [*POLICIES, *GRADED])
def test_policies_act_inside_the_space_and_depend_on_their_seed(name):
    make = (POLICIES | GRADED)[name]
    env = TwoRoomEnv()

    def actions(seed):
        env.reset(seed=0)
        policy, taken = make(np.random.default_rng(seed)), []
        for _ in range(60):
            taken.append(policy(env.get_state()))
            assert env.action_space.contains(taken[-1])
            env.step(taken[-1])
        return np.array(taken)

    np.testing.assert_array_equal(actions(1), actions(1))
    assert not np.array_equal(actions(1), actions(2))


def test_grades_are_grades():
    env, rates = TwoRoomEnv(), []
    for make in (GRADED["skill 0.00"], GRADED["skill 0.15"], GRADED["skill 1.00"]):
        solved = []
        for seed in range(25):
            env.reset(seed=seed)
            policy = make(np.random.default_rng(seed))
            solved.append(any(env.step(policy(env.get_state()))[2] for _ in range(60)))
        rates.append(np.mean(solved))
    assert rates[0] < rates[1] < rates[2] == 1.0


def test_an_expert_without_noise_gets_past_the_edges_of_the_passage():
    env = TwoRoomEnv()
    for seed in range(40):  # a tenth of these go along an edge, where a rounding of the action leaves them beside it
        rng = np.random.default_rng(seed)
        env.set_state(random_state(rng))
        policy, terminated = Expert(rng, noise=0.0, pace=1.0, settles=True), False
        for _ in range(50):
            terminated = terminated or env.step(policy(env.get_state()))[2]
        assert terminated, seed
