"""Relative position by rays (UCPE, SANA-WM spec section 4.3): half of a head lives in the frame of its token's ray.

With P the map from the world into the token's ray frame (:func:`sana_wm.nn.camera.ray_matrices`), queries become
P^T q, keys and values P^-1 k and P^-1 v, and the output P out, on the first half of the channels in groups of four. So
q_i . k_j sees P_i P_j^-1, which no rigid motion of the world changes. The second half gets the 3-D rotary embedding, on
values as well, undone at the output.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from sana_wm.nn.camera import invert_rigid, ray_matrices, scale_intrinsics, split_camera_vectors
from sana_wm.nn.embeddings import apply_rope, rope_axes

STABILISERS = ("rms_clamp+beta", "beta_only")
EPS = 1e-6  # part of what was trained: scaled keys have squares of 5e-6, so that it is felt (spec 4.3)


class Rays(NamedTuple):
    """to_ray and from_ray: (B, 1, F, S, 4, 4), P and its inverse; turn: complex (B, 1, F, S, D/4)."""

    to_ray: Tensor
    from_ray: Tensor
    turn: Tensor

    def query(self, q: Tensor) -> Tensor:
        """q: (B, H, F, S, D)."""
        return _transform(q, self.to_ray.mT, self.turn)

    def key(self, k: Tensor) -> Tensor:
        """Keys and values: (B, H, F, S, D)."""
        return _transform(k, self.from_ray, self.turn)

    def output(self, out: Tensor) -> Tensor:
        """out: (B, H, F, S, D), as read with encoded queries, keys and values, back to the world."""
        return _transform(out, self.to_ray, self.turn.conj())


def rays_of(camera: Tensor, grid: tuple[int, int], patch: int, rope: Tensor, head_dim: int) -> Rays:
    """Rays of the tokens of every frame.

    Args:
        camera: (B, F, 20) pose and intrinsics at the scale of the latent grid (:func:`~.camera.camera_vectors`).
        grid: (h, w) tokens of a frame. patch: latent cells along a token's side.
        rope: of the whole head, complex (B, 1, F, S, D/2): the camera's half takes each axis' highest frequencies.
    """
    c2w, intrinsics = split_camera_vectors(camera)
    cells = (grid[0] * patch, grid[1] * patch)
    to_ray = ray_matrices(c2w, scale_intrinsics(intrinsics, cells, grid), grid)
    to_ray = rearrange(to_ray.to(rope.real.dtype), "b f s i j -> b 1 f s i j")
    whole, half = rope_axes(head_dim), rope_axes(head_dim // 2)
    axes = rope.split([n // 2 for n in whole], dim=-1)
    turn = torch.cat([axis[..., : n // 2] for axis, n in zip(axes, half, strict=True)], dim=-1)
    return Rays(to_ray, invert_rigid(to_ray), turn)


def clamp_rms(transformed: Tensor, original: Tensor) -> Tensor:
    """Shrink ``transformed`` (..., D) where its root mean square exceeds that of ``original``."""
    width = original.shape[-1]
    before, after = ((x.norm(dim=-1, keepdim=True).square() / width + EPS).sqrt() for x in (original, transformed))
    return transformed * (before / after).clamp(max=1.0)


def inflation(transformed: Tensor, original: Tensor) -> Tensor:
    """By how much the squared norm of keys (B, H, F, S, D) grew, mean over a frame's tokens, at least 1: (B, H, F, 1).

    Translations make keys longer; a write strength divided by this keeps the delta rule contractive.
    """
    before, after = (x.norm(dim=-1).clamp_min(EPS) for x in (original, transformed))
    return (after / before).square().mean(dim=-1, keepdim=True).clamp_min(1.0)


def _transform(x: Tensor, matrix: Tensor, turn: Tensor) -> Tensor:
    """First half of the channels by 4x4 matrices, second half rotated."""
    projected, rotated = x.to(matrix.dtype).chunk(2, dim=-1)
    multiply = sum_of_products if x.is_cuda else batched_products
    return torch.cat([multiply(projected, matrix), apply_rope(rotated, turn)], dim=-1)


def sum_of_products(x: Tensor, matrix: Tensor) -> Tensor:
    """Groups of four channels of x (B, H, F, S, D) by matrices (B, 1, F, S, 4, 4): nothing TF32 shortens."""
    columns = x.unflatten(-1, (-1, 4)).unbind(-1)  # four of (B, H, F, S, D/4)
    return sum(column[..., None] * matrix[..., None, :, j] for j, column in enumerate(columns)).flatten(-2)


def batched_products(x: Tensor, matrix: Tensor) -> Tensor:
    """The same as one small matrix product a token, which a CPU does many times faster."""
    lanes, heads, frames, tokens, width = x.shape
    groups = rearrange(x, "b h f s (g j) -> (b f s) (h g) j", j=4)
    out = groups @ matrix.reshape(-1, 4, 4).mT
    return out.view(lanes, frames, tokens, heads, width).permute(0, 3, 1, 2, 4)
