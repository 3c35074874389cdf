"""Camera geometry: what the transformer is told about where every token looks from (spec sections 4.1, 4.2, 4.4).

Axes are OpenCV's: x right, y down, z forward. Poses are camera-to-world (c2w), rigid, in model units (metres for
metric data). Intrinsics are (fx, fy, cx, cy); pixels and grid cells are counted from 0 and a ray passes through the
whole number, without half a pixel added. F counts raw frames, T latent frames, (h, w) is the grid of latent cells.

Everything is computed in float32 or, if any input is, in float64: bfloat16 would round angles to 0.1 degree. Products
are sums of elementwise ones, which neither autocast nor TF32 shortens.
"""

from functools import reduce

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import normalize


def camera_conditions(
    c2w: Tensor, intrinsics: Tensor, image_size: tuple[int, int], grid: tuple[int, int], stride: int = 8
) -> tuple[Tensor, Tensor]:
    """Both conditions of SANA-WM, from a camera path as a user has it.

    Args:
        c2w: (..., F, 4, 4) in any world frame, F = stride k + 1. intrinsics: (..., F, 4) in pixels of the image.
        image_size: (height, width) of the image in pixels. grid: (h, w) of its latent.
        stride: raw frames that one latent frame takes.
    Returns: camera vectors (..., T, 20), Plücker pack (..., 6 stride, T, h, w).
    """
    c2w = relative_poses(c2w)
    intrinsics = scale_intrinsics(intrinsics, image_size, grid)
    return camera_vectors(c2w, intrinsics, stride), plucker_pack(c2w, intrinsics, grid, stride)


def relative_poses(c2w: Tensor) -> Tensor:
    """Re-express poses (..., F, 4, 4) in the frame of the first camera, whose pose becomes the identity."""
    (c2w,) = _exact(c2w)
    if c2w.ndim < 3 or c2w.shape[-2:] != (4, 4):
        raise ValueError(f"got poses of shape {tuple(c2w.shape)}, expected camera-to-world (..., F, 4, 4)")
    rotation, position = c2w[..., :3, :3], c2w[..., :3, 3]
    first = rotation[..., :1, :, :]
    turned = (first[..., :, :, None] * rotation[..., :, None, :]).sum(-3)  # R0^T R
    moved = (first * (position - position[..., :1, :])[..., None]).sum(-2)  # R0^T (o - o0)
    identity = torch.eye(4, dtype=c2w.dtype, device=c2w.device).expand_as(c2w[..., :1, :, :])
    return torch.cat([identity, _rigid(turned, moved)[..., 1:, :, :]], dim=-3)  # the first one without rounding


