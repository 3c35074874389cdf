import numpy as np
import pytest
import torch
from gymnasium import spaces

from sana_wm.agents.gradient import GradientConfig, GradientPlanner
from sana_wm.agents.objectives import (
    ActionPenalty,
    LatentGoal,
    PixelGoal,
    PredictedReward,
    ProprioGoal,
    SuccessProbability,
    WeightedSum,
)
from tests.agents.toys import Drift, Masses, PointMass, Points
from tests.world.tiny import begun, tiny_frames, tiny_world

BOX = spaces.Box(-1, 1, (2,), np.float32)


@pytest.fixture(scope="module")
def world():
    return tiny_world()


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_finds_the_bound_and_the_inside(bounds):
    config = GradientConfig(knots=2, block=2, samples=3, iterations=80, step_size=0.05, initial_std=0.3, bounds=bounds)
    goal = np.array([[0.4, 100.0]])
    found = GradientPlanner(config, BOX).plan(PointMass(), ProprioGoal(goal, [0]), Masses(np.zeros((1, 4))), seeds=[0])
    assert found.cost[0] < 0.02
    far = GradientPlanner(config, BOX).plan(PointMass(), ProprioGoal(goal, [1]), Masses(np.zeros((1, 4))), seeds=[0])
    assert np.abs(far.actions[0, :, 1]).min() > 0.95


def test_restarts_escape_a_local_minimum():
    class TwoValleys:
        """cost in x: a shallow valley at -0.5, a deep one at 0.6."""

        def __call__(self, prediction):
            x = prediction.proprio[:, -1, 0]
            deep, shallow = torch.exp(-((x - 0.6) ** 2) / 0.02), torch.exp(-((x + 0.5) ** 2) / 0.05)
            return -deep - 0.3 * shallow

    box = spaces.Box(-1, 1, (1,), np.float32)
    dynamics, state = PointMass(dt=1.0), Masses(np.array([[-0.4, 0.0]]))
    costs = {}
    for samples in (1, 12):
        config = GradientConfig(knots=1, block=1, samples=samples, iterations=60, step_size=0.05, initial_std=0.8)
        costs[samples] = GradientPlanner(config, box).plan(dynamics, TwoValleys(), state, seeds=[1]).cost[0]
    assert costs[1] > -0.5 and costs[12] < -0.95


@pytest.mark.parametrize("what", ["latents", "proprio", "reward", "success", "sum"])
def test_descends_every_objective_through_a_world(world, what):
    box, state = world.codec.action_space, begun(world, 2)
    goal = world.encode(tiny_frames(2, 1, seed=7))[:, 0]
    latents = LatentGoal(goal, over_horizon="mean")
    objective = {
        "latents": latents,
        "proprio": ProprioGoal(world.read(goal).proprio, over_horizon="min"),
        "reward": PredictedReward(discount=0.9),
        "success": SuccessProbability(log=True),
        "sum": WeightedSum((1.0, latents), (0.1, ActionPenalty(box, smoothness=1.0))),
    }[what]
    costs = []
    for iterations in (1, 8):
        config = GradientConfig(knots=2, block=2, samples=2, iterations=iterations, step_size=0.1, initial_std=0.5)
        found = GradientPlanner(config, box).plan(world, objective, state, seeds=np.arange(2))
        costs.append(found.cost)
        assert all(box.contains(action) for lane in found.actions for action in lane)
    assert (costs[1] < costs[0] - 1e-5).all()
    plain = world.rollout(state, found.actions)
    again = objective(plain, found.actions) if what == "sum" else objective(plain)
    np.testing.assert_allclose(again, costs[1], rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in world.transformer.parameters())


def test_what_has_no_gradient_is_refused(world):
    config = GradientConfig(knots=2, block=2, samples=2, iterations=2)
    with pytest.raises(ValueError, match="differentiable world"):
        GradientPlanner(config, BOX).plan(
            NumpyDrift(), ProprioGoal(np.ones((1, 2))), Points(np.zeros((1, 2))), seeds=[0]
        )
    pixels = PixelGoal(tiny_frames(2, 1)[:, 0], world.decode)
    with pytest.raises(ValueError, match="use LatentGoal"):
        GradientPlanner(config, world.codec.action_space).plan(world, pixels, begun(world, 2), seeds=[0, 1])


def test_a_simulator_is_refused():
    from sana_wm.agents.simulator_dynamics import SimulatorDynamics, SimulatorState
    from sana_wm.envs.tworoom import TwoRoomEnv

    env = TwoRoomEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="a simulator has no gradient"):
        GradientPlanner(GradientConfig(), env.action_space).plan(
            SimulatorDynamics(TwoRoomEnv, lambda states: states), ProprioGoal(np.ones((1, 5))),
            SimulatorState(env.get_state()[None]), seeds=[0],
        )  # fmt: skip


class NumpyDrift(Drift):
    def rollout(self, state, actions):
        return super().rollout(state, actions.detach().numpy() if torch.is_tensor(actions) else actions)
