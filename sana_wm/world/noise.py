"""Counter-based noise: a pure function of (lane seed, frame, denoising step), whoever shares the batch.

Each number is the Box-Muller transform of two 32-bit words from a SplitMix64-style mixing of its counter, computed in
int64 arithmetic and float64, so that it does not depend on the device, the batch, or how a batch was split.
"""

import math

import torch
from torch import Tensor


def _mix(x: Tensor) -> Tensor:
    """Finaliser of SplitMix64 (Steele et al. 2014) in wrapping int64 arithmetic with logical shifts."""

    def shift(value: Tensor, bits: int) -> Tensor:
        return (value >> bits) & ((1 << (64 - bits)) - 1)

    x = (x ^ shift(x, 30)) * -4658895280553007687
    x = (x ^ shift(x, 27)) * -7723592293110705685
    return x ^ shift(x, 31)


def lane_noise(seeds: Tensor, frame: Tensor, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise.

    Args:
        seeds: (B,) int64. frame: (B,) int64 index of the frame that is made. draw: which denoising step asks.
        shape: of one lane's noise.
    Returns: (B, *shape) float32.
    """
    golden = -7046029254386353131  # 2^64 / golden ratio
    call = torch.tensor(draw + 1, device=seeds.device)  # a tensor: its product with golden wraps around
    key = _mix(_mix(_mix(seeds) + golden * (frame + 1)) + golden * call)
    counter = torch.arange(math.prod(shape), device=seeds.device, dtype=torch.int64)
    bits = _mix(key[:, None] + golden * (counter + 1))
    first = ((bits >> 32) & 0xFFFFFFFF).double()
    second = (bits & 0xFFFFFFFF).double()
    uniform = (first + 1) / 4294967297.0  # in (0, 1): the logarithm is finite
    normal = torch.sqrt(-2 * torch.log(uniform)) * torch.cos(2 * math.pi * second / 4294967296.0)
    return normal.float().reshape(len(seeds), *shape)
