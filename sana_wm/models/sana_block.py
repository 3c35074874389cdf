"""One block of the SANA family: mixer -> added conditions -> text -> Mix-FFN under AdaLN-single (SANA-WM, spec 2.2)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.models.sana_config import SanaConfig
from sana_wm.nn.context import FrameContext
from sana_wm.nn.gated_delta import GatedDeltaAttention
from sana_wm.nn.linear_attention import LinearAttention
from sana_wm.nn.mix_ffn import MixFFN
from sana_wm.nn.softmax_attention import SoftmaxAttention
from sana_wm.nn.text_attention import TextAttention


class Conditions(NamedTuple):
    """What blocks are told, embedded.

    Attributes:
        modulation: (B, F, 6, C) of the time. action: (B, F, C).
        rays: (B, F, S, P) Plücker coordinates of the tokens. rays_embedder: (P) -> (C).
        text: keys and values of the block, each (B, H, L, D) or (B, K, H, L, D). text_mask: (B, L) or (B, K, L) bool.
        text_parts: (first frame, one past the last, row of the K); None: there are no rows.
    """

    modulation: Tensor
    action: Tensor | None = None
    rays: Tensor | None = None
    rays_embedder: nn.Linear | None = None
    text: tuple[Tensor, Tensor] | None = None
    text_mask: Tensor | None = None
    text_parts: tuple[tuple[int, int, int], ...] | None = None


def zero_linear(width: int) -> nn.Linear:
    """A projection that adds nothing until it is trained."""
    linear = nn.Linear(width, width)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def linear_of_linear(x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """``second(first(x))``; where x (..., P) has more rows than columns, by the product of the two weights."""
    if x.numel() <= x.shape[-1] ** 2:
        return second(first(x))
    return F.linear(x, second.weight @ first.weight, second(first.bias))


class UnusedGates(nn.Module):
    """Tensors that published files carry and no computation reads; kept, so that a file comes out as it went in."""

    def __init__(self, width: int, heads: int, softmax: bool):
        super().__init__()
        self.register_buffer("recall_gate", torch.zeros(1))
        if softmax:
            self.beta_proj, self.gate_proj = nn.Linear(width, heads), nn.Linear(width, heads)
            self.A_log, self.dt_bias = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.zeros(heads))
        self.requires_grad_(False)


class SanaBlock(nn.Module):
    """Block ``index`` of a transformer."""

    def __init__(self, config: SanaConfig, index: int):
        super().__init__()
        c = config
        stabilise = c.ucpe_stabilise if c.camera else None
        if c.is_softmax(index):
            self.attn = SoftmaxAttention(
                c.width, c.heads, c.window, c.norm_eps, c.softmax_scale, c.sink, stabilise, c.camera_scale
            )
        elif c.mixer == "relu":
            self.attn = LinearAttention(c.width, c.heads, c.qk_norm, c.positions == "rope", c.norm_eps, c.linear_eps)
        else:
            self.attn = GatedDeltaAttention(
                c.width, c.heads, c.conv_kernel, c.norm_eps, c.gdn_eps, c.decay_bias, c.gate_bias, stabilise
            )
        self.ffn_sees_padding = c.frame_mask == "dilute"
        self.norm = nn.LayerNorm(c.width, elementwise_affine=False, eps=1e-6)
        self.scale_shift_table = nn.Parameter(torch.randn(6, c.width) / c.width**0.5)
        self.action_proj = zero_linear(c.width) if c.action_dim else None
        self.plucker_proj = zero_linear(c.width) if c.takes_plucker(index) else None
        self.text_attn = None
        if c.text_dim:
            self.text_attn = TextAttention(c.width, c.text_heads or c.heads, c.text_norm_eps, c.qk_norm)
        self.ffn = MixFFN(c.width, c.mlp_ratio, c.temporal_conv)
        self.unused = UnusedGates(c.width, c.heads, c.is_softmax(index)) if c.unused_parameters else None

    def initial_state(self, lanes: int, tokens: int, device, dtype) -> dict[str, Tensor]:
        args = (lanes, tokens, device, dtype)
        return self.attn.initial_state(*args) | self.ffn.initial_state(*args)

    def forward(self, x: Tensor, told: Conditions, grid: tuple[int, int], state: dict, context: FrameContext):
        """x: (B, F, S, C) -> the same, state after the writers."""
        table = self.scale_shift_table.to(told.modulation.dtype)
        shift1, scale1, gate1, shift2, scale2, gate2 = (table + told.modulation)[:, :, :, None].unbind(2)  # B F 1 C
        blank = context.blank
        mixed, attn_state = self.attn(blank(self._modulated(x, shift1, scale1)), state, context)
        x = torch.addcmul(x, gate1, mixed)
        del mixed  # what no one reads any more would add to the memory of the parts that follow
        if self.action_proj is not None:
            x = x + self.action_proj(told.action)[:, :, None]
        if self.plucker_proj is not None and told.rays is not None:
            x = x + linear_of_linear(told.rays, told.rays_embedder, self.plucker_proj)
        if self.text_attn is not None:
            x = x + self.text_attn(x, told.text, told.text_mask, told.text_parts)
        x = blank(x)
        valid = None if self.ffn_sees_padding else context.valid
        x_ffn = blank(self._modulated(x, shift2, scale2))
        mixed, ffn_state = self.ffn(x_ffn, grid, state, context.layout, valid, context.fresh)
        return blank(torch.addcmul(x, gate2, mixed)), attn_state | ffn_state

    def _modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift, self.norm(x), 1 + scale)
