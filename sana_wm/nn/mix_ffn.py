"""Mix-FFN with a temporal convolution (GLUMBConvTemp, spec section 2.4)."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.layout import FrameLayout
from sana_wm.nn.temporal_conv import gather_time, next_tail


class MixFFN(nn.Module):
    """Inverted 1x1 -> SiLU -> depthwise 3x3 per frame -> gated unit -> 1x1 -> plus a dense 3-tap convolution over time.

    1x1 convolutions are linear maps on channels-last tokens. The temporal convolution is zero at the start.
    """

    def __init__(self, width: int, ratio: float = 3.0):
        super().__init__()
        hidden = int(width * ratio)
        self.inverted = nn.Linear(width, 2 * hidden)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.point = nn.Linear(hidden, width, bias=False)
        self.temporal = nn.Parameter(torch.zeros(3, width, width))  # taps: previous, same, next frame; (tap, out, in)

    def initial_state(self, lanes: int, tokens: int, device, dtype) -> dict[str, Tensor]:
        return {"ffn_tail": torch.zeros(lanes, 1, tokens, self.point.out_features, device=device, dtype=dtype)}

    def forward(self, x_BFSC: Tensor, grid: tuple[int, int], state: dict, layout: FrameLayout):
        """-> outputs (B, F, S, C), state after the writers."""
        lanes, frames = x_BFSC.shape[:2]
        u = F.silu(self.inverted(x_BFSC))
        u = rearrange(u, "b f (h w) c -> (b f) c h w", h=grid[0])  # a view: channels-last memory
        u = rearrange(self.depthwise(u), "(b f) c h w -> b f (h w) c", b=lanes, f=frames)
        value, gate = u.chunk(2, dim=-1)
        p = self.point(value * F.silu(gate))
        tail = state["ffn_tail"]
        neighbours = [gather_time(p, tail, layout.neighbour(-1, 1, p.device)), p]
        taps = [self.temporal[0], self.temporal[1]]
        if layout.bidirectional:
            neighbours.append(gather_time(p, tail, layout.neighbour(1, 1, p.device)))
            taps.append(self.temporal[2])
        out = p + F.linear(torch.cat(neighbours, dim=-1), torch.cat(taps, dim=1))
        return out, {"ffn_tail": next_tail(p, tail, layout.num_writers)}
