"""Planning with a world that is asked how sure it is."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sana_wm.agents.cem import CEM, CEMConfig
from sana_wm.agents.gradient import GradientConfig, GradientPlanner
from sana_wm.agents.objectives import ActionPenalty, UncertaintyPenalty, WeightedSum, imagine
from tests.world.test_trust import trusted
from tests.world.tiny import begun, tiny_actions, tiny_world

BOX = spaces.Box(np.float32([-2, 0]), np.float32([2, 8]))


@pytest.fixture(scope="module")
def world():
    return trusted()


def test_only_who_scores_uncertainty_pays_for_it(world):
    state, actions = begun(world, lanes=3), tiny_actions(3, 4)
    sure, unsure = ActionPenalty(BOX, magnitude=1.0), UncertaintyPenalty()
    assert imagine(world, sure, state, actions).uncertainty is None
    assert imagine(world, WeightedSum((1.0, sure)), state, actions).uncertainty is None
    for objective in (unsure, WeightedSum((1.0, sure), (0.1, unsure))):
        assert imagine(world, objective, state, actions).uncertainty.shape == (3, 4)


@pytest.mark.parametrize("lanes", [None, 7])
def test_a_plan_by_uncertainty_costs_what_the_world_says_of_it(world, lanes):
    planner = CEM(CEMConfig(knots=2, block=2, samples=9, iterations=2, elites=3, initial_std=1.0, lanes=lanes), BOX)
    state = begun(world, lanes=2)
    plan = planner.plan(world, UncertaintyPenalty(), state, seeds=np.arange(2))
    told = world.rollout(state, plan.actions, uncertainty=True).uncertainty.mean(-1)
    torch.testing.assert_close(torch.as_tensor(plan.cost, dtype=torch.float32), told, rtol=1e-3, atol=1e-4)


def test_a_world_without_trust_data_says_so():
    world = tiny_world()
    with pytest.raises(ValueError, match="calibrate"):
        imagine(world, UncertaintyPenalty(), begun(world, lanes=1), tiny_actions(1, 2))


@pytest.mark.parametrize("order", [1, -1])
def test_what_has_a_gradient_leads_a_sum_in_any_order(world, order):
    """Uncertainty has none; beside actions, which have, it counts as a number."""
    terms = [(1.0, ActionPenalty(BOX, magnitude=1.0)), (0.1, UncertaintyPenalty())][::order]
    settings = GradientConfig(knots=2, block=2, samples=2, iterations=8, initial_std=1.0, step_size=0.3)
    plan = GradientPlanner(settings, BOX).plan(world, WeightedSum(*terms), begun(world, lanes=2), seeds=np.arange(2))
    assert np.abs((plan.actions - [0.0, 4.0]) / [2.0, 4.0]).mean() < 0.3
