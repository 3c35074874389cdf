"""Embeddings of time, actions and positions."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn


def sinusoidal_embedding(timestep: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of a timestep in network units (0..1000), cosines first (DDPM convention with shift 0).

    Args:
        timestep: (...,) float. Returns: (..., width) float32.
    """
    half = width // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
    angle = timestep.float()[..., None] * freqs
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """timestep (..., ) -> (..., C): sinusoids 256 -> Linear -> SiLU -> Linear."""

    def __init__(self, width: int, num_frequencies: int = 256):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.linear_1 = nn.Linear(num_frequencies, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, timestep: Tensor) -> Tensor:
        wave = sinusoidal_embedding(timestep, self.num_frequencies).to(self.linear_1.weight.dtype)
        return self.linear_2(nn.functional.silu(self.linear_1(wave)))


class ActionEmbedding(nn.Module):
    """Normalised actions (B, F, A) -> (B, F, C), with Fourier features so that small moves are told apart."""

    def __init__(self, action_dim: int, width: int, num_octaves: int = 4):
        super().__init__()
        self.register_buffer("octaves", math.pi * 2.0 ** torch.arange(num_octaves), persistent=False)
        self.linear_1 = nn.Linear(action_dim * (1 + 2 * num_octaves), width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, actions: Tensor) -> Tensor:
        angle = rearrange(actions[..., None] * self.octaves, "b f a o -> b f (a o)")
        features = torch.cat([actions, angle.sin(), angle.cos()], dim=-1)
        return self.linear_2(nn.functional.silu(self.linear_1(features)))


def sincos_positions(grid: tuple[int, int], width: int, span: float, device=None) -> Tensor:
    """2-D sinusoids of the tokens of an image (spec section 2.1), float64 (S, width): columns first, then rows.

    Args:
        grid: height and width in tokens. span: both axes run from 0 to it, exclusive, whatever the grid; that is the
            side in tokens that was trained on, divided by the interpolation scale.
    """
    quarter = width // 4
    freqs = 1e4 ** (-torch.arange(quarter, dtype=torch.float64, device=device) / quarter)

    def axis(count: int) -> Tensor:
        angle = torch.arange(count, dtype=torch.float64, device=device)[:, None] * (span / count) * freqs
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    columns = axis(grid[1])[None].expand(grid[0], -1, -1)
    rows = axis(grid[0])[:, None].expand(-1, grid[1], -1)
    return rearrange(torch.cat([columns, rows], dim=-1), "h w c -> (h w) c")


def rope_axes(head_dim: int) -> tuple[int, int, int]:
    """Split of a head over (time, height, width): h and w get 2 (D // 6) channels each, time the rest."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def rope_angles(position_BF: Tensor, height: int, width: int, head_dim: int, theta: float = 1e4) -> Tensor:
    """Angles of the 3-D rotary embedding, computed from absolute positions in float64: there is no table to run out of.

    Args:
        position_BF: (B, F) int64 frame index of every lane's frames.
    Returns: (B, F, S, head_dim // 2) float64.
    """
    device = position_BF.device
    dims = rope_axes(head_dim)

    def axis(position: Tensor, dim: int) -> Tensor:
        freqs = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
        return position.double()[..., None] * freqs

    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    lanes, frames = position_BF.shape
    time = axis(position_BF, dims[0])[:, :, None, None].expand(lanes, frames, height, width, -1)
    row = axis(rows, dims[1])[None, None, :, None].expand(lanes, frames, height, width, -1)
    column = axis(columns, dims[2])[None, None, None].expand(lanes, frames, height, width, -1)
    return rearrange(torch.cat([time, row, column], dim=-1), "b f h w d -> b f (h w) d")


def apply_rope(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate adjacent channel pairs.

    Args:
        x: (..., D). turn: (..., D/2) complex of the same precision, cos + i sin. Never a buffer of a module: casting
            that to bfloat16 would drop the imaginary part (spec section 5).
    """
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)
