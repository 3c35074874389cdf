"""Bounded memory of softmax attention: the first ``sink`` frames of a stream and the last ``window`` ones.

A frame sees its own chunk, the ``window`` frames before its chunk along its path, and the sink. The memory of a lane
holds [sink | window], oldest first; what a lane has not seen yet is closed. ``window=-1`` is no bound, which a stream
of constant size cannot have: for passes over whole clips.
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from sana_wm.nn.layout import FrameLayout

MASK_ELEMENTS = 2**26  # above this many (query, key) pairs the mask is applied frame by frame


def memory_mask(layout: FrameLayout, window: int, age_B: Tensor, sink: int = 0) -> Tensor:
    """Which frames each frame may attend to: (B, F, sink + window + F) bool over [memory | current frames].

    Args:
        age_B: (B,) frames that every lane has seen before the pass.
    """
    device = age_B.device
    layout = layout.on(device)
    same = torch.eye(len(layout.offset), dtype=torch.bool, device=device)
    start = layout.chunk_start[:, None]  # (F, 1)
    near = layout.offset[None, :] >= start - window if window >= 0 else torch.ones_like(same)
    slot_time = torch.arange(-max(window, 0), 0, device=device)  # offset of each frame of the window
    reach = slot_time[None, :] >= start - window
    filled = slot_time[None, :] >= -age_B[:, None]
    remembered = reach[None] & filled[:, None]
    if not sink:
        current = (layout.before & near) | same | layout.after
        return torch.cat([remembered, current[None].expand(len(age_B), -1, -1)], dim=-1)
    age = age_B[:, None, None]
    first = age + layout.offset < sink  # (B, 1, F) frames of this pass that belong to the sink
    current = (layout.before & (near | first)) | same | layout.after
    slot = torch.arange(sink, device=device)
    closed = torch.zeros((), dtype=torch.bool, device=device) if window < 0 else slot >= age + start - window
    kept = (slot < age) & ~closed  # a frame of the sink that the window still holds is read there
    return torch.cat([kept.expand(len(age_B), len(same), sink), remembered, current], dim=-1)


def remember(frames: Tensor, sink: int, window: int, num_writers: int, age_B: Tensor) -> Tensor:
    """Memory after the writers.

    Args:
        frames: (B, H, sink + window + F, S, D): [memory | current frames, writers first].
    Returns: (B, H, sink + window, S, D).
    """
    window = max(window, 0)
    recent = frames[:, :, sink + num_writers : sink + window + num_writers]
    if not sink:
        return recent
    slot = torch.arange(sink, device=frames.device)
    written = sink + window + slot - age_B[:, None]  # where a slot's frame is among the current ones, if it is
    is_new = (slot >= age_B[:, None]) & (written < sink + window + num_writers)
    index = torch.where(is_new, written, slot)
    return torch.cat([torch.take_along_dim(frames, index[:, None, :, None, None], dim=2), recent], dim=2)


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax attention of frames on frames.

    Args:
        q: (B, H, F, S, D). keys, values: (B, H, K, S, D). mask: (B, F or 1, K) bool over frames; None: all.
    Returns: (B, H, F, S, D).
    """
    frames, tokens = q.shape[2:4]
    flat = "b h f s d -> b h (f s) d"
    keys, values = rearrange(keys, flat), rearrange(values, flat)
    if mask is not None and mask.shape[1] > 1 and frames * tokens * keys.shape[2] > MASK_ELEMENTS:
        rows = mask.repeat_interleave(tokens, dim=-1)[:, None]
        parts = [
            F.scaled_dot_product_attention(q[:, :, f], keys, values, attn_mask=rows[:, :, f : f + 1], scale=scale)
            for f in range(frames)
        ]
        return torch.stack(parts, dim=2)
    if mask is not None:
        rows = tokens if mask.shape[1] > 1 else 1
        mask = mask.repeat_interleave(rows, dim=-2).repeat_interleave(tokens, dim=-1)[:, None]
    out = F.scaled_dot_product_attention(rearrange(q, flat), keys, values, attn_mask=mask, scale=scale)
    return rearrange(out, "b h (f s) d -> b h f s d", s=tokens)
