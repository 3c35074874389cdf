import pytest
import torch
from torch.nn import functional as F

from sana_wm.nn.mix_ffn import depthwise_3x3


@pytest.mark.parametrize("grid", [(1, 1), (1, 3), (2, 2), (3, 4)])
def test_written_out_depthwise_equals_the_library(grid):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, *grid, 6, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, 3, 3, generator=g, dtype=torch.float64)
    bias = torch.randn(6, generator=g, dtype=torch.float64)
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=6).permute(0, 2, 3, 1)
    out = depthwise_3x3(x, weight, bias)
    assert torch.allclose(out, expected, atol=1e-12)
    gradients = [torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (out, expected)]
    assert torch.allclose(*gradients, atol=1e-11)
