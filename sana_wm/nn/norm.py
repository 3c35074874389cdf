"""Normalisation in another precision than the weights have."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 2**16  # elements from which a CPU gains by passing over them fewer times than the library does
# Elements that are wide at once without gradients: what a core's cache holds, and on a GPU enough to keep it busy.
CACHED, KEEPS_BUSY = 2**16, 2**24


def wide_at_once(x: Tensor) -> int:
    """Elements of x that are best wide at a time."""
    return CACHED if x.device.type == "cpu" else KEEPS_BUSY


def rms_norm(norm: nn.RMSNorm, x: Tensor, dtype: torch.dtype) -> Tensor:
    """``norm(x)`` over all channels of x (..., C), computed and returned in ``dtype``."""
    x, weight = x.to(dtype), norm.weight.to(dtype)
    if x.is_cuda or x.numel() < LARGE:
        return F.rms_norm(x, norm.normalized_shape, weight, norm.eps)
    return x * _scale(norm, x) * weight


def rms_scale(norm: nn.RMSNorm, x: Tensor, dtype: torch.dtype) -> Tensor:
    """What ``norm`` multiplies x (..., C) by before its weights: (..., 1) in ``dtype``, without gradients."""
    return _by_parts(lambda part: _scale(norm, part.to(dtype)), x, x.new_empty(*x.shape[:-1], 1, dtype=dtype))


def wide_norm(norm: nn.RMSNorm | None, x: Tensor) -> Tensor:
    """``norm(x)`` in float32 at least, in the dtype of ``x``; without a norm ``x``."""
    if norm is None:
        return x
    with torch.autocast(x.device.type, enabled=False):
        wide = torch.promote_types(x.dtype, torch.float32)
        if torch.is_grad_enabled() or x.numel() <= wide_at_once(x):
            return rms_norm(norm, x, wide).to(x.dtype)
        return _by_parts(lambda part: rms_norm(norm, part, wide), x, torch.empty_like(x))


def _scale(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    return (x.norm(dim=-1, keepdim=True).square() / x.shape[-1] + norm.eps).rsqrt()


def _by_parts(function: Callable[[Tensor], Tensor], x: Tensor, out: Tensor) -> Tensor:
    """A function of the rows of x (..., C), which is wide a part at a time, into ``out`` (..., any)."""
    rows, made = x.flatten(0, -2), out.flatten(0, -2)
    size = max(1, wide_at_once(x) // max(x.shape[-1], 1))
    for part, into in zip(rows.split(size), made.split(size), strict=True):
        into.copy_(function(part))
    return out
