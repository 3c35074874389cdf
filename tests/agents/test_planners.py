"""What holds for every planner: near the known optimum, better than chance, each start on its own, inside the box."""

from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from sana_wm.agents.cem import CEMConfig
from sana_wm.agents.mpc import MPCAgent
from sana_wm.agents.objectives import ActionPenalty, LatentGoal, ProprioGoal, WeightedSum
from sana_wm.agents.planners import PLANNERS, at_budget_of, make_planner, planner_config, planner_name
from sana_wm.agents.shooting import normal
from tests.agents.toys import Drift, Masses, PointMass, Points, Wall

BOX = spaces.Box(-1, 1, (2,), np.float32)
SAMPLING = ["cem", "icem", "mppi", "random"]
EVERY = [*SAMPLING, "gradient"]
BASE = CEMConfig(knots=4, block=2, samples=64, iterations=8, elites=6, initial_std=0.4, min_std=0.01)
# how far above the optimum a plan may be, relative to what doing nothing costs above it
NEAR = {"cem": 0.1, "icem": 0.08, "mppi": 0.08, "random": 0.3, "gradient": 0.03}
every_planner = pytest.mark.parametrize("name", EVERY)


def settings_of(name, **changes):
    return at_budget_of(name, BASE, **({"samples": 4} if name == "gradient" else {}), **changes)


def wish(goal):
    """Quadratic in the actions of a point mass: early, and gently."""
    return WeightedSum(
        (1.0, LatentGoal(goal[..., None, None], over_horizon="mean")), (0.1, ActionPenalty(BOX, magnitude=1.0))
    )


def optimum(dynamics, start, goal, config):
    """The least cost of knots without bounds, by linear least squares: the cost is |M u - r|^2."""
    knots, block, horizon = config.knots, config.block, config.horizon
    size = knots * 2

    def residual(u):
        actions = np.repeat(u.reshape(1, knots, 2), block, axis=1)
        path = dynamics.rollout(Masses(start[None]), actions).proprio[0]
        apart = (path - goal) / np.sqrt(horizon * 2)
        return np.concatenate([apart.ravel(), np.sqrt(0.1 / (horizon * 2)) * actions.ravel()])

    still = residual(np.zeros(size))
    matrix = np.stack([residual(unit) - still for unit in np.eye(size)], axis=1)
    best = np.linalg.lstsq(matrix, -still, rcond=None)[0]
    assert np.abs(best).max() < 1, "the optimum must lie inside the box for the test to mean something"
    return ((matrix @ best + still) ** 2).sum(), (still**2).sum()


@pytest.fixture(scope="module")
def masses():
    rng = np.random.default_rng(4)
    return rng.normal(scale=0.1, size=(5, 4)), rng.normal(scale=0.3, size=(5, 2))


def excess(name, masses, seeds):
    """Cost above the optimum over what doing nothing costs above it, (N,)."""
    start, goal = masses
    dynamics, config = PointMass(), settings_of(name)
    found = make_planner(config, BOX).plan(dynamics, wish(goal), Masses(start), seeds=seeds)
    best, idle = np.array([optimum(dynamics, s, g, config) for s, g in zip(start, goal, strict=True)]).T
    assert (found.cost >= best - 1e-6).all()
    return (found.cost - best) / (idle - best)


@every_planner
def test_comes_near_the_optimum_of_a_linear_point_mass(name, masses):
    over = np.concatenate([excess(name, masses, seed + np.arange(5)) for seed in (0, 100, 2000)])
    assert over.mean() < NEAR[name]


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient"])
def test_beats_random_shooting_at_the_same_budget(name, masses):
    seeds = np.arange(5) + 7
    assert excess(name, masses, seeds).mean() < 0.5 * excess("random", masses, seeds).mean()


@pytest.mark.parametrize("name", SAMPLING)
def test_finds_the_gap_in_a_wall(name):
    start, goal = np.array([[-1.0, -0.5]] * 6), np.array([[1.0, 0.0]] * 6)
    base = CEMConfig(knots=4, block=4, samples=128, iterations=6, elites=8, initial_std=0.8, min_std=0.05)
    planner = make_planner(at_budget_of(name, base), BOX)
    found = planner.plan(Wall(), ProprioGoal(goal, over_horizon="min"), Points(start), seeds=np.arange(6))
    # on this side of the wall no place is nearer than 1 / sqrt(2)
    assert (found.cost < 0.5).mean() >= 5 / 6
    assert np.median(found.cost) < (0.35 if name == "random" else 0.15)


