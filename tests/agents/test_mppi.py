import numpy as np
import pytest
from gymnasium import spaces

from sana_wm.agents.mppi import MPPI, MPPIConfig
from sana_wm.agents.objectives import ProprioGoal
from tests.agents.toys import Drift, Points

BOX = spaces.Box(-1, 1, (2,), np.float32)


def test_the_plan_is_the_weighted_average_of_its_candidates():
    seen = []

    class Watching(Drift):
        def rollout(self, state, actions):
            seen.append(actions)
            return super().rollout(state, actions)

    config = MPPIConfig(knots=2, block=1, samples=9, iterations=1, temperature=0.7, relative=False, initial_std=0.4)
    objective = ProprioGoal(np.array([[0.3, 0.1]]))
    found = MPPI(config, BOX).plan(Watching(), objective, Points(np.zeros((1, 2))), seeds=[4])
    candidates, mean = seen
    cost = objective(Drift().rollout(Points(np.zeros((9, 2))), candidates))
    weights = np.exp(-(cost - cost.min()) / 0.7)
    expected = (weights[:, None, None] * candidates).sum(0) / weights.sum()
    np.testing.assert_allclose(mean[0], expected, atol=1e-6)
    mean_cost = objective(Drift().rollout(Points(np.zeros((1, 2))), mean))[0]
    assert found.cost[0] == pytest.approx(min(mean_cost, cost.min()), abs=1e-6)


def test_relative_temperature_does_not_depend_on_the_unit_of_the_cost():
    goal = np.array([[1.0, -1.5], [0.0, 2.0]])

    def plan(scale, **settings):
        config = MPPIConfig(samples=16, initial_std=0.3, min_std=0.01, **settings)
        objective = lambda prediction: scale * ProprioGoal(goal)(prediction)  # noqa: E731
        return MPPI(config, BOX).plan(Drift(0.3), objective, Points(np.zeros((2, 2))), seeds=[0, 1]).actions

    np.testing.assert_allclose(plan(1.0), plan(1000.0), atol=1e-5)
    absolute = {"relative": False, "temperature": 0.5}
    assert np.abs(plan(1.0, **absolute) - plan(1000.0, **absolute)).max() > 0.05


def test_equal_costs_leave_the_mean_where_it_is_on_average():
    config = MPPIConfig(knots=1, block=1, samples=2000, iterations=1, initial_std=0.2)
    flat = lambda prediction: np.zeros(len(prediction.proprio))  # noqa: E731
    found = MPPI(config, BOX).plan(Drift(), flat, Points(np.zeros((1, 2))), seeds=[0])
    assert np.abs(found.knots).max() < 0.02


@pytest.mark.parametrize("update_std", [False, True])
def test_refitting_the_std_narrows_the_search(update_std):
    spread = []

    class Watching(Drift):
        def rollout(self, state, actions):
            spread.append(actions.std(0).mean())
            return super().rollout(state, actions)

    config = MPPIConfig(samples=64, iterations=5, initial_std=0.3, min_std=0.01, update_std=update_std)
    goal = ProprioGoal(np.array([[0.5, 0.5]]))
    MPPI(config, BOX).plan(Watching(0.3), goal, Points(np.zeros((1, 2))), seeds=[0])
    assert (spread[4] < 0.3 * spread[0]) == update_std
