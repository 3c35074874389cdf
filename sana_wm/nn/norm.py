"""Normalisation in another precision than the weights have."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rms_norm(norm: nn.RMSNorm, x: Tensor, dtype: torch.dtype) -> Tensor:
    """``norm(x)`` over all channels of x (..., C), computed and returned in ``dtype``."""
    return F.rms_norm(x.to(dtype), norm.normalized_shape, norm.weight.to(dtype), norm.eps)