@every_planner
def test_a_plan_does_not_depend_on_its_neighbours(name, masses):
    start, goal = masses
    planner, seeds = (
        make_planner(settings_of(name, iterations=3) if name != "random" else settings_of(name), BOX),
        [9, 1, 5, 4, 7],
    )
    together = planner.plan(PointMass(), wish(goal), Masses(start), seeds=np.array(seeds))
    for k in range(5):
        alone = planner.plan(
            PointMass(), wish(goal[k : k + 1]), Masses(start[k : k + 1]), seeds=np.array(seeds[k : k + 1])
        )
        np.testing.assert_allclose(alone.actions[0], together.actions[k], atol=1e-5)


@every_planner
def test_is_a_pure_function_of_its_seed(name, masses):
    start, goal = masses
    planner = make_planner(settings_of(name), BOX)
    one, same, other = (
        planner.plan(PointMass(), wish(goal), Masses(start), seeds=seed + np.arange(5)) for seed in (3, 3, 300)
    )
    assert np.array_equal(one.actions, same.actions) and not np.array_equal(one.actions, other.actions)


@every_planner
def test_stays_in_the_box_and_reports_the_cost_of_what_it_returns(name):
    box = spaces.Box(np.array([-1.0, 0.2], np.float32), np.array([0.5, 3.0], np.float32))
    start, goal = np.zeros((3, 4)), np.full((3, 2), 100.0)
    config = at_budget_of(name, BASE, initial_std=2.0)
    objective = LatentGoal(goal[..., None, None])
    found = make_planner(config, box).plan(PointMass(), objective, Masses(start), seeds=np.arange(3))
    assert found.actions.dtype == np.float32 and found.actions.shape == (3, config.horizon, 2)
    assert all(box.contains(action) for lane in found.actions for action in lane)
    assert found.actions.mean() > 0.75 * np.mean([0.5, 3.0])  # the far goal pulls to the bound
    again = objective(PointMass().rollout(Masses(start), found.actions))
    np.testing.assert_allclose(again, found.cost, rtol=1e-4)


@every_planner
def test_the_warm_start_is_tried(name, masses):
    start, goal = masses
    config = settings_of(name)
    planner = make_planner(config, BOX)
    good = planner.plan(PointMass(), wish(goal), Masses(start), seeds=np.arange(5))
    lazy = at_budget_of(name, BASE, **({"iterations": 1} if name != "random" else {}), initial_std=1.0)
    lazy = type(lazy)(**{**vars(lazy), "samples": 6, **({"elites": 3} if hasattr(lazy, "elites") else {})})
    cold, warm = (
        make_planner(lazy, BOX).plan(PointMass(), wish(goal), Masses(start), seeds=np.arange(5), initial_mean=mean)
        for mean in (None, good.knots)
    )
    assert (warm.cost <= good.cost + 1e-5).all() and warm.cost.mean() < cold.cost.mean()


@every_planner
def test_linear_interpolation_starts_at_the_origin(name):
    config = settings_of(name, interpolation="linear")
    origin = np.array([[0.5, -0.5]])
    planner = make_planner(config, BOX)
    found = planner.plan(PointMass(), wish(np.ones((1, 2))), Masses(np.zeros((1, 4))), seeds=[0], origin=origin)
    np.testing.assert_allclose(found.actions[0, 0], (origin[0] + found.knots[0, 0]) / 2, atol=1e-6)
    np.testing.assert_allclose(found.actions[0, 1::2], found.knots[0], atol=1e-6)


@pytest.mark.parametrize("name", SAMPLING)
def test_splitting_the_lanes_bounds_memory_and_changes_nothing(name, masses):
    start, goal = masses
    whole, split = settings_of(name), settings_of(name, lanes=37)
    dynamics = PointMass()
    one = make_planner(whole, BOX).plan(PointMass(), wish(goal), Masses(start), seeds=np.arange(5))
    other = make_planner(split, BOX).plan(dynamics, wish(goal), Masses(start), seeds=np.arange(5))
    assert max(dynamics.calls) <= 37
    assert np.array_equal(one.actions, other.actions)


