"""A rollout is differentiable with respect to its actions, where that is asked for, and only there."""

import numpy as np
import pytest
import torch

from sana_wm.diffusion.flow import FlowConfig
from tests.world.tiny import begun, tiny_actions, tiny_world

FIELDS = ("latents", "reward", "terminated", "success", "proprio")


@pytest.mark.parametrize("flow", [FlowConfig(steps=2), FlowConfig(prediction="change", steps=1)])
def test_gradients_are_those_of_finite_differences(flow):
    world = tiny_world(flow=flow)
    for part in world.parts.values():
        part.double()
    state, step = begun(world, 2), 1e-5
    actions = torch.from_numpy(0.5 * tiny_actions(2, 3) + 0.5).double().requires_grad_()
    generator = torch.Generator().manual_seed(3)
    weights = {}

    def cost(values):
        prediction, total = world.rollout(state, values), 0.0
        for name in FIELDS:
            field = getattr(prediction, name)
            if name not in weights:
                weights[name] = torch.randn(field.shape, generator=generator, dtype=torch.float64)
            total = total + (weights[name] * field).sum()
        return total

    (gradient,) = torch.autograd.grad(cost(actions), actions)
    assert gradient.dtype == torch.float64 and gradient.abs().amin() > 0
    for index in np.ndindex(*actions.shape):
        ahead, behind = actions.detach().clone(), actions.detach().clone()
        ahead[index] += step
        behind[index] -= step
        ahead, behind = (cost(values.requires_grad_()).item() for values in (ahead, behind))
        assert gradient[index].item() == pytest.approx((ahead - behind) / (2 * step), rel=1e-4, abs=1e-5)


def test_gradients_do_not_change_the_prediction():
    world, actions = tiny_world(), torch.from_numpy(tiny_actions(3, 4))
    state = begun(world)
    plain, tracked = world.rollout(state, actions), world.rollout(state, actions.clone().requires_grad_())
    for name in FIELDS:
        assert torch.equal(getattr(plain, name), getattr(tracked, name))


def test_other_use_builds_no_graph():
    world, actions = tiny_world(), torch.from_numpy(tiny_actions(3, 2))
    state, tracked = begun(world), actions.clone().requires_grad_()
    for part in world.parts.values():  # not even if somebody thawed the weights
        part.requires_grad_(True)
    with torch.no_grad():
        silent = world.rollout(state, tracked)
    following, stepped = world.step(state, tracked[:, 0])
    assert not following.latent.requires_grad
    for prediction in (world.rollout(state, actions), world.rollout(state, actions.numpy()), silent, stepped):
        assert not any(getattr(prediction, name).requires_grad for name in FIELDS)
    assert not world.read(state.latent).proprio.requires_grad


def test_the_weights_get_no_gradient():
    world, tracked = tiny_world(), torch.from_numpy(tiny_actions(3, 2)).requires_grad_()
    world.rollout(begun(world), tracked).proprio.sum().backward()
    assert tracked.grad.abs().sum() > 0
    assert all(p.grad is None for part in world.parts.values() for p in part.parameters())


def test_bounds_hold_for_tensors_with_a_gradient():
    world = tiny_world()
    wrong = torch.from_numpy(tiny_actions(3, 2)).index_fill(2, torch.tensor([1]), 99.0).requires_grad_()
    with pytest.raises(ValueError, match="clip it to the action space"):
        world.rollout(begun(world), wrong)
