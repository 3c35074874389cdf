"""Proprioception as channels of the latent: the image's latent and the robot's own readings are imagined together.

The standardised values fill the cells of extra latent channels row by row; cells that are left over are zero. The
transformer sees, denoises and remembers them like any other channel.
"""

from torch import Tensor
from torch.nn import functional as F


def proprio_channels(proprio_dim: int, grid: tuple[int, int]) -> int:
    """How many channels of (h, w) cells hold ``proprio_dim`` values."""
    return -(-proprio_dim // (grid[0] * grid[1]))


def pack(proprio: Tensor, grid: tuple[int, int]) -> Tensor:
    """(..., P) -> (..., K, h, w)."""
    channels = proprio_channels(proprio.shape[-1], grid)
    cells = channels * grid[0] * grid[1]
    return F.pad(proprio, (0, cells - proprio.shape[-1])).unflatten(-1, (channels, *grid))


def unpack(channels: Tensor, proprio_dim: int) -> Tensor:
    """(..., K, h, w) -> (..., P)."""
    return channels.flatten(-3)[..., :proprio_dim]