def scale_intrinsics(intrinsics: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Intrinsics (..., 4) of an image of ``size`` (height, width) -> of the same view sampled at ``new_size``."""
    (intrinsics,) = _exact(intrinsics)
    y, x = new_size[0] / size[0], new_size[1] / size[1]
    return intrinsics * intrinsics.new_tensor([x, y, x, y])


def camera_vectors(c2w: Tensor, intrinsics: Tensor, stride: int = 8) -> Tensor:
    """One vector per latent frame: the row-major pose (16) and the intrinsics (4) of the last raw frame it takes.

    Args:
        c2w: (..., F, 4, 4) relative to the first frame. intrinsics: (..., F, 4) at the scale of the latent grid.
    Returns: (..., T, 20), of raw frames 0, stride, 2 stride, ...
    """
    c2w, intrinsics = _check(c2w, intrinsics)
    _latent_frames(c2w.shape[-3], stride)
    return torch.cat([rearrange(c2w, "... i j -> ... (i j)"), intrinsics], dim=-1)[..., ::stride, :]


def split_camera_vectors(camera: Tensor) -> tuple[Tensor, Tensor]:
    """Camera vectors (..., 20) -> poses (..., 4, 4), intrinsics (..., 4)."""
    if camera.shape[-1] != 20:
        raise ValueError(f"got camera vectors of shape {tuple(camera.shape)}, expected (..., 20)")
    return camera[..., :16].unflatten(-1, (4, 4)), camera[..., 16:]


def world_rays(c2w: Tensor, intrinsics: Tensor, grid: tuple[int, int]) -> Tensor:
    """Unit direction in the world, per cell: R ((u - cx) / fx, (v - cy) / fy, 1), normalised.

    Args:
        c2w: (..., F, 4, 4). intrinsics: (..., F, 4) at the scale of the grid.
    Returns: (..., F, h, w, 3).
    """
    c2w, intrinsics = _check(c2w, intrinsics)
    fx, fy, cx, cy = intrinsics[..., None, None, :].unbind(-1)
    x = (torch.arange(grid[1], device=c2w.device) - cx) / fx
    y = (torch.arange(grid[0], device=c2w.device)[:, None] - cy) / fy
    right, down, forward = c2w[..., None, None, :3, :3].unbind(-1)  # the camera's axes in the world
    return normalize(x[..., None] * right + y[..., None] * down + forward, dim=-1)


def ray_matrices(c2w: Tensor, intrinsics: Tensor, grid: tuple[int, int]) -> Tensor:
    """UCPE: the rigid map from the world into the frame of each token's ray (spec section 4.2).

    The ray's frame has its origin at the camera, z along the ray, and x perpendicular to both the ray and the camera's
    y axis. Moving the world by a rigid G turns every P into P G^-1, so that P_i P_j^-1 does not change. A ray that is
    not a number gets the identity.

    Args:
        c2w: (..., T, 4, 4). intrinsics: (..., T, 4) at the scale of the grid.
    Returns: P (..., T, S, 4, 4); ``invert_rigid(P)`` is its inverse.
    """
    c2w, intrinsics = _check(c2w, intrinsics)
    z = world_rays(c2w, intrinsics, grid)
    down, origin = c2w[..., None, None, :3, 1], c2w[..., None, None, None, :3, 3]
    x = normalize(torch.linalg.cross(down.expand_as(z), z), dim=-1)
    y = torch.linalg.cross(z, x)
    rotation = torch.stack([x, y, z], dim=-2)
    matrices = _rigid(rotation, -(rotation * origin).sum(-1))
    unknown = z.isnan().any(-1)[..., None, None]
    identity = torch.eye(4, dtype=z.dtype, device=z.device)
    return rearrange(torch.where(unknown, identity, matrices), "... t h w i j -> ... t (h w) i j")


def invert_rigid(matrix: Tensor) -> Tensor:
    """Inverse of rigid maps (..., 4, 4): rotation R^T, translation -R^T t."""
    if matrix.shape[-2:] != (4, 4):
        raise ValueError(f"got matrices of shape {tuple(matrix.shape)}, expected (..., 4, 4)")
    (matrix,) = _exact(matrix)
    rotation, translation = matrix[..., :3, :3], matrix[..., :3, 3:]
    return _rigid(rotation.mT, -(rotation * translation).sum(-2))


def plucker_map(c2w: Tensor, intrinsics: Tensor, grid: tuple[int, int]) -> Tensor:
    """Plücker coordinates (d, o x d) of every cell's ray: unit direction and moment about the world's origin.

    Args:
        c2w: (..., F, 4, 4). intrinsics: (..., F, 4) at the scale of the grid.
    Returns: (..., F, h, w, 6).
    """
    c2w, intrinsics = _check(c2w, intrinsics)
    direction = world_rays(c2w, intrinsics, grid)
    origin = c2w[..., None, None, :3, 3].expand_as(direction)
    return torch.cat([direction, torch.linalg.cross(origin, direction)], dim=-1)


def plucker_pack(
    c2w: Tensor, intrinsics: Tensor, grid: tuple[int, int], stride: int = 8, look_ahead: bool = True
) -> Tensor:
    """Plücker maps of the raw frames that each latent frame takes, stacked frame-major in channels (spec 4.1).

    Latent frame i > 0 takes raw frames stride (i - 1) + 1 ... stride i. Latent frame 0 takes, as the published models
    were trained, raw frames 0 ... stride - 1: poses that an online controller does not know yet. It can pass
    ``look_ahead=False``, and latent frame 0 takes ``stride`` times frame 0. For a later chunk of a stream, pass the raw
    frame before the chunk and those of the chunk, and leave out latent frame 0 of the result.

    Args:
        c2w: (..., F, 4, 4) relative to the first frame, F = stride k + 1. intrinsics: (..., F, 4) at the scale of
            the grid.
    Returns: (..., 6 stride, T, h, w); channel 6 j + c is coordinate c of the j-th raw frame.
    """
    latent_frames = _latent_frames(c2w.shape[-3], stride)
    rays = plucker_map(c2w, intrinsics, grid)
    last = stride * torch.arange(latent_frames, device=rays.device)
    raw = last[:, None] + torch.arange(1 - stride, 1, device=rays.device)  # (T, stride)
    if look_ahead:
        raw[0] += stride - 1
    raw = raw.clamp(0, c2w.shape[-3] - 1)
    return rearrange(rays[..., raw, :, :, :], "... t j h w c -> ... (j c) t h w")


def _exact(*tensors: Tensor) -> list[Tensor]:
    """The tensors in their common type, which is at least float32."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(dtype) for tensor in tensors]


def _check(c2w: Tensor, intrinsics: Tensor) -> list[Tensor]:
    """Refuse shapes that do not belong together; both tensors in their common type."""
    if c2w.ndim < 3 or c2w.shape[-2:] != (4, 4) or intrinsics.shape != (*c2w.shape[:-2], 4):
        raise ValueError(
            f"got poses {tuple(c2w.shape)} and intrinsics {tuple(intrinsics.shape)}, expected (..., F, 4, 4) and "
            "(..., F, 4): one pose and one (fx, fy, cx, cy) per frame"
        )
    return _exact(c2w, intrinsics)


def _latent_frames(raw_frames: int, stride: int) -> int:
    extra = (raw_frames - 1) % stride
    if raw_frames < 1 or extra:
        raise ValueError(
            f"got {raw_frames} camera frames, expected {stride} k + 1 (1, {stride + 1}, {2 * stride + 1}, ...): "
            f"drop {extra} or add {stride - extra}"
        )
    return (raw_frames - 1) // stride + 1


def _rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """(..., 3, 3) and (..., 3) -> (..., 4, 4)."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand_as(top[..., :1, :])
    return torch.cat([top, bottom], dim=-2)
