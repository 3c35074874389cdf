import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sana_wm.agents.cem import CEM, CEMConfig
from sana_wm.agents.icem import ICEM, ICEMConfig
from sana_wm.agents.mpc import MPCAgent
from sana_wm.agents.objectives import ProprioGoal
from sana_wm.agents.planners import at_budget_of, make_planner
from tests.agents.toys import Drift, Points

CONFIG = CEMConfig(knots=3, block=2, samples=32, iterations=4, elites=6, initial_std=0.5, min_std=0.02)
BOX = spaces.Box(-1, 1, (2,), np.float32)


class DriftEnv(gym.Env):
    """What `Drift` predicts, with a wind it does not know of."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = BOX

    def __init__(self, wind=0.0):
        self.wind = wind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-2, 2, 2)
        return self.position, {}

    def step(self, action):
        self.position = self.position + 0.3 * action + self.wind
        return self.position, 0.0, False, False, {}


def make_agent(goal, seeds, **options):
    begin = lambda observations, actions: Points(observations[:, -1])  # noqa: E731
    # "last" would let a receding horizon put off arriving for ever.
    objective = ProprioGoal(goal, over_horizon="mean")
    return MPCAgent(CEM(CONFIG, BOX), Drift(0.3), objective, begin, seeds=seeds, **options)


def reach(env, agent, steps):
    observation, _ = env.reset(seed=3)
    for _ in range(steps):
        observation, *_ = env.step(agent.act(observation[None])[0])
    return observation


def test_reaches_a_goal_in_a_single_environment():
    goal = np.array([[1.0, -1.0]])
    assert np.linalg.norm(reach(DriftEnv(), make_agent(goal, [0], replan_every=2), 30) - goal[0]) < 0.15


def test_replanning_corrects_what_the_dynamics_does_not_know():
    goal = np.array([[0.0, 0.0]])
    often, seldom = (
        np.linalg.norm(reach(DriftEnv(wind=0.1), make_agent(goal, [0], replan_every=k), 30)) for k in (1, 6)
    )
    assert often < seldom
    assert often < 0.5


def test_acts_in_a_vector_environment_with_a_goal_each():
    goals = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, 0.5]])
    env = gym.vector.SyncVectorEnv([DriftEnv] * 3)
    agent = make_agent(goals, np.arange(3), replan_every=3)
    observation, _ = env.reset(seed=0)
    for _ in range(30):
        observation, *_ = env.step(agent.act(observation))
    assert np.linalg.norm(observation - goals, axis=1).max() < 0.2
    assert len(agent.plans) == len(agent.planned_from) == 10


def test_context_is_what_was_seen_and_done():
    seen = []

    def begin(observations, actions):
        seen.append((observations[0, :, 0].tolist(), actions.shape))
        return Points(observations[:, -1])

    agent = MPCAgent(
        CEM(CONFIG, BOX), Drift(), ProprioGoal(np.zeros((1, 2))), begin, seeds=[0], context=3, replan_every=2
    )
    with pytest.raises(ValueError, match="needs 3 observations"):
        agent.act(np.zeros((1, 2)))
    agent.reset(np.array([[[1.0, 0.0], [2.0, 0.0]]]), np.zeros((1, 2, 2), np.float32))
    for value in (3.0, 4.0, 5.0):
        agent.act(np.array([[value, 0.0]]))
    assert seen == [([1, 2, 3], (1, 2, 2)), ([3, 4, 5], (1, 2, 2))]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="replan_every"):
        make_agent(np.zeros((1, 2)), [0], replan_every=7)
    with pytest.raises(ValueError, match="1 seeds but got 2"):
        make_agent(np.zeros((1, 2)), [0]).act(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="active"):
        make_agent(np.zeros((1, 2)), [0]).act(np.zeros((1, 2)), np.array([False]))
    with pytest.raises(ValueError, match="the action"):
        make_agent(np.zeros((1, 2)), [0]).reset(np.zeros((1, 2, 2)))


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "random"])
def test_warm_starts_help_a_hasty_planner(name):
    goals = np.random.default_rng(0).uniform(-1.5, 1.5, (6, 2))
    hasty = at_budget_of(name, CEMConfig(knots=4, block=1, samples=6, iterations=1, elites=2, initial_std=0.3,
                                         min_std=0.05))  # fmt: skip
    apart = {}
    for warm in (True, False):
        begin = lambda observations, actions: Points(observations[:, -1])  # noqa: E731
        agent = MPCAgent(
            make_planner(hasty, BOX), Drift(0.3), ProprioGoal(goals, over_horizon="mean"), begin, seeds=np.arange(6),
            replan_every=1, warm_start=warm,
        )  # fmt: skip
        position, way = np.zeros((6, 2)), []
        for _ in range(14):
            position = position + 0.3 * agent.act(position)
            way.append(np.linalg.norm(position - goals, axis=1))
        apart[warm] = np.mean(way)
    assert apart[True] < 0.95 * apart[False]


def test_replanning_starts_from_what_the_last_plan_left():
    given = []

    class Watching(ICEM):
        def plan(self, *args, **options):
            given.append(options)
            return super().plan(*args, **options)

    config = ICEMConfig(knots=3, block=2, samples=8, iterations=2, elites=3, initial_std=0.5, min_std=0.02)
    agent = MPCAgent(
        Watching(config, BOX), Drift(0.3), ProprioGoal(np.ones((1, 2))), lambda o, _: Points(o[:, -1]), seeds=[0],
        replan_every=4,
    )  # fmt: skip
    for _ in range(8):
        agent.act(np.zeros((1, 2)))
    assert "initial_mean" not in given[0]
    first = agent.plans[0]
    assert np.array_equal(given[1]["initial_mean"], first.knots[:, [2, 2, 2]])
    assert np.array_equal(given[1]["initial_elites"], first.elites[:, :, [2, 2, 2]])


def test_plans_for_those_that_still_matter_and_for_them_as_before():
    goals = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, 0.5]])
    dynamics = Drift(0.3)
    agent, other = make_agent(goals, [5, 6, 7], replan_every=2), make_agent(goals, [5, 6, 7], replan_every=2)
    agent.dynamics = dynamics
    seen = np.zeros((3, 2))
    for step in range(6):
        active = None if step < 2 else np.array([True, False, True])
        some, all_ = agent.act(seen, active), other.act(seen)
        assert np.array_equal(some[[0, 2]], all_[[0, 2]])
        if step == 1:
            before = some[1]
        if step >= 2:
            assert np.array_equal(some[1], before)
        seen = seen + 0.3 * all_
    assert dynamics.calls == [3 * 32] * 4 + [2 * 32] * 8
    assert np.isnan(agent.plans[1].cost[1]) and np.isfinite(agent.plans[1].cost[[0, 2]]).all()
