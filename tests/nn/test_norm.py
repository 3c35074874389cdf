"""Norms by parts are the norm of the whole."""

import pytest
import torch

from sana_wm.nn import norm as norms
from sana_wm.nn.norm import rms_norm, rms_scale, wide_norm


@pytest.fixture
def given():
    torch.manual_seed(0)
    norm = torch.nn.RMSNorm(12, eps=1e-3).requires_grad_(False)
    torch.nn.init.normal_(norm.weight)
    return norm, torch.randn(2, 3, 7, 12)


@pytest.mark.parametrize("cached", [2**16, 12 * 5, 1])  # at once, five rows, row by row
def test_parts_make_the_whole(given, cached, monkeypatch):
    norm, x = given
    monkeypatch.setattr(norms, "CACHED", cached)
    with torch.no_grad():
        for found in (wide_norm(norm, x), x * rms_scale(norm, x, torch.float32) * norm.weight):
            torch.testing.assert_close(found, norm(x))
        low = wide_norm(norm, x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, rms_norm(norm, x.bfloat16(), torch.float32).bfloat16())


def test_no_norm_leaves_things_as_they_are(given):
    assert wide_norm(None, given[1]) is given[1]


def test_gradients_go_through(given):
    norm, x = given
    gradients = []
    for function in (norm, lambda y: wide_norm(norm, y)):
        leaf = x.clone().requires_grad_()
        gradients += torch.autograd.grad(function(leaf).square().sum(), leaf)
    torch.testing.assert_close(*gradients)
