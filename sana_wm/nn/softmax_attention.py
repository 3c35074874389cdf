"""Softmax attention over frames with a bounded memory (SANA-WM, spec section 5: every fourth block)."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.camera_branch import CameraBranch
from sana_wm.nn.context import FrameContext
from sana_wm.nn.embeddings import apply_rope
from sana_wm.nn.kv_window import attend, remember
from sana_wm.nn.norm import rms_norm


class SoftmaxAttention(nn.Module):
    """Self-attention with full-width query/key norms, 3-D RoPE and output gate (spec 5), and its camera branch (4.3).

    Args:
        window, sink: frames that are remembered, see :mod:`sana_wm.nn.kv_window`.
        scale, camera_scale: of the logits; None: head width ** -0.5.
        camera: how the camera branch is stabilised (:mod:`sana_wm.nn.ucpe`); None: there is none.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        norm_eps: float = 1e-5,
        scale: float | None = None,
        sink: int = 0,
        camera: str | None = None,
        camera_scale: float | None = None,
    ):
        super().__init__()
        self.heads, self.head_dim, self.window, self.sink = heads, width // heads, window, sink
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.camera_scale = self.head_dim**-0.5 if camera_scale is None else camera_scale
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.RMSNorm(width, eps=norm_eps)
        self.k_norm = nn.RMSNorm(width, eps=norm_eps)
        self.output_gate = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.camera = CameraBranch(width, heads, 0, norm_eps, camera) if camera else None
        nn.init.zeros_(self.output_gate.weight)
        nn.init.constant_(self.output_gate.bias, 1.278464542761074)  # SiLU of it is 1
        if self.camera is not None:
            self.camera.start_as(self.qkv.weight)

    def initial_state(self, lanes: int, tokens: int, device, dtype) -> dict[str, Tensor]:
        shape = (lanes, self.heads, self.sink + max(self.window, 0), tokens, self.head_dim)
        names = ("keys", "values") if self.camera is None else ("keys", "values", "camera_keys", "camera_values")
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in names}

    def forward(self, x_BFSC: Tensor, state: dict, context: FrameContext):
        """-> outputs (B, F, S, C), state after the writers."""
        q, k, v = self.qkv(x_BFSC).chunk(3, dim=-1)
        with torch.autocast(x_BFSC.device.type, enabled=False):
            wide = torch.promote_types(q.dtype, torch.float32)
            split = "b f s (h d) -> b h f s d"
            q = apply_rope(rearrange(rms_norm(self.q_norm, q, wide), split, h=self.heads), context.rope)
            k = apply_rope(rearrange(rms_norm(self.k_norm, k, wide), split, h=self.heads), context.rope)
        v = rearrange(v, split, h=self.heads)
        q, k = q.to(v.dtype), k.to(v.dtype)
        out, keys, values = self._read(q, k, v, state["keys"], state["values"], context.mask, self.scale, context)
        new = {"keys": keys, "values": values}
        out = rearrange(out, "b h f s d -> b f s (h d)").to(wide)
        if context.rays is not None:
            q, k, v = self.camera.encode(*self.camera.project(x_BFSC, None, context), context)
            q, k, v = (part.to(x_BFSC.dtype) for part in (q, k, v))
            remembered = state["camera_keys"], state["camera_values"]
            seen, keys, values = self._read(q, k, v, *remembered, context.camera_mask, self.camera_scale, context)
            new |= {"camera_keys": keys, "camera_values": values}
            out = out + self.camera.decode(seen, context).to(out.dtype)
        elif self.camera is not None:
            new |= {name: state[name] for name in ("camera_keys", "camera_values")}
        out = out * F.silu(self.output_gate(x_BFSC).to(wide))
        return self.proj(out.to(x_BFSC.dtype)), new

    def _read(self, q, k, v, old_keys, old_values, mask, scale, context: FrameContext):
        """-> outputs (B, H, F, S, D), keys and values to remember."""
        if mask is None or mask.shape[-1] == k.shape[2]:
            return attend(q, k, v, mask, scale), old_keys, old_values
        keys = torch.cat([old_keys.to(k.dtype), k], dim=2)
        values = torch.cat([old_values.to(v.dtype), v], dim=2)
        out = attend(q, keys, values, mask, scale)
        if not context.layout.num_writers:
            return out, old_keys, old_values
        args = (self.sink, self.window, context.layout.num_writers, context.age)
        return out, *(remember(old, *args).to(old_keys.dtype) for old in (keys, values))
