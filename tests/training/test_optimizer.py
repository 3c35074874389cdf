import pytest
import torch
from torch import nn

from sana_wm.training.optimizer import Optimizer, OptimizerConfig


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 18), nn.LayerNorm(18), nn.Linear(18, 3))


def step(model, optimizer, seed):
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).pow(2).mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_restored_optimizer_goes_on_as_the_original(name):
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    config = OptimizerConfig(name, lr=0.01)
    model = network()
    optimizer = Optimizer(model, config)
    assert len(optimizer.parts) == (1 if name == "adamw" else 2)
    step(model, optimizer, 1)
    saved = {key: value.clone() for key, value in optimizer.tensors().items()}
    twin = network()
    twin.load_state_dict(model.state_dict())
    restored, fresh = Optimizer(twin, config), network()
    restored.load(saved)
    fresh.load_state_dict(model.state_dict())
    step(model, optimizer, 2), step(twin, restored, 2), step(fresh, Optimizer(fresh, config), 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert not torch.equal(model[0].weight, fresh[0].weight)  # the state matters


def test_the_schedule_scales_every_group():
    optimizer = Optimizer(network(), OptimizerConfig("adamw", lr=0.5))
    optimizer.scale_lr(0.1)
    optimizer.scale_lr(0.2)
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.1]


def test_frozen_parameters_are_left_out():
    model = network()
    model[0].requires_grad_(False)
    optimizer = Optimizer(model, OptimizerConfig())
    assert sum(len(group["params"]) for group in optimizer.parts[0].param_groups) == 4


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="optimizer 'sgd': expected 'adamw' or 'muon'"):
        Optimizer(network(), OptimizerConfig("sgd"))
