"""UCPE as a relative encoding, and its stabilisers."""

import pytest
import torch

from sana_wm.nn.camera import split_camera_vectors
from sana_wm.nn.embeddings import rope_angles
from sana_wm.nn.ucpe import batched_products, clamp_rms, inflation, rays_of, sum_of_products
from tests.models.sana_reference import poses

B, F, GRID, H, D = 2, 3, (2, 3), 2, 16
S = GRID[0] * GRID[1]


def cameras(seed=0, reach=1.0):
    g = torch.Generator().manual_seed(seed)
    lens = torch.rand(B, F, 4, generator=g, dtype=torch.float64) + 1
    return torch.cat([poses(B, F, reach, g).flatten(-2), lens], dim=-1)


def rope(first=0, head_dim=D):
    angles = rope_angles(torch.arange(first, first + F).expand(B, F), *GRID, head_dim)[:, None]
    return torch.polar(torch.ones_like(angles), angles)


def heads(*shape):
    g = torch.Generator().manual_seed(4)
    return torch.randn(*shape, B, H, F, S, D, generator=g, dtype=torch.float64)


def test_products_and_outputs_depend_on_relative_positions_only():
    """Moving the world, and the clock, changes neither q k nor the decoded output for values that move along."""
    q, k, v = heads(3)
    camera, world = cameras(), poses(B, 1, 9.0, torch.Generator().manual_seed(2))
    c2w, lens = split_camera_vectors(camera)
    moved = torch.cat([(world @ c2w).flatten(-2), lens], dim=-1)
    results = []
    for given, first in ((camera, 0), (moved, 500)):
        rays = rays_of(given, GRID, 1, rope(first), D)
        scores = torch.einsum("bhfsd,bhgtd->bhfsgt", rays.query(q), rays.key(k))
        out = torch.einsum("bhfsgt,bhgtd->bhfsd", scores, rays.key(v))
        results.append((scores, rays.output(out)))
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(before, after, atol=1e-9, rtol=1e-9)


def test_a_token_gets_its_own_value_back():
    v = heads()
    rays = rays_of(cameras(reach=5.0), GRID, 1, rope(), D)
    torch.testing.assert_close(rays.output(rays.key(v)), v, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close((rays.query(v) * rays.key(v)).sum(-1), (v * v).sum(-1), atol=1e-10, rtol=1e-10)


def test_the_rotary_half_takes_the_highest_frequencies_of_each_axis():
    """Head width 112: 10 + 9 + 9 of 20 + 18 + 18 pairs (spec 4.3)."""
    whole = rope(head_dim=112)
    kept = [*range(10), *range(20, 29), *range(38, 47)]
    assert torch.equal(rays_of(cameras(), GRID, 1, whole, 112).turn, whole[..., kept])


def test_tokens_of_patches_look_through_scaled_lenses():
    """Patches of 2: the same rays as an image of half the side with halved intrinsics."""
    c2w, lens = split_camera_vectors(cameras())
    halved = torch.cat([c2w.flatten(-2), lens / 2], dim=-1)
    coarse, fine = rays_of(cameras(), GRID, 2, rope(), D), rays_of(halved, GRID, 1, rope(), D)
    torch.testing.assert_close(coarse.to_ray, fine.to_ray)


def test_the_clamp_only_shrinks_and_its_epsilon_is_felt_by_scaled_keys():
    k = heads()
    assert torch.equal(clamp_rms(0.5 * k, k), 0.5 * k)
    torch.testing.assert_close(clamp_rms(3 * k, k), k, atol=1e-5, rtol=1e-5)
    scaled = k / k.square().mean(-1, keepdim=True).sqrt() * 5e-6**0.5  # mean square of keys at D=112, S=880
    grown = inflation(clamp_rms(5 * scaled, scaled), scaled)
    assert grown.mean().item() == pytest.approx(1.19, abs=0.01)  # spec 4.3
    assert torch.equal(inflation(0.5 * k, k), torch.ones(B, H, F, 1, dtype=torch.float64))


def test_both_ways_to_multiply_groups_of_four_are_the_matrices():
    x, rays = heads()[..., : D // 2], rays_of(cameras(reach=3.0), GRID, 1, rope(), D)
    expected = torch.einsum("bxfsij,bhfsgj->bhfsgi", rays.to_ray, x.unflatten(-1, (-1, 4))).flatten(-2)
    for multiply in (sum_of_products, batched_products):
        torch.testing.assert_close(multiply(x, rays.to_ray), expected, atol=1e-12, rtol=1e-12)
