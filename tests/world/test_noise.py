import numpy as np
import pytest
import torch

from sana_wm.world.noise import lane_noise

SHAPE = (4, 8, 8)


def noise(seeds, frames, draw=0, shape=SHAPE):
    return lane_noise(torch.tensor(seeds), torch.tensor(frames), draw, shape)


def test_same_arguments_same_bits_and_no_global_state():
    torch.manual_seed(0)
    first = noise([5, 6], [1, 9])
    torch.manual_seed(1)
    assert torch.equal(first, noise([5, 6], [1, 9])) and first.dtype == torch.float32


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_lane_does_not_depend_on_its_batch(size):
    generator = np.random.default_rng(0)
    seeds, frames = generator.integers(-(2**63), 2**63 - 1, 7), generator.integers(0, 10_000, 7)
    whole = noise(seeds, frames, 1)
    parts = [noise(seeds[i : i + size], frames[i : i + size], 1) for i in range(0, 7, size)]
    assert torch.equal(whole, torch.cat(parts))
    order = generator.permutation(7)
    assert torch.equal(whole[order], noise(seeds[order], frames[order], 1))


def test_standard_normal():
    x = noise(list(range(200)), [3] * 200, shape=(1000,)).double()
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01
    assert abs((x**4).mean() / (x**2).mean() ** 2 - 3) < 0.06
    assert abs((x**3).mean()) < 0.03 and torch.isfinite(x).all()


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_extreme_seeds_give_ordinary_noise(seed):
    x = noise([seed], [2**40], shape=(20_000,))
    assert abs(x.mean()) < 0.03 and abs(x.std() - 1) < 0.03


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0), (0, 1, -1), (0, 0, 5)])
def test_neighbouring_seeds_frames_and_draws_are_uncorrelated(other):
    base = (10, 20, 2)
    seed, frame, draw = (a + b for a, b in zip(base, other, strict=True))
    a = noise([base[0]], [base[1]], base[2], (20_000,))[0]
    b = noise([seed], [frame], draw, (20_000,))[0]
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.03
    for lag in (1, 2, 7):
        assert abs(torch.corrcoef(torch.stack([a[:-lag], b[lag:]]))[0, 1]) < 0.03
