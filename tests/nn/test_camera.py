"""Cameras against diffusers' helpers, and against what rays are."""

import pytest
import torch
from einops import rearrange

from sana_wm.nn.camera import (
    camera_conditions,
    camera_vectors,
    invert_rigid,
    plucker_map,
    plucker_pack,
    ray_matrices,
    relative_poses,
    scale_intrinsics,
    split_camera_vectors,
    world_rays,
)

GRID = (5, 7)


@pytest.fixture(scope="module")
def pipeline():
    return pytest.importorskip("diffusers.pipelines.sana_wm.cam_utils")


@pytest.fixture(scope="module")
def transformer():
    return pytest.importorskip("diffusers.models.transformers.transformer_sana_wm")


def poses(*shape, seed=0, reach=2.0):
    g = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=g, dtype=torch.float64))
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w = torch.eye(4, dtype=torch.float64).repeat(*shape, 1, 1)
    c2w[..., :3, :3] = rotation
    c2w[..., :3, 3] = reach * torch.randn(*shape, 3, generator=g, dtype=torch.float64)
    return c2w


def lenses(*shape, size=GRID, seed=1):
    """(fx, fy, cx, cy) with the principal point off the centre, another one in every frame."""
    g = torch.Generator().manual_seed(seed)
    height, width = size
    spread = torch.rand(*shape, 4, generator=g, dtype=torch.float64)
    return torch.tensor([width, height, width, height]) * (torch.tensor([0.6, 0.6, 0.3, 0.3]) + 0.5 * spread)


# against the reference


@pytest.mark.parametrize(
    ("size", "stride", "frames"),
    [
        ((70, 90), (8, 10, 10), 25),
        ((64, 128), (8, 32, 32), 9),
        ((75, 131), (4, 32, 32), 13),
        ((33, 64), (8, 32, 32), 1),
    ],
)
def test_conditions_equal_the_pipeline(pipeline, size, stride, frames):
    c2w, intrinsics = poses(frames, seed=frames).float(), lenses(frames, size=size).float()
    expected = pipeline.prepare_camera(c2w.numpy(), intrinsics.numpy(), target_size=size, vae_stride=stride)
    grid = (size[0] // stride[1], size[1] // stride[2])
    camera, plucker = camera_conditions(c2w, intrinsics, size, grid, stride[0])
    torch.testing.assert_close(camera, expected["raymap"], atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(plucker, expected["chunk_plucker"], atol=5e-6, rtol=1e-6)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_plucker_map_equals_the_reference_in_float64(pipeline, lead):
    c2w, intrinsics = poses(*lead, 4), lenses(*lead, 4)
    ours = plucker_map(c2w, intrinsics, GRID)
    assert ours.shape == (*lead, 4, *GRID, 6)
    expected = pipeline.compute_raymap(intrinsics.reshape(-1, 4), c2w.reshape(-1, 4, 4), *GRID)
    torch.testing.assert_close(ours.reshape(expected.shape), expected, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
@pytest.mark.parametrize("lanes", [1, 3])
def test_ray_matrices_equal_the_transformer(transformer, dtype, atol, lanes):
    c2w, intrinsics = poses(lanes, 4).to(dtype), lenses(lanes, 4).to(dtype)
    camera = torch.cat([c2w.flatten(-2), intrinsics], dim=-1)
    p, p_transposed, p_inverse, _ = transformer._prepare_ucpe_ray_transforms(
        16, camera, HW=(4, *GRID), patch_size=(1, 1, 1)
    )
    ours = ray_matrices(*split_camera_vectors(camera), GRID)
    assert ours.shape == (lanes, 4, GRID[0] * GRID[1], 4, 4) and ours.dtype == dtype
    torch.testing.assert_close(rearrange(ours, "b t s i j -> b (t s) i j"), p, atol=atol, rtol=0)
    torch.testing.assert_close(rearrange(ours.mT, "b t s i j -> b (t s) i j"), p_transposed, atol=atol, rtol=0)
    torch.testing.assert_close(rearrange(invert_rigid(ours), "b t s i j -> b (t s) i j"), p_inverse, atol=atol, rtol=0)


def test_a_camera_that_is_not_a_number_gets_the_identity_as_in_the_transformer(transformer):
    c2w, intrinsics = poses(1, 2), lenses(1, 2)
    intrinsics[0, 1, 0] = torch.nan
    camera = torch.cat([c2w.flatten(-2), intrinsics], dim=-1)
    expected, _ = transformer._process_camera_conditions_ucpe(camera, 1, (2, *GRID), (1, 1, 1))
    ours = ray_matrices(c2w, intrinsics, GRID)
    torch.testing.assert_close(ours, expected.flatten(2, 3), atol=1e-12, rtol=0)
    assert (ours[0, 1] == torch.eye(4)).all() and not (ours[0, 0] == torch.eye(4)).all(-1).all(-1).any()


# properties


def test_rays_go_through_the_pixels_they_come_from():
    c2w, intrinsics = poses(2, 3), lenses(2, 3)
    rays = world_rays(c2w, intrinsics, GRID)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(2, 3, *GRID, dtype=torch.float64))
    x, y, z = torch.einsum("btji,bthwj->ibthw", c2w[..., :3, :3], rays)
    assert (z > 0).all()  # in front of the camera
    fx, fy, cx, cy = intrinsics[..., None, None, :].unbind(-1)
    v, u = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in GRID), indexing="ij")
    torch.testing.assert_close(fx * x / z + cx, u.expand_as(x))
    torch.testing.assert_close(fy * y / z + cy, v.expand_as(y))


