"""Camera branch of self-attention: its own queries, keys and values, met in ray space (SANA-WM, spec section 4.3).

It reads the same input as the main branch, shares write strength, decay, output gate and output projection with it, and
is added to it before the gate. It starts as a copy of the main branch with its output at zero, so that a base model
does not change when the branch is added.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.context import FrameContext
from sana_wm.nn.norm import rms_norm
from sana_wm.nn.temporal_conv import symmetric_short_conv
from sana_wm.nn.ucpe import clamp_rms


class CameraBranch(nn.Module):
    """Projections and norms of the branch; ``conv_kernel=0``: softmax blocks, which have no convolution."""

    def __init__(self, width: int, heads: int, conv_kernel: int, norm_eps: float, stabilise: str):
        super().__init__()
        self.heads, self.clamp = heads, stabilise == "rms_clamp+beta"
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.q_norm = nn.RMSNorm(width, eps=norm_eps)
        self.k_norm = nn.RMSNorm(width, eps=norm_eps)
        self.conv_k = nn.Parameter(torch.zeros(width, conv_kernel)) if conv_kernel else None

    @torch.no_grad()
    def start_as(self, qkv: Tensor) -> None:
        """Copy the main branch's projections (3 C, C); the output at zero."""
        for projection, weight in zip((self.q_proj, self.k_proj, self.v_proj), qkv.chunk(3), strict=True):
            projection.weight.copy_(weight)
            projection.bias.zero_()
        self.out_proj.weight.zero_()
        self.out_proj.bias.zero_()
        if self.conv_k is not None:
            self.conv_k[:, -1] = 1.0

    def project(self, x: Tensor, tail: Tensor | None, context: FrameContext) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (B, H, F, S, D) before UCPE, float32 at least.

        Args:
            x: (B, F, S, C). tail: (B, K-1, S, C) inputs of the frames before, zeros where there were none.
        """
        q, k, v = self.q_proj(x), context.blank(self.k_proj(x)), self.v_proj(x)
        if self.conv_k is not None:
            past = None if context.fresh else self._past_keys(tail.to(x.dtype), context.age)
            k = symmetric_short_conv(k, self.conv_k.to(k.dtype), past, context.layout)
        wide = context.rope.real.dtype
        with torch.autocast(x.device.type, enabled=False):
            q, k = rms_norm(self.q_norm, q, wide), rms_norm(self.k_norm, k, wide)
        if self.conv_k is not None:
            q, k = F.relu(q), F.relu(k)
        return tuple(rearrange(part.to(wide), "b f s (h d) -> b h f s d", h=self.heads) for part in (q, k, v))

    def _past_keys(self, tail: Tensor, age_B: Tensor) -> Tensor:
        """Keys of the frames before, zeros where there were none: the projection's bias is not."""
        slots = torch.arange(tail.shape[1], 0, -1, device=tail.device)  # how long ago
        known = slots <= age_B[:, None]
        return self.k_proj(tail).masked_fill(~known[:, :, None, None], 0.0)

    def encode(self, q: Tensor, k: Tensor, v: Tensor, context: FrameContext) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values into ray space. ``k`` is already scaled: the clamp's epsilon is felt by small keys."""
        rays = context.rays
        encoded = rays.query(q), rays.key(k), rays.key(v)
        if self.clamp:
            encoded = tuple(clamp_rms(*pair) for pair in zip(encoded, (q, k, v), strict=True))
        return encoded

    def decode(self, out: Tensor, context: FrameContext) -> Tensor:
        """Reads (B, H, F, S, D) in ray space -> what is added to the main branch (B, F, S, C)."""
        out = rearrange(context.rays.output(out), "b h f s d -> b f s (h d)")
        return self.out_proj(out.to(self.out_proj.weight.dtype))
