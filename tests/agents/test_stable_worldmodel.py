"""stable-worldmodel's solvers plan on a world: by their protocol, and where the package is installed, the real ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sana_wm.agents.objectives import PredictedReward
from sana_wm.agents.stable_worldmodel import StandardisedActions, WorldModelCost
from tests.world.tiny import CONTEXT, HIGH, LOW, tiny_actions, tiny_frames, tiny_world

BLOCK, HORIZON = 2, 3


@pytest.fixture(scope="module")
def world():
    return tiny_world()


def info_of(lanes: int, frames: int = 1) -> dict:
    """As a policy hands it to a solver: entries (B, T, ...)."""
    return {
        "pixels": torch.from_numpy(tiny_frames(lanes, frames)),
        "goal": torch.from_numpy(tiny_frames(lanes, 1, seed=9)),
        "action": torch.zeros(lanes, frames, 2),
        "id": np.arange(lanes),
    }


def expanded(info: dict, samples: int) -> dict:
    return {
        key: value[:, None].expand(len(value), samples, *value.shape[1:])
        if torch.is_tensor(value)
        else np.repeat(value[:, None], samples, 1)
        for key, value in info.items()
    }


class DuckSolver:
    """The protocol and nothing more: samples, asks for costs, keeps the cheapest."""

    def __init__(self, model, num_samples=24):
        self.model, self.num_samples, self.asked = model, num_samples, 0

    def configure(self, *, action_space, n_envs, config):
        self.width = int(np.prod(action_space.shape[1:])) * config.action_block
        self.horizon = config.horizon

    @torch.inference_mode()
    def solve(self, info_dict, init_action=None):
        lanes = len(info_dict["pixels"])
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(lanes, self.num_samples, self.horizon, self.width, generator=generator)
        drawn[:, 0] = 0 if init_action is None else init_action
        costs = self.model.get_cost(expanded(info_dict, self.num_samples), drawn)
        assert costs.shape == (lanes, self.num_samples)
        return {"actions": drawn[torch.arange(lanes), costs.argmin(1)], "costs": costs}


def configured(solver, lanes: int):
    space = spaces.Box(np.tile(LOW, (lanes, 1)).astype("f"), np.tile(HIGH, (lanes, 1)).astype("f"))
    config = SimpleNamespace(horizon=HORIZON, receding_horizon=HORIZON, history_len=1, action_block=BLOCK)
    solver.configure(action_space=space, n_envs=lanes, config=config)
    return solver


def test_costs_are_those_of_the_world_in_its_own_units(world):
    model = WorldModelCost(world, action_block=BLOCK, seed=5)
    raw = tiny_actions(2, 3, HORIZON * BLOCK)  # (B, S, H * block, A) in dataset units
    folded = torch.from_numpy(model.actions.transform(raw)).reshape(2, 3, HORIZON, BLOCK * 2)
    info = info_of(2)
    costs = model.get_cost(expanded(info, 3), folded)
    goals = world.encode(info["goal"])[:, 0]
    for lane in range(2):
        state = world.begin(info["pixels"][lane : lane + 1], seeds=[5 + lane]).repeat(3)
        last = world.rollout(state, raw[lane]).latents[:, -1]
        expected = (last - goals[lane]).square().mean((1, 2, 3))
        torch.testing.assert_close(costs[lane], expected, rtol=1e-4, atol=1e-5)


def test_a_solver_by_the_protocol_finds_better_plans_than_its_average(world):
    solver = configured(DuckSolver(WorldModelCost(world, PredictedReward(), action_block=BLOCK)), 2)
    out = solver.solve(info_of(2))
    assert out["actions"].shape == (2, HORIZON, BLOCK * 2)
    assert (out["costs"].min(1).values < out["costs"].mean(1) - 1e-4).all()
    same = solver.solve(info_of(2))
    assert torch.equal(out["costs"], same["costs"])


def test_context_frames_bring_their_actions(world):
    model, folded = WorldModelCost(world, PredictedReward()), torch.zeros(2, 1, HORIZON, 2)
    info = expanded(info_of(2, CONTEXT), 1)
    still = model.get_cost(info, folded)
    moved = model.get_cost(info | {"action": info["action"] + 0.5}, folded)
    assert (still - moved).abs().max() > 1e-5
    raw = model.actions.inverse_transform(np.zeros((2, CONTEXT - 1, 2), np.float32))
    state = world.begin(tiny_frames(2, CONTEXT), raw, seeds=[0, 1])
    zero = model.actions.inverse_transform(np.zeros((2, HORIZON, 2), np.float32))
    expected = -world.rollout(state, zero).reward.numpy()
    alive = np.cumprod(1 - world.rollout(state, zero).terminated.numpy()[:, :-1], 1)
    expected = (expected * np.concatenate([np.ones((2, 1)), alive], 1)).sum(1)
    np.testing.assert_allclose(still[:, 0], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="no 'action'"):
        model.get_cost({"pixels": info["pixels"]}, folded)


def test_begins_once_per_plan(world):
    calls = []

    class Counting:
        codec, transformer, rollout = world.codec, world.transformer, staticmethod(world.rollout)

        def begin(self, *args, **options):
            calls.append(1)
            return world.begin(*args, **options)

    model = WorldModelCost(Counting(), PredictedReward())
    for _ in range(3):
        model.get_cost(expanded(info_of(2), 4), torch.randn(2, 4, HORIZON, 2))
    assert len(calls) == 1
    model.get_cost(expanded(info_of(3), 4), torch.randn(3, 4, HORIZON, 2))
    assert len(calls) == 2


def test_standardised_actions_come_back_inside_the_bounds(world):
    actions = StandardisedActions(world.codec)
    raw = tiny_actions(5, 3)
    np.testing.assert_allclose(actions.inverse_transform(actions.transform(raw)), raw, atol=1e-5)
    assert world.codec.action_space.contains(actions.inverse_transform(np.full(2, 99.0, np.float32)))
    assert np.isnan(actions.inverse_transform(np.full((1, 2), np.nan, np.float32))).all()


def test_mistakes_are_named(world):
    model, info = WorldModelCost(world, action_block=BLOCK), expanded(info_of(2), 1)
    folded = torch.zeros(2, 1, HORIZON, 2 * BLOCK)
    with pytest.raises(ValueError, match="check action_block"):
        model.get_cost(info, folded[..., :2])
    with pytest.raises(ValueError, match="no 'goal'"):
        model.get_cost({"pixels": info["pixels"]}, folded)
    with pytest.raises(ValueError, match="no transform"):
        model.get_cost(info | {"pixels": info["pixels"].float()}, folded)


def real(name: str):
    return getattr(pytest.importorskip("stable_worldmodel.solver"), name)


@pytest.mark.parametrize("name", ["CEMSolver", "ICEMSolver", "MPPISolver"])
def test_the_real_sampling_solvers(world, name):
    model = WorldModelCost(world, action_block=BLOCK)
    settings = {"num_samples": 16, "n_steps": 3, "topk": 4, "batch_size": 2}
    solver = configured(real(name)(model, **settings), 3)
    found = solver.solve(info_of(3))["actions"]
    assert found.shape == (3, HORIZON, 2 * BLOCK)
    info = expanded(info_of(3), 1)
    better = model.get_cost(info, found[:, None].float()) < model.get_cost(info, torch.zeros_like(found)[:, None])
    assert better.any()


def test_the_real_gradient_solver_descends(world):
    model = WorldModelCost(world, action_block=BLOCK)
    settings = {"optimizer_cls": torch.optim.Adam, "optimizer_kwargs": {"lr": 0.05}, "num_samples": 2}
    solver = configured(real("GradientSolver")(model, n_steps=6, **settings), 2)
    costs = solver.solve(info_of(2))["cost"][0]
    assert costs[-1] < costs[0]