@every_planner
def test_budgets_are_kept(name):
    config, dynamics = settings_of(name), PointMass()
    make_planner(config, BOX).plan(dynamics, wish(np.ones((3, 2))), Masses(np.zeros((3, 4))), seeds=np.arange(3))
    spent = sum(dynamics.calls) / 3 * (3 if name == "gradient" else 1)
    assert spent == config.rollouts <= BASE.rollouts
    assert spent > 0.9 * BASE.rollouts


@every_planner
def test_wrong_shapes_nan_and_unbounded_spaces_are_refused(name):
    planner, state, objective = make_planner(settings_of(name), BOX), Masses(np.zeros((2, 4))), wish(np.ones((1, 2)))
    for options, words in (
        ({"seeds": np.arange(3)}, "seeds"),
        ({"seeds": np.arange(2), "origin": np.zeros(2)}, "origin"),
        ({"seeds": np.arange(2), "initial_mean": np.zeros((2, 9, 2))}, "initial_mean"),
        ({"seeds": np.arange(2), "initial_elites": np.zeros((2, 4, 2))}, "initial_elites"),
    ):
        with pytest.raises(ValueError, match=words):
            planner.plan(PointMass(), objective, state, **options)
    nan = LatentGoal(np.full((1, 2, 1, 1), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        planner.plan(PointMass(), nan, state, seeds=np.arange(2))
    with pytest.raises(ValueError, match="finite"):
        make_planner(settings_of(name), spaces.Box(-np.inf, np.inf, (2,), np.float32))
    with pytest.raises(ValueError, match="one-dimensional"):
        make_planner(settings_of(name), spaces.Discrete(3))


@every_planner
def test_an_agent_acts_with_it_in_a_batch(name):
    goal = np.array([[1.0, 0.5], [-1.0, 0.0]])
    config = at_budget_of(name, CEMConfig(knots=3, block=2, samples=32, iterations=4, elites=6, initial_std=0.5,
                                          min_std=0.02))  # fmt: skip
    dynamics = Drift(0.3) if name != "gradient" else TorchDrift(0.3)
    agent = MPCAgent(
        make_planner(config, BOX), dynamics, ProprioGoal(goal, over_horizon="mean"),
        lambda observations, actions: Points(observations[:, -1]), seeds=[3, 4], replan_every=2,
    )  # fmt: skip
    position = np.zeros((2, 2))
    for _ in range(12):
        position = position + 0.3 * agent.act(position)
    assert np.linalg.norm(position - goal, axis=1).max() < 0.2
    assert len(agent.plans) == 6


class TorchDrift(Drift):
    def rollout(self, state, actions):
        if not hasattr(actions, "new_tensor"):
            return super().rollout(state, actions)
        path = actions.new_tensor(state.position)[:, None] + self.gain * actions.cumsum(1)
        return SimpleNamespace(proprio=path, latents=path[..., None, None])


def test_planners_by_name():
    for name in PLANNERS:
        assert planner_name(planner_config(name, {"knots": 3, "block": None})) == name
        assert planner_config(name, {"knots": 3}).horizon == 15
    with pytest.raises(ValueError, match="expected one of"):
        planner_config("genetic")
    with pytest.raises(ValueError, match="no settings \\['temperature'\\]"):
        planner_config("cem", {"temperature": 1.0})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mppi", {"temperature": 0.0}, "temperature"),
        ("mppi", {"elites": 100, "samples": 9}, "elites"),
        ("icem", {"decay": 0.5}, "decay"),
        ("icem", {"keep": 1.5}, "keep"),
        ("gradient", {"bounds": "wrap"}, "'wrap'"),
        ("gradient", {"lanes": 8}, "lanes"),
        ("random", {"samples": 0}, "samples"),
        ("cem", {"min_std": -1.0}, "min_std"),
        ("cem", {"persistence": 1.5}, "persistence"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        planner_config(name, settings)


def test_draws_depend_on_seed_and_iteration_alone():
    assert np.array_equal(normal(3, 1, (4, 2)), normal(3, 1, (4, 2)))
    assert not np.array_equal(normal(3, 1, (4, 2)), normal(3, 2, (4, 2)))
