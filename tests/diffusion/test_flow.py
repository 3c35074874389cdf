import pytest
import torch

from sana_wm.diffusion.flow import FlowConfig, euler_step, interpolate, shift_sigma, sigma_grid, start_point


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_euler_with_the_true_velocity_arrives(steps):
    clean, start = torch.randn(2, 3, 4, dtype=torch.float64)
    x, grid = start, sigma_grid(steps, shift=3.0).double()
    for sigma, following in zip(grid[:-1], grid[1:], strict=True):
        assert torch.allclose(x, interpolate(clean, start, sigma), atol=1e-6)
        x = euler_step(x, start - clean, sigma, following)
    assert torch.allclose(x, clean, atol=1e-6)


def test_shift_eight_regenerates_the_published_four_step_list():
    sigmas = shift_sigma(torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]), 8.0)
    assert (1000 * sigmas).round().tolist() == [1000, 960, 889, 727, 0]


def test_start_points():
    previous, noise = torch.randn(2, 5)
    assert torch.equal(start_point(FlowConfig(start="noise"), previous, noise), noise)
    assert torch.equal(start_point(FlowConfig(start_noise=0.25), previous, noise), previous + 0.25 * noise)


def test_bad_settings():
    with pytest.raises(ValueError, match="'noise' or 'previous'"):
        FlowConfig(start="zero")
    with pytest.raises(ValueError, match="at least 1"):
        FlowConfig(steps=0)
