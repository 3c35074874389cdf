"""Softmax attention over frames with a bounded key/value window (SANA-WM, spec section 5: every fourth block)."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.embeddings import apply_rope
from sana_wm.nn.layout import FrameLayout


def window_mask(layout: FrameLayout, window: int, frame_B: Tensor) -> Tensor:
    """Which frames each frame may attend to: (B, F, window + F) bool over [cached window | current frames].

    A frame sees its own chunk and the ``window`` frames before its chunk, along its path; slots of the cache that lie
    before a lane's first frame (``frame_B`` frames are in its memory) are closed.
    """
    device = frame_B.device
    layout = layout.on(device)
    same = torch.eye(len(layout.offset), dtype=torch.bool, device=device)
    near = layout.offset[None, :] >= layout.chunk_start[:, None] - window
    current = (layout.before & near) | same | layout.after
    slot_time = torch.arange(-window, 0, device=device)  # offset of each cached frame
    reach = slot_time[None, :] >= layout.chunk_start[:, None] - window
    filled = slot_time[None, :] >= -frame_B[:, None]
    cached = reach[None] & filled[:, None]
    return torch.cat([cached, current[None].expand(len(frame_B), -1, -1)], dim=-1)


class SoftmaxAttention(nn.Module):
    """Self-attention with full-width query/key norms, 3-D RoPE and output gate; ``scale`` is explicit (section 5)."""

    def __init__(self, width: int, heads: int, window: int, norm_eps: float = 1e-5, scale: float | None = None):
        super().__init__()
        self.heads, self.head_dim, self.window = heads, width // heads, window
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.RMSNorm(width, eps=norm_eps)
        self.k_norm = nn.RMSNorm(width, eps=norm_eps)
        self.output_gate = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        nn.init.zeros_(self.output_gate.weight)
        nn.init.constant_(self.output_gate.bias, 1.278464542761074)  # SiLU of it is 1

    def initial_state(self, lanes: int, tokens: int, device, dtype) -> dict[str, Tensor]:
        shape = (lanes, self.heads, self.window, tokens, self.head_dim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("keys", "values")}

    def forward(self, x_BFSC: Tensor, rope: tuple[Tensor, Tensor], state: dict, layout: FrameLayout, mask: Tensor):
        """-> outputs (B, F, S, C), state after the writers. ``mask`` from :func:`window_mask`."""
        tokens = x_BFSC.shape[2]
        q, k, v = self.qkv(x_BFSC).chunk(3, dim=-1)
        with torch.autocast(x_BFSC.device.type, enabled=False):
            wide = torch.promote_types(q.dtype, torch.float32)
            split = "b f s (h d) -> b h f s d"
            q = apply_rope(rearrange(self.q_norm(q.to(wide)), split, h=self.heads), *rope)
            k = apply_rope(rearrange(self.k_norm(k.to(wide)), split, h=self.heads), *rope)
        v = rearrange(v, split, h=self.heads)
        q, k = q.to(v.dtype), k.to(v.dtype)
        keys = torch.cat([state["keys"].to(k.dtype), k], dim=2)
        values = torch.cat([state["values"].to(v.dtype), v], dim=2)
        flat = "b h f s d -> b h (f s) d"
        mask = mask.repeat_interleave(tokens, dim=-2).repeat_interleave(tokens, dim=-1)[:, None]
        out = F.scaled_dot_product_attention(
            rearrange(q, flat), rearrange(keys, flat), rearrange(values, flat), attn_mask=mask, scale=self.scale
        )
        out = rearrange(out, "b h (f s) d -> b f s (h d)", s=tokens).to(x_BFSC.dtype)
        out = self.proj(out * F.silu(self.output_gate(x_BFSC)))
        until = self.window + layout.num_writers
        dtype = state["keys"].dtype
        new = {"keys": keys[:, :, :until][:, :, -self.window :], "values": values[:, :, :until][:, :, -self.window :]}
        return out, {name: tensor.to(dtype) for name, tensor in new.items()}
