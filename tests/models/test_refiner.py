import pytest
import torch

from sana_wm.models.refiner import Refiner, RefinerConfig, noised_to
from tests.world.tiny import randomise

C, GRID, P = 3, (2, 5), 4


def refiner(**changes):
    torch.manual_seed(0)
    net = Refiner(RefinerConfig(**{"channels": C, "grid": GRID, "proprio_dim": P, "hidden": 16, "depth": 2} | changes))
    randomise(net, 0)
    return net


def test_each_picture_is_drawn_by_itself():
    net = refiner()
    noised, sigma, proprio = torch.randn(4, C, *GRID), torch.rand(4), torch.randn(4, P)
    out = net(noised, sigma, proprio)
    assert out.shape == noised.shape
    torch.testing.assert_close(out[2:3], net(noised[2:3], sigma[2:3], proprio[2:3]))


def test_it_sees_the_picture_the_pose_and_the_noise_level():
    net = refiner()
    noised, sigma, proprio = torch.randn(1, C, *GRID), torch.tensor([0.5]), torch.randn(1, P)
    out = net(noised, sigma, proprio)
    assert not torch.allclose(out, net(noised + 0.1, sigma, proprio))
    assert not torch.allclose(out, net(noised, sigma + 0.2, proprio))
    assert not torch.allclose(out, net(noised, sigma, proprio + 0.1))


def test_every_cell_depends_on_the_whole_picture():
    net, noised = refiner(), torch.randn(1, C, *GRID)
    other = noised.clone()
    other[:, :, 0, 0] += 1
    changed = (net(noised, torch.ones(1), torch.zeros(1, P)) - net(other, torch.ones(1), torch.zeros(1, P))).abs()
    assert (changed.amax(1) > 1e-3).all()


def test_redraw_leaves_proprioception_and_forgets_the_picture_at_sigma_1():
    latents, noise = torch.randn(2, C + 1, *GRID), torch.randn(2, C, *GRID)
    net = refiner(sigma=1.0)
    out = net.redraw(latents, noise)
    assert torch.equal(out[:, C:], latents[:, C:])
    other = torch.cat([torch.randn(2, C, *GRID), latents[:, C:]], 1)
    torch.testing.assert_close(net.redraw(other, noise), out)
    assert not torch.allclose(refiner(sigma=0.5).redraw(other, noise), refiner(sigma=0.5).redraw(latents, noise))


def test_noise_levels_are_those_of_flow_matching():
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(noised_to(clean, noise, 0.0), clean) and torch.equal(noised_to(clean, noise, 1.0), noise)


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_a_noise_level_that_makes_no_sense_is_refused(sigma):
    with pytest.raises(ValueError, match="expected 0 < sigma <= 1"):
        refiner(sigma=sigma)
