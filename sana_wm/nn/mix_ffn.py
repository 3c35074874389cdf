"""Mix-FFN: of images (GLUMBConv) and, with a convolution over time, of video (GLUMBConvTemp, spec section 2.4)."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.layout import FrameLayout
from sana_wm.nn.temporal_conv import CONV_ELEMENTS, gather_time, next_tail

SMALL_GRID = 4  # cells of a frame up to which the depthwise convolution is written out
AT_ONCE = 2**26  # hidden elements that are there at once without gradients, or those of one frame: more are no faster


def depthwise_3x3(x_NHWC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise 3x3 convolution, zero padding, as a sum of shifted products over the taps that meet the grid.

    On grids of a few cells this is many times faster than the library's convolution and its backward pass on a CPU.

    Args:
        x_NHWC: (N, h, w, C). weight: (C, 1, 3, 3). bias: (C,).
    """
    height, width = x_NHWC.shape[1:3]
    out = x_NHWC * weight[:, 0, 1, 1] + bias
    for dy in range(-min(1, height - 1), min(1, height - 1) + 1):
        for dx in range(-min(1, width - 1), min(1, width - 1) + 1):
            if dy or dx:
                shifted = x_NHWC[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
                tap = shifted * weight[:, 0, 1 + dy, 1 + dx]
                out = out + F.pad(tap, (0, 0, max(-dx, 0), max(dx, 0), max(-dy, 0), max(dy, 0)))
    return out


class MixFFN(nn.Module):
    """Inverted 1x1 -> SiLU -> depthwise 3x3 per frame -> gated unit -> 1x1 -> plus a dense 3-tap convolution over time.

    1x1 convolutions are linear maps on channels-last tokens. The temporal convolution is zero at the start; without
    ``temporal`` there is none, frames stay apart and nothing is remembered of them.
    """

    def __init__(self, width: int, ratio: float = 3.0, temporal: bool = True):
        super().__init__()
        hidden = int(width * ratio)
        self.inverted = nn.Linear(width, 2 * hidden)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.point = nn.Linear(hidden, width, bias=False)
        # taps: previous, same, next frame; (tap, out, in)
        self.temporal = nn.Parameter(torch.zeros(3, width, width)) if temporal else None

    def initial_state(self, lanes: int, tokens: int, device, dtype) -> dict[str, Tensor]:
        if self.temporal is None:
            return {}
        return {"ffn_tail": torch.zeros(lanes, 1, tokens, self.point.out_features, device=device, dtype=dtype)}

    def forward(
        self,
        x_BFSC: Tensor,
        grid: tuple[int, int],
        state: dict,
        layout: FrameLayout,
        valid: Tensor | None = None,
        fresh: bool = False,
    ):
        """-> outputs (B, F, S, C), state after the writers.

        Args:
            valid: (B, F) bool, frames that neighbours may see; None: all. fresh: there is no frame in the state.
        """
        frames = x_BFSC.shape[1]
        p = self._per_frame(x_BFSC, grid)
        if self.temporal is None:
            return p, {}
        if valid is not None:
            p = p.masked_fill(~valid[:, :, None, None], 0.0)
        tail = state["ffn_tail"]
        new = {"ffn_tail": next_tail(p, tail, layout.num_writers)}
        if fresh and layout.one_chunk:  # neighbours are where they are: no copies, and nothing multiplies zeros
            out = F.linear(p, self.temporal[1]).add_(p)
            if frames > 1:
                lanes, parts = max(1, AT_ONCE // p[0].numel()), [(out, p)]
                if len(p) > lanes and not torch.is_grad_enabled():  # slices of several lanes are copied
                    parts = zip(out.split(lanes), p.split(lanes), strict=True)
                for into, of in parts:
                    into[:, 1:] += F.linear(of[:, :-1], self.temporal[0])
                    into[:, :-1] += F.linear(of[:, 1:], self.temporal[2])
            return out, new
        previous = tail.to(p.dtype) if frames == 1 else gather_time(p, tail, layout.neighbour(-1, 1, p.device))
        neighbours = [previous, p]
        taps = [self.temporal[0], self.temporal[1]]
        if layout.bidirectional:
            neighbours.append(gather_time(p, tail, layout.neighbour(1, 1, p.device)))
            taps.append(self.temporal[2])
        out = p + F.linear(torch.cat(neighbours, dim=-1), torch.cat(taps, dim=1))
        return out, new

    def _per_frame(self, x_BFSC: Tensor, grid: tuple[int, int]) -> Tensor:
        """Everything but the temporal convolution: frames on their own."""
        lanes, frames, tokens = x_BFSC.shape[:3]
        elements = CONV_ELEMENTS if torch.is_grad_enabled() else min(AT_ONCE, CONV_ELEMENTS)
        most = max(1, elements // (self.inverted.out_features * tokens))
        if lanes * frames > most:
            rows = x_BFSC.reshape(1, lanes * frames, tokens, -1).split(most, dim=1)
            return torch.cat([self._per_frame(part, grid) for part in rows], dim=1).view(lanes, frames, tokens, -1)
        u = F.silu(self.inverted(x_BFSC), inplace=True)
        if grid[0] * grid[1] <= SMALL_GRID:
            u = rearrange(u, "b f (h w) c -> (b f) h w c", h=grid[0])
            u = depthwise_3x3(u, self.depthwise.weight.to(u.dtype), self.depthwise.bias.to(u.dtype))
            u = rearrange(u, "(b f) h w c -> b f (h w) c", b=lanes)
        else:
            # Channels-last memory as torch knows it by the strides, that of a single frame included: einops leaves one
            # there by which the library takes another, slower layout.
            u = u.view(lanes * frames, *grid, -1).permute(0, 3, 1, 2)
            u = self.depthwise(u).permute(0, 2, 3, 1).reshape(lanes, frames, tokens, -1)
        value, gate = u.chunk(2, dim=-1)
        return self.point(F.silu(gate).mul_(value))
