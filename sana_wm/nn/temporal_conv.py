"""Convolution over time that follows a :class:`FrameLayout` and keeps the stream's tail."""

import torch
from torch import Tensor

from sana_wm.nn.layout import FrameLayout


def gather_time(x_BFSC: Tensor, tail_BKSC: Tensor, index: Tensor) -> Tensor:
    """Pick frames by an index into [tail | frames | one zero frame], as :class:`FrameLayout` numbers them."""
    pool = torch.cat([tail_BKSC.to(x_BFSC.dtype), x_BFSC, torch.zeros_like(x_BFSC[:, :1])], dim=1)
    return pool[:, index]


def next_tail(x_BFSC: Tensor, tail_BKSC: Tensor, num_writers: int) -> Tensor:
    """The last K frames of the memory after ``num_writers`` frames have been written."""
    size = tail_BKSC.shape[1]
    return torch.cat([tail_BKSC, x_BFSC[:, :num_writers].to(tail_BKSC.dtype)], dim=1)[:, -size:]


def symmetric_short_conv(x_BFSC: Tensor, weight_CK: Tensor, tail_BKSC: Tensor, layout: FrameLayout) -> Tensor:
    """Depthwise short convolution over time, both directions sharing the taps (SANA-WM, spec section 3, step 2).

    ``y_t = w_last x_t + sum_d w_(last-d) (x_(t-d) + x_(t+d))``: the past along the frame's path and the tail, the
    future inside the frame's chunk only.

    Args:
        x_BFSC: inputs. weight_CK: (C, K) taps, the last one is the present. tail_BKSC: (B, K-1, S, C).
    """
    taps, tail = weight_CK.shape[1], tail_BKSC.shape[1]
    if x_BFSC.shape[1] == 1 and tail:  # the stream's case: the path is the tail
        past = tail_BKSC.to(x_BFSC.dtype).unbind(1)
        return x_BFSC * weight_CK[:, -1] + sum(x * weight_CK[:, i] for i, x in enumerate(past))[:, None]
    out = x_BFSC * weight_CK[:, -1]
    for d in range(1, taps):
        neighbour = gather_time(x_BFSC, tail_BKSC, layout.neighbour(-d, tail, x_BFSC.device))
        if layout.bidirectional:
            neighbour = neighbour + gather_time(x_BFSC, tail_BKSC, layout.neighbour(d, tail, x_BFSC.device))
        out = out + neighbour * weight_CK[:, -1 - d]
    return out
