"""Changes of resolution: a convolution plus a parameter-free shuffle between space and channels (spec section 4.1)."""

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.models.dc_ae_blocks import add

# Positions (of all images of a batch) from which the phases of an interpolation save more than their kernels cost.
PHASES_PAY = 256


def unshuffled_mean(x: Tensor, group: int) -> Tensor:
    """pixel_unshuffle(x, 2) averaged over runs of ``group`` channels: (B, C, H, W) -> (B, 4 C / group, H/2, W/2).

    A channel of the unshuffled image is (channel, row parity, column parity), so that runs of 2, 4 or a multiple of 4
    are means over neighbours, and nothing has to be shuffled for them.
    """
    if group % 4 == 0:
        return reduce(F.avg_pool2d(x, 2), "b (c g) h w -> b c h w", "mean", g=group // 4)
    if group == 2:
        return rearrange(F.avg_pool2d(x, (1, 2)), "b c (h p) w -> b (c p) h w", p=2)
    return F.pixel_unshuffle(x, 2).unflatten(1, (-1, group)).mean(dim=2)


class DownBlock(nn.Module):
    """Half the resolution: a convolution plus (shortcut) pixel-unshuffle averaged over channel groups."""

    def __init__(self, channels: int, out_channels: int, mode: str, shortcut: bool = True):
        super().__init__()
        self.unshuffle, self.shortcut = mode == "pixel_unshuffle", shortcut
        self.group = channels * 4 // out_channels
        self.conv = nn.Conv2d(
            channels, out_channels // 4 if self.unshuffle else out_channels, 3, 1 if self.unshuffle else 2, padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        out = F.pixel_unshuffle(out, 2) if self.unshuffle else out
        return add(out, unshuffled_mean(x, self.group)) if self.shortcut else out


def phase_kernels(weight: Tensor) -> Tensor:
    """Kernels (4 O, I, 2, 2) whose 2x2 windows of an image give what 3x3 windows of it doubled (nearest) give.

    Of the three rows that a window of the doubled image covers, two are the same row: the last two at even positions,
    the first two at odd ones. So are columns. The four parities (row, column) are stacked along the outputs. It takes
    4 / 9 of the multiplications.
    """

    def pairs(x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        first, middle, last = x.unbind(dim=1)
        return (first, middle + last), (first + middle, last)

    kernels = []
    for rows in pairs(weight.permute(0, 2, 3, 1).float()):  # (O, 3, I) each
        upper, lower = map(pairs, rows)
        kernels += [torch.stack([*upper[column], *lower[column]], dim=1) for column in (0, 1)]
    return rearrange(torch.cat(kernels), "o (p q) i -> o i p q", p=2).to(weight.dtype)


def duplicated(x: Tensor, repeats: int, parity: int) -> Tensor:
    """The pixels of one (row, column) parity, 2 row + column, of pixel_shuffle(x.repeat_interleave(repeats, 1), 2)."""
    if 4 % repeats == 0:
        return x[:, parity // repeats :: 4 // repeats]
    return x.repeat_interleave(repeats, dim=1)[:, parity::4]


class UpBlock(nn.Module):
    """Twice the resolution: a convolution plus (shortcut) channel duplication and pixel-shuffle."""

    def __init__(self, channels: int, out_channels: int, mode: str, shortcut: bool = True):
        super().__init__()
        self.interpolate, self.shortcut = mode == "interpolate", shortcut
        self.repeats = out_channels * 4 // channels
        self.conv = nn.Conv2d(channels, out_channels * (1 if self.interpolate else 4), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.interpolate and x[:, 0].numel() >= PHASES_PAY:
            return self._by_phases(x)
        if self.interpolate:
            out = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
            return add(out, F.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1), 2)) if self.shortcut else out
        out = self.conv(x)
        return F.pixel_shuffle(add(out, x.repeat_interleave(self.repeats, dim=1)) if self.shortcut else out, 2)

    def _by_phases(self, x: Tensor) -> Tensor:
        """Nearest x2, then the convolution, by the parities of the output; a border of zeros is the same for both."""
        (batch, _, height, width), channels = x.shape, self.conv.out_channels
        kernels, bias = phase_kernels(self.conv.weight), self.conv.bias.repeat(4)
        phases = F.conv2d(x, kernels, bias, padding=1)  # (B, 4 O, H + 1, W + 1)
        out = phases.new_empty(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
        for parity in range(4):
            row, column = divmod(parity, 2)
            part = phases[:, parity * channels : (parity + 1) * channels, row : row + height, column : column + width]
            if self.shortcut:
                part = part + duplicated(x, self.repeats, parity)
            out[:, :, row::2, column::2] = part
        return out
