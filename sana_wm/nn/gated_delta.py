"""Mixer of the linear blocks: frame-wise Gated DeltaNet (SANA-WM, spec section 3) with its camera branch (4.3)."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.camera_branch import CameraBranch
from sana_wm.nn.context import FrameContext
from sana_wm.nn.delta_rule import delta_rule, gated_delta
from sana_wm.nn.embeddings import apply_rope
from sana_wm.nn.norm import rms_norm
from sana_wm.nn.temporal_conv import next_tail, symmetric_short_conv
from sana_wm.nn.ucpe import inflation


class GatedDeltaAttention(nn.Module):
    """Parameter names and initialisation follow SANA-WM (spec 2.6, 2.7).

    With ``camera`` the stream remembers the inputs of the last frames once, from which both branches compute the keys
    that their convolutions need; without, it remembers the keys.

    Args:
        conv_kernel: taps of the keys' convolution over time; 0: there is none.
        gate_bias: the decay's projection has a bias.
        camera: how the camera branch is stabilised (:mod:`sana_wm.nn.ucpe`); None: there is none.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        conv_kernel: int = 4,
        norm_eps: float = 1e-5,
        eps: float = 1e-8,
        decay_bias: float = -5.0,
        gate_bias: bool = False,
        camera: str | None = None,
    ):
        super().__init__()
        self.heads, self.head_dim, self.eps = heads, width // heads, eps
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.conv_k = nn.Parameter(torch.zeros(width, conv_kernel)) if conv_kernel else None
        self.q_norm = nn.RMSNorm(width, eps=norm_eps)
        self.k_norm = nn.RMSNorm(width, eps=norm_eps)
        self.beta_proj = nn.Linear(width, heads)
        self.gate_proj = nn.Linear(width, heads, bias=gate_bias)
        self.A_log = nn.Parameter(torch.zeros(heads))
        self.dt_bias = nn.Parameter(torch.full((heads,), decay_bias))
        self.output_gate = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.camera = CameraBranch(width, heads, conv_kernel, norm_eps, camera) if camera else None
        if conv_kernel:
            with torch.no_grad():
                self.conv_k[:, -1] = 1.0
        nn.init.zeros_(self.beta_proj.weight)
        nn.init.constant_(self.beta_proj.bias, 5.0)
        nn.init.zeros_(self.gate_proj.weight)
        if gate_bias:
            nn.init.zeros_(self.gate_proj.bias)
        nn.init.zeros_(self.output_gate.weight)
        nn.init.constant_(self.output_gate.bias, 1.278464542761074)  # SiLU of it is 1
        if self.camera is not None:
            self.camera.start_as(self.qkv.weight)

    def initial_state(self, lanes: int, tokens: int, device, dtype) -> dict[str, Tensor]:
        """Zero state; the recurrences are float32 at least, the tail has the activations' dtype."""
        wide = torch.promote_types(dtype, torch.float32)
        dim = self.head_dim
        memory = torch.zeros(lanes, self.heads, dim, dim, device=device, dtype=wide)
        normaliser = torch.zeros(lanes, self.heads, 1, dim, device=device, dtype=wide)
        state = {"memory": memory, "normaliser": normaliser}
        if self.conv_k is None:
            return state
        width, taps = self.conv_k.shape
        tail = torch.zeros(lanes, taps - 1, tokens, width, device=device, dtype=dtype)
        if self.camera is None:
            return state | {"key_tail": tail}
        return state | {"camera_memory": torch.zeros_like(memory), "input_tail": tail}

    def forward(self, x_BFSC: Tensor, state: dict, context: FrameContext):
        """-> outputs (B, F, S, C), state after the writers."""
        tokens, layout = x_BFSC.shape[2], context.layout
        q, k, v = self.qkv(x_BFSC).chunk(3, dim=-1)
        tail = {}
        if self.conv_k is not None:
            k, tail = self._convolved(k, x_BFSC, state, context)
        with torch.autocast(x_BFSC.device.type, enabled=False):  # geometry and recurrence: float32 at least
            wide = state["memory"].dtype
            split = "b f s (h d) -> b h f s d"
            q = rearrange(F.relu(rms_norm(self.q_norm, q, wide)), split, h=self.heads)
            k = rearrange(F.relu(rms_norm(self.k_norm, k, wide)), split, h=self.heads)
            v = rearrange(v.to(wide), split, h=self.heads)
            scale = (self.head_dim * tokens) ** -0.5
            k = k * scale
            q_rot, k_rot = apply_rope(q, context.rope), apply_rope(k, context.rope)
            x = x_BFSC.to(self.beta_proj.weight.dtype)
            beta = rearrange(self.beta_proj(x).sigmoid().to(wide), "b f s h -> b h f s")
            step = F.softplus(self.gate_proj(x.mean(dim=2)).to(wide) + self.dt_bias.to(wide))
            log_decay = rearrange(-self.A_log.to(wide).exp() * step, "b f h -> b h f")
            if context.valid is not None:  # padding writes nothing and the memory passes through it
                beta = beta.masked_fill(~context.valid[:, None, :, None], 0.0)
                log_decay = log_decay.masked_fill(~context.valid[:, None, :], 0.0)
            memory = (state["memory"], state["normaliser"])
            out, memory = gated_delta(q, k, q_rot, k_rot, v, beta, log_decay, memory, layout, self.eps)
        new = {"memory": memory[0], "normaliser": memory[1]}
        out = rearrange(out, "b h f s d -> b f s (h d)")
        if context.rays is not None:
            seen, new["camera_memory"] = self._camera(x_BFSC, beta, log_decay, scale, state, context)
            out = out + seen.to(out.dtype)
        elif self.camera is not None:
            new["camera_memory"] = state["camera_memory"]
        out = out * F.silu(self.output_gate(x_BFSC).to(wide))
        return self.proj(out.to(x_BFSC.dtype)), new | tail

    def _convolved(self, k, x_BFSC, state, context: FrameContext) -> tuple[Tensor, dict[str, Tensor]]:
        """-> keys after the convolution over time, what the stream remembers for it."""
        before, num_writers = None, context.layout.num_writers
        if self.camera is None:
            before = None if context.fresh else state["key_tail"]
            tail = {"key_tail": next_tail(k, state["key_tail"], num_writers)}
        else:
            if not context.fresh:
                before = F.linear(state["input_tail"].to(x_BFSC.dtype), self.qkv.weight.chunk(3)[1])
            tail = {"input_tail": next_tail(x_BFSC, state["input_tail"], num_writers)}
        return symmetric_short_conv(k, self.conv_k.to(k.dtype), before, context.layout), tail

    def _camera(self, x, beta, log_decay, scale, state, context: FrameContext) -> tuple[Tensor, Tensor]:
        """-> what the camera branch adds (B, F, S, C), its memory after the writers."""
        q, k, v = self.camera.project(x, state["input_tail"], context)
        with torch.autocast(x.device.type, enabled=False):
            plain = k * scale
            q, k, v = self.camera.encode(q, plain, v, context)
            beta = beta / inflation(k, plain)
            read, memory = delta_rule(q, k, v, beta, log_decay, state["camera_memory"], context.layout)
            return self.camera.decode(read, context), memory
