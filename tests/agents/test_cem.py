import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sana_wm.agents.cem import CEM, CEMConfig
from sana_wm.agents.objectives import ProprioGoal
from tests.agents.toys import Drift, Follow, Points

BOX = spaces.Box(-1, 1, (2,), np.float32)
THOROUGH = CEMConfig(knots=2, block=3, samples=128, iterations=12, elites=12, initial_std=0.6, min_std=0.001)


def plan(planner, dynamics, start, goal, seeds, **options):
    return planner.plan(dynamics, ProprioGoal(goal), Points(start), seeds=np.asarray(seeds), **options)


@settings(max_examples=20, deadline=None)
@given(
    reach=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    start=st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    seed=st.integers(0, 2**31),
)
def test_finds_the_goal_that_can_be_reached(reach, start, seed):
    # Six steps of at most 1 in each direction cover everything within 4.
    start, goal = np.array([start]), np.array([start]) + np.array([reach])
    found = plan(CEM(THOROUGH, BOX), Drift(), start, goal, [seed])
    assert found.cost[0] < 0.03
    assert np.allclose(start + found.actions[0].sum(0), goal, atol=0.1)


def test_goes_to_the_bound_when_the_goal_is_out_of_reach():
    found = plan(CEM(THOROUGH, BOX), Drift(), np.zeros((1, 2)), np.array([[100.0, -100.0]]), [0])
    assert np.allclose(found.actions[0], [1.0, -1.0], atol=0.02)
    assert BOX.contains(found.actions[0, 0])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_is_a_pure_function_of_its_seed(seed):
    planner = CEM(CEMConfig(samples=16, elites=4, initial_std=0.1), BOX)
    start, goal = np.zeros((1, 2)), np.full((1, 2), 9.0)
    one, same = (plan(planner, Drift(), start, goal, [seed]) for _ in range(2))
    other = plan(planner, Drift(), start, goal, [seed + 1])
    assert np.array_equal(one.actions, same.actions)
    assert not np.array_equal(one.actions, other.actions)


def test_a_plan_does_not_depend_on_its_neighbours():
    planner = CEM(CEMConfig(samples=16, iterations=3, elites=4, initial_std=0.5), BOX)
    rng = np.random.default_rng(0)
    start, goal, seeds = rng.normal(size=(5, 2)), rng.normal(size=(5, 2)), np.arange(5) + 7
    together = plan(planner, Drift(), start, goal, seeds)
    for k in range(5):
        alone = plan(planner, Drift(), start[k : k + 1], goal[k : k + 1], seeds[k : k + 1])
        assert np.array_equal(alone.actions[0], together.actions[k])


def test_spends_exactly_its_budget_in_one_batch_per_iteration():
    dynamics = Drift()
    plan(CEM(CEMConfig(samples=16, iterations=3, elites=4), BOX), dynamics, np.zeros((5, 2)), np.ones((5, 2)), range(5))
    assert dynamics.calls == [5 * 16] * 3


def test_reports_the_cost_of_what_it_returns_and_more_iterations_never_cost_more():
    start, goal = np.zeros((4, 2)), np.full((4, 2), 3.0)
    costs = []
    for iterations in (1, 2, 4, 8):
        config = CEMConfig(samples=16, iterations=iterations, elites=4, initial_std=0.2, min_std=0.05)
        found = plan(CEM(config, BOX), Drift(0.2), start, goal, np.arange(4))
        assert np.allclose(ProprioGoal(goal)(Drift(0.2).rollout(Points(start), found.actions)), found.cost, atol=1e-5)
        costs.append(found.cost)
    assert (np.diff(costs, axis=0) <= 1e-9).all()
    assert costs[-1].mean() < costs[0].mean()


def test_always_tries_the_warm_start():
    config = CEMConfig(knots=1, block=4, samples=2, iterations=1, elites=1, initial_std=1e-3)
    best = np.full((1, 1, 2), 0.25)
    found = plan(CEM(config, BOX), Drift(), np.zeros((1, 2)), np.ones((1, 2)), [0], initial_mean=best)
    assert found.cost[0] == pytest.approx(0.0, abs=1e-6)
    assert np.allclose(found.knots, best)


def test_absolute_targets_are_proposed_around_the_origin():
    space = spaces.Box(0, 512, (2,), np.float32)
    config = CEMConfig(samples=32, iterations=1, elites=4, initial_std=5.0)
    start = np.array([[40.0, 470.0]])
    found = plan(CEM(config, space), Follow(), start, start, [0], origin=start)
    assert np.allclose(found.actions[0], start, atol=1e-4)  # staying is the best plan, and is its first candidate


def test_blocks_are_held_or_joined_by_lines():
    knots, origin = np.array([[1.0], [3.0]]), np.array([0.0])
    space = spaces.Box(-5, 5, (1,), np.float32)
    held = CEM(CEMConfig(knots=2, block=2), space).expand(knots, origin)
    joined = CEM(CEMConfig(knots=2, block=2, interpolation="linear"), space).expand(knots, origin)
    assert held[:, 0].tolist() == [1, 1, 3, 3]
    assert joined[:, 0].tolist() == [0.5, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [({"samples": 0}, "samples"), ({"elites": 65}, "elites"), ({"interpolation": "cubic"}, "'cubic'")],
)
def test_settings_that_make_no_sense_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        CEMConfig(**settings_)


def test_wrong_shapes_and_nan_costs_are_refused():
    planner, state = CEM(CEMConfig(samples=8, elites=2), BOX), Points(np.zeros((2, 2)))
    goal = ProprioGoal(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="seeds"):
        planner.plan(Drift(), goal, state, seeds=np.arange(3))
    with pytest.raises(ValueError, match="origin"):
        planner.plan(Drift(), goal, state, seeds=np.arange(2), origin=np.zeros(2))
    with pytest.raises(ValueError, match="initial_mean"):
        planner.plan(Drift(), goal, state, seeds=np.arange(2), initial_mean=np.zeros((2, 4, 2)))
    with pytest.raises(ValueError, match="NaN"):
        planner.plan(Drift(), lambda prediction: np.full(16, np.nan), state, seeds=np.arange(2))
    with pytest.raises(ValueError, match="finite"):
        CEM(CEMConfig(), spaces.Box(-np.inf, np.inf, (2,), np.float32))
