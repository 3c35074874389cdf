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


@pytest.mark.parametrize("name", ["adamw", "muon", "came"])
def test_a_restored_optimizer_goes_on_as_the_original(name):
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    if name == "came":
        pytest.importorskip("pytorch_optimizer")
    config = OptimizerConfig(name, lr=0.01)
    model = network()
    optimizer = Optimizer(model, config)
    assert len(optimizer.parts) == (2 if name == "muon" else 1)
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
    with pytest.raises(ValueError, match="optimizer 'sgd': expected 'adamw', 'muon' or 'came'"):
        Optimizer(network(), OptimizerConfig("sgd"))


def test_came_finds_the_least_squares_and_keeps_rows_and_columns():
    pytest.importorskip("pytorch_optimizer")
    torch.manual_seed(0)
    x, wanted = torch.randn(64, 7), torch.randn(7, 5)
    model = nn.Linear(7, 5, bias=False)
    optimizer, errors = Optimizer(model, OptimizerConfig("came", lr=0.03, betas=(0.9, 0.99), weight_decay=0.0)), []
    for step in range(150):
        optimizer.scale_lr(1 - step / 150)
        optimizer.zero_grad()
        error = (model(x) - x @ wanted).pow(2).mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 1e-3 * errors[0]
    kept = {name.split(".")[-1]: value.numel() for name, value in optimizer.tensors().items() if value.ndim}
    assert kept["exp_avg_sq_row"] == 5 and kept["exp_avg_sq_col"] == 7 and kept["exp_avg"] == 35


def test_betas_are_counted():
    for name, betas in (("adamw", (0.9, 0.99, 0.999)), ("came", (0.9,))):
        with pytest.raises(ValueError, match="expected two, of 'came' two or three"):
            Optimizer(network(), OptimizerConfig(name, betas=betas))