def test_the_ray_s_frame_has_the_camera_at_its_origin_and_the_ray_along_z():
    c2w, intrinsics = poses(2, 3), lenses(2, 3)
    rotation, translation = ray_matrices(c2w, intrinsics, GRID).split([3, 1], dim=-1)
    rotation, translation = rotation[..., :3, :], translation[..., :3, 0]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand_as(rotation))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones_like(translation[..., 0]))
    origin = torch.einsum("btsij,btj->btsi", rotation, c2w[..., :3, 3]) + translation
    assert origin.abs().max() < 1e-12
    rays = world_rays(c2w, intrinsics, GRID).flatten(2, 3)
    along = torch.einsum("btsij,btsj->btsi", rotation, rays)
    torch.testing.assert_close(along, torch.tensor([0.0, 0, 1], dtype=torch.float64).expand_as(along))
    down = torch.einsum("btsij,btj->btsi", rotation, c2w[..., :3, 1])
    assert down[..., 0].abs().max() < 1e-12 and (down[..., 1] > 0).all()  # x is horizontal for the camera, y is down


def test_a_rigid_motion_of_the_world_changes_no_relative_geometry():
    c2w, intrinsics, moved = poses(4), lenses(4), poses(1, seed=9, reach=50.0)
    p, q = ray_matrices(c2w, intrinsics, GRID), ray_matrices(moved @ c2w, intrinsics, GRID)
    torch.testing.assert_close(q, p @ invert_rigid(moved))
    assert (p - q).abs().max() > 1  # the matrices themselves do move
    relative = torch.einsum("tsij,urjk->tsurik", p, invert_rigid(p))
    torch.testing.assert_close(torch.einsum("tsij,urjk->tsurik", q, invert_rigid(q)), relative, atol=1e-11, rtol=0)
    torch.testing.assert_close(relative_poses(moved @ c2w), relative_poses(c2w), atol=1e-12, rtol=0)


def test_relative_poses_start_exactly_at_the_identity_and_keep_the_motion_between_frames():
    c2w = poses(2, 5)
    relative = relative_poses(c2w)
    assert (relative[:, 0] == torch.eye(4)).all()
    torch.testing.assert_close(c2w[:, :1] @ relative, c2w)
    torch.testing.assert_close(relative_poses(relative), relative, atol=1e-15, rtol=0)
    assert relative_poses(c2w[0]).shape == (5, 4, 4)


