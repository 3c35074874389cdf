"""Convolution over time that follows a :class:`FrameLayout` and keeps the stream's tail."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from sana_wm.nn.layout import FrameLayout

CONV_ELEMENTS = 2**30  # the library's convolutions count elements in 32 bits
FEW_RUNS = 4  # neighbours that this many slices of frames hold are read where they are; others are gathered


def gather_time(x_BFSC: Tensor, tail_BKSC: Tensor, index: Tensor) -> Tensor:
    """Pick frames by an index into [tail | frames | one zero frame], as :class:`FrameLayout` numbers them."""
    pool = torch.cat([tail_BKSC.to(x_BFSC.dtype), x_BFSC, torch.zeros_like(x_BFSC[:, :1])], dim=1)
    return pool[:, index]


def next_tail(x_BFSC: Tensor, tail_BKSC: Tensor, num_writers: int) -> Tensor:
    """The last K frames of the memory after ``num_writers`` frames have been written."""
    size = tail_BKSC.shape[1]
    written = x_BFSC[:, max(num_writers - size, 0) : num_writers].to(tail_BKSC.dtype)
    return torch.cat([tail_BKSC[:, written.shape[1] :], written], dim=1)


def symmetric_short_conv(x_BFSC: Tensor, weight_CK: Tensor, tail_BKSC: Tensor | None, layout: FrameLayout) -> Tensor:
    """Depthwise short convolution over time, both directions sharing the taps (SANA-WM, spec section 3, step 2).

    ``y_t = w_last x_t + sum_d w_(last-d) (x_(t-d) + x_(t+d))``: the past along the frame's path and the tail, the
    future inside the frame's chunk only.

    Args:
        x_BFSC: inputs. weight_CK: (C, K) taps, the last one is the present.
        tail_BKSC: (B, K-1, S, C) inputs before them; None: there were none.
    """
    taps = weight_CK.shape[1]
    if x_BFSC.shape[1] == 1 and taps > 1 and tail_BKSC is not None:  # the stream's case: the path is the tail
        past = tail_BKSC.to(x_BFSC.dtype).unbind(1)
        return x_BFSC * weight_CK[:, -1] + sum(x * weight_CK[:, i] for i, x in enumerate(past))[:, None]
    if tail_BKSC is None and layout.one_chunk and taps > 1 and x_BFSC.numel() <= CONV_ELEMENTS:
        return _whole(x_BFSC, weight_CK)
    out = x_BFSC * weight_CK[:, -1]
    for d in range(1, taps):
        for distance in (-d, d) if layout.bidirectional else (-d,):
            out = add_neighbours(out, x_BFSC, tail_BKSC, distance, taps - 1, layout, weight_CK[:, -1 - d])
    return out


def _whole(x_BFSC: Tensor, weight_CK: Tensor) -> Tensor:
    """Frames that all see each other and nothing else: the library's convolution, channels last in memory."""
    taps = weight_CK.shape[1]
    kernel = torch.cat([weight_CK, weight_CK[:, :-1].flip(1)], dim=1)[:, None, :, None]  # (C, 1, 2 K - 1, 1)
    x = rearrange(x_BFSC, "b f s c -> b c f s")
    return rearrange(F.conv2d(x, kernel, padding=(taps - 1, 0), groups=len(kernel)), "b c f s -> b f s c")


def add_neighbours(out, x_BFSC, tail_BKSC, distance: int, tail: int, layout: FrameLayout, weight_C: Tensor) -> Tensor:
    """``out`` plus ``weight_C`` times the frame ``distance`` steps away, in place where few slices tell which."""
    runs = layout.runs(distance, tail)
    if len(runs) > FEW_RUNS:
        tail_BKSC = torch.zeros_like(x_BFSC[:, :1]).expand(-1, tail, -1, -1) if tail_BKSC is None else tail_BKSC
        return out + gather_time(x_BFSC, tail_BKSC, layout.neighbour(distance, tail, x_BFSC.device)) * weight_C
    for start, stop, source in runs:
        pool, first = (tail_BKSC, source) if source < tail else (x_BFSC, source - tail)
        if pool is not None:
            out[:, start:stop].addcmul_(pool[:, first : first + stop - start].to(out.dtype), weight_C)
    return out
