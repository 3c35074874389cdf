"""Normalisation in another precision than the weights have."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 2**16  # elements from which a CPU gains by passing over them fewer times than the library does


def rms_norm(norm: nn.RMSNorm, x: Tensor, dtype: torch.dtype) -> Tensor:
    """``norm(x)`` over all channels of x (..., C), computed and returned in ``dtype``."""
    x, weight = x.to(dtype), norm.weight.to(dtype)
    if x.is_cuda or x.numel() < LARGE:
        return F.rms_norm(x, norm.normalized_shape, weight, norm.eps)
    return x * (x.norm(dim=-1, keepdim=True).square() / x.shape[-1] + norm.eps).rsqrt() * weight