def test_inverse_of_rigid_maps():
    c2w = poses(2, 5)
    torch.testing.assert_close(invert_rigid(c2w), torch.linalg.inv(c2w))
    torch.testing.assert_close(invert_rigid(invert_rigid(c2w)), c2w)


def test_plucker_coordinates_are_those_of_the_line_wherever_it_is_touched():
    c2w, intrinsics = poses(3), lenses(3)
    direction, moment = plucker_map(c2w, intrinsics, GRID).split(3, dim=-1)
    assert (direction * moment).sum(-1).abs().max() < 1e-13
    further = c2w[:, None, None, :3, 3] + 3.7 * direction
    torch.testing.assert_close(torch.linalg.cross(further, direction), moment)
    at_origin = c2w.clone()
    at_origin[:, :3, 3] = 0
    assert (plucker_map(at_origin, intrinsics, GRID)[..., 3:] == 0).all()


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_the_pack_stacks_the_raw_frames_of_each_latent_frame(lead, stride):
    frames = 2 * stride + 1
    c2w, intrinsics = poses(*lead, frames), lenses(*lead, frames)
    pack, rays = plucker_pack(c2w, intrinsics, GRID, stride), plucker_map(c2w, intrinsics, GRID)
    assert pack.shape == (*lead, 6 * stride, 3, *GRID)
    for j in range(stride):
        for latent, raw in ((0, j), (1, 1 + j), (2, stride + 1 + j)):
            mine = pack[..., 6 * j : 6 * j + 6, latent, :, :]
            assert torch.equal(mine, rearrange(rays[..., raw, :, :, :], "... h w c -> ... c h w"))


def test_only_latent_frame_0_looks_ahead_and_it_need_not():
    c2w, intrinsics = poses(25), lenses(25)
    changed = c2w.clone()
    changed[1:] = poses(24, seed=5)
    ahead = [plucker_pack(path, intrinsics, GRID)[:, 0] for path in (c2w, changed)]
    causal = [plucker_pack(path, intrinsics, GRID, look_ahead=False) for path in (c2w, changed)]
    assert not torch.equal(*ahead) and torch.equal(causal[0][:, 0], causal[1][:, 0])
    frame_0 = rearrange(plucker_map(c2w, intrinsics, GRID)[0], "h w c -> c h w").repeat(8, 1, 1)
    assert torch.equal(causal[0][:, 0], frame_0)
    assert torch.equal(causal[0][:, 1:], plucker_pack(c2w, intrinsics, GRID)[:, 1:])


def test_chunks_of_a_stream_make_the_pack_of_the_whole():
    c2w, intrinsics = poses(25), lenses(25)
    whole = plucker_pack(c2w, intrinsics, GRID)
    later = plucker_pack(c2w[8:], intrinsics[8:], GRID)[:, 1:]
    assert torch.equal(whole[:, 2:], later)


def test_vectors_hold_the_pose_and_the_lens_of_every_eighth_frame():
    c2w, intrinsics = poses(2, 17), lenses(2, 17)
    vectors = camera_vectors(c2w, intrinsics)
    assert vectors.shape == (2, 3, 20)
    back = split_camera_vectors(vectors)
    assert torch.equal(back[0], c2w[:, ::8]) and torch.equal(back[1], intrinsics[:, ::8])
    assert torch.equal(vectors[0, 1, 3], c2w[0, 8, 0, 3])  # row-major


def test_a_camera_that_stands_still_gives_the_identity():
    c2w, intrinsics = poses(1).expand(9, 4, 4), lenses(1, size=(64, 96)).expand(9, 4)
    camera, plucker = camera_conditions(c2w, intrinsics, (64, 96), (2, 3))
    torch.testing.assert_close(camera[:, :16], torch.eye(4, dtype=torch.float64).flatten().expand(2, 16))
    torch.testing.assert_close(plucker, plucker[:6, :1].repeat(8, 2, 1, 1))
    assert plucker.unflatten(0, (8, 6))[:, 3:].abs().max() < 1e-14


def test_scaled_intrinsics_see_the_same_rays():
    c2w, size = poses(1), (64, 96)
    intrinsics = lenses(1, size=size)
    small = scale_intrinsics(intrinsics, size, (2, 3))
    fine, coarse = world_rays(c2w, intrinsics, size), world_rays(c2w, small, (2, 3))
    torch.testing.assert_close(coarse, fine[:, ::32, ::32])
    torch.testing.assert_close(scale_intrinsics(small, (2, 3), size), intrinsics)


# precision


def test_geometry_stays_in_float32_under_autocast_and_with_half_inputs():
    c2w, intrinsics = poses(2, 9).float(), lenses(2, 9).float()
    functions = [
        lambda c, k: camera_conditions(c, k, (10, 14), GRID)[0],
        lambda c, k: camera_conditions(c, k, (10, 14), GRID)[1],
        lambda c, k: ray_matrices(c, k, GRID),
        lambda c, k: invert_rigid(ray_matrices(c, k, GRID)),
    ]
    for function in functions:
        plain = function(c2w, intrinsics)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under_autocast = function(c2w, intrinsics)
        assert under_autocast.dtype == torch.float32 and torch.equal(under_autocast, plain)
        from_half = function(c2w.bfloat16(), intrinsics.bfloat16())
        assert from_half.dtype == torch.float32
        assert torch.equal(from_half, function(c2w.bfloat16().float(), intrinsics.bfloat16().float()))
        assert function(c2w.double(), intrinsics).dtype == torch.float64


def test_float32_differs_from_float64_by_rounding_only():
    c2w, intrinsics = poses(2, 9), lenses(2, 9)
    exact, rounded = ray_matrices(c2w, intrinsics, GRID), ray_matrices(c2w.float(), intrinsics.float(), GRID)
    torch.testing.assert_close(rounded.double(), exact, atol=5e-6, rtol=0)


# errors


@pytest.mark.parametrize("function", [world_rays, ray_matrices, plucker_map, plucker_pack])
@pytest.mark.parametrize(
    ("c2w", "intrinsics"),
    [
        (torch.zeros(9, 3, 4), torch.ones(9, 4)),
        (torch.zeros(9, 4, 4), torch.ones(8, 4)),
        (torch.zeros(9, 4, 4), torch.ones(4)),
        (torch.zeros(9, 4, 4), torch.ones(9, 3, 3)),
        (torch.zeros(1, 9, 4, 4), torch.ones(9, 4)),
    ],
)
def test_shapes_that_do_not_belong_together(function, c2w, intrinsics):
    with pytest.raises(ValueError) as error:
        function(c2w, intrinsics, GRID)
    assert str(tuple(c2w.shape)) in str(error.value) and str(tuple(intrinsics.shape)) in str(error.value)


@pytest.mark.parametrize("function", [lambda c, k: camera_vectors(c, k), lambda c, k: plucker_pack(c, k, GRID)])
def test_frames_that_fill_no_whole_latent_frame(function):
    with pytest.raises(ValueError, match=r"got 12 camera frames, expected 8 k \+ 1 .* drop 3 or add 5"):
        function(poses(12), lenses(12))


def test_other_shapes():
    with pytest.raises(ValueError, match=r"got camera vectors of shape \(2, 16\), expected \(\.\.\., 20\)"):
        split_camera_vectors(torch.zeros(2, 16))
    with pytest.raises(ValueError, match=r"got matrices of shape \(2, 3, 3\)"):
        invert_rigid(torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"got poses of shape \(4, 4\)"):
        relative_poses(torch.eye(4))
