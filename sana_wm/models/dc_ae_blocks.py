"""What the stages of a DC-AE are made of (sana_family spec section 4.1).

Tensors are (B, C, H, W) with channels last in memory, so that norms, linear maps over channels and depthwise
convolutions read them in order. Where no gradient is recorded, intermediate results are overwritten, and normed in
parts that a cache holds: at high resolution fetching memory costs more than the arithmetic.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.norm import wide_at_once

ACTIVATIONS = {"silu": F.silu, "relu": F.relu}


def activate(name: str, x: Tensor) -> Tensor:
    """An activation of a tensor that nobody else reads."""
    return ACTIVATIONS[name](x, inplace=not torch.is_grad_enabled())


def add(x: Tensor, other: Tensor) -> Tensor:
    """x + other, into x (that nobody else reads) where no gradient is recorded."""
    return x + other if torch.is_grad_enabled() else x.add_(other)


class ChannelRMSNorm(nn.Module):
    """RMSNorm with bias over the channels of (B, C, H, W); the mean is taken in float32."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.pow(2).mean(dim=1, keepdim=True) + self.eps)
        return ((wide * scale) * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def overwrite(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """The same, and ``plus`` added, into x without gradients: some rows of the image at a time, in float32."""
        rows = max(1, wide_at_once(x) // max(x[:, :, :1].numel(), 1))
        gain, shift = self.weight[:, None, None], self.bias[:, None, None]
        for start in range(0, x.shape[2], rows):
            part = x[:, :, start : start + rows]
            wide = part.to(torch.promote_types(x.dtype, torch.float32))
            scale = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
            scale.square_().div_(x.shape[1]).add_(self.eps).rsqrt_()
            wide.mul_(scale).mul_(gain).add_(shift)
            if plus is not None:
                wide.add_(plus[:, :, start : start + rows])
            if wide is not part:
                part.copy_(wide)
        return x


def make_norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else ChannelRMSNorm(channels)


def normed(norm: nn.Module, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """norm(x), and ``plus`` added, for an x that nobody else reads."""
    if isinstance(norm, ChannelRMSNorm) and not torch.is_grad_enabled():
        return norm.overwrite(x, plus)
    return norm(x) if plus is None else add(norm(x), plus)


def pointwise(conv: nn.Conv2d, x_BHWC: Tensor) -> Tensor:
    """A 1x1 convolution as the linear map that it is."""
    return F.linear(x_BHWC, conv.weight.flatten(1), conv.bias)


class ResBlock(nn.Module):
    """conv 3x3 -> activation -> conv 3x3 -> norm, plus the input."""

    def __init__(self, channels: int, norm: str = "rms", activation: str = "silu"):
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = activate(self.activation, self.conv1(x))
        if isinstance(self.norm, nn.BatchNorm2d) and not (self.training or torch.is_grad_enabled()):
            return self._folded(hidden).add_(x)
        return normed(self.norm, self.conv2(hidden), x)

    def _folded(self, hidden: Tensor) -> Tensor:
        """conv2 and a batch norm at rest as one convolution."""
        norm = self.norm
        gain = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
        shift = norm.bias.float() - norm.running_mean.float() * gain
        weight = self.conv2.weight * gain[:, None, None, None]
        return F.conv2d(hidden, weight.to(hidden.dtype), shift.to(hidden.dtype), padding=1)


class MultiscaleProjection(nn.Module):
    """Depthwise k x k, then 1x1 within each head's q, k and v: local context for the linear attention."""

    def __init__(self, channels: int, heads: int, kernel: int):
        super().__init__()
        self.proj_in = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.proj_out = nn.Conv2d(channels, channels, 1, groups=3 * heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3 C, H, W) -> the same shape, its runs of a head's width kept apart as (runs, B N, D)."""
        x = rearrange(self.proj_in(x), "b (g d) h w -> g (b h w) d", g=self.proj_out.groups)
        weight = rearrange(self.proj_out.weight, "(g o) i 1 1 -> g i o", g=self.proj_out.groups)
        return x @ weight


def relu_attention(q: Tensor, k: Tensor, v: Tensor, quadratic: bool, eps: float) -> Tensor:
    """softmax-free attention with the kernel relu(q) . relu(k), in float32.

    Args:
        q, k, v: (B, H, N, D). quadratic: form the N x N scores, else the D x D state; both give the same.
    """
    q, k, v = F.relu(q).float(), F.relu(k).float(), v.float()
    if quadratic:
        scores = q @ k.transpose(-1, -2)
        return (scores / (scores.sum(dim=-1, keepdim=True) + eps)) @ v
    state = torch.cat([k.transpose(-1, -2) @ v, k.sum(dim=-2, keepdim=True).transpose(-1, -2)], dim=-1)
    out = q @ state
    return out[..., :-1] / (out[..., -1:] + eps)


class MultiscaleLinearAttention(nn.Module):
    """ReLU linear attention; the quadratic form of the same kernel when there are few positions."""

    def __init__(self, channels: int, head_dim: int, kernels: tuple[int, ...], norm: str = "rms", eps: float = 1e-15):
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"stage width {channels} is not a multiple of the head width {head_dim}")
        heads = channels // head_dim
        self.head_dim, self.eps = head_dim, eps
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_qkv_multiscale = nn.ModuleList(MultiscaleProjection(3 * channels, heads, k) for k in kernels)
        self.to_out = nn.Linear(channels * (1 + len(kernels)), channels, bias=False)
        self.norm_out = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x_BHWC = rearrange(x, "b c h w -> b h w c")
        # Thirds of one matrix, not roles: a head is a run of 3 * head_dim channels of all three, split into q, k and v
        # afterwards (spec 4.1). Their outputs are joined, not the weights: it is the smaller tensor on coarse grids.
        qkv = torch.cat([self.to_q(x_BHWC), self.to_k(x_BHWC), self.to_v(x_BHWC)], dim=-1)
        heads = [rearrange(qkv, "b h w (n r d) -> r b n (h w) d", r=3, d=self.head_dim)]
        for project in self.to_qkv_multiscale:
            runs = project(rearrange(qkv, "b h w c -> b c h w"))
            heads.append(rearrange(runs, "(n r) (b s) d -> r b n s d", r=3, b=len(x)))
        quadratic = height * width <= self.head_dim
        out = [relu_attention(*one, quadratic, self.eps) for one in heads]
        out = torch.cat([rearrange(o, "b n (h w) d -> b h w (n d)", h=height) for o in out], dim=-1)
        out = self.to_out(out.to(x.dtype))
        return normed(self.norm_out, rearrange(out, "b h w c -> b c h w"), x)


class GatedConv(nn.Module):
    """Gated inverted bottleneck: 1x1 -> SiLU -> depthwise 3x3 -> value * SiLU(gate) -> 1x1 -> norm, plus the input."""

    def __init__(self, channels: int, ratio: int = 4):
        super().__init__()
        hidden = channels * ratio
        self.conv_inverted = nn.Conv2d(channels, 2 * hidden, 1)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = nn.Conv2d(hidden, channels, 1, bias=False)
        self.norm = ChannelRMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = activate("silu", pointwise(self.conv_inverted, rearrange(x, "b c h w -> b h w c")))
        hidden = self.conv_depth(rearrange(hidden, "b h w c -> b c h w"))
        value, gate = rearrange(hidden, "b c h w -> b h w c").chunk(2, dim=-1)
        out = pointwise(self.conv_point, value * activate("silu", gate))
        return normed(self.norm, rearrange(out, "b h w c -> b c h w"), x)


class EfficientViTBlock(nn.Module):
    """Global context by linear attention, local context by the gated convolution."""

    def __init__(self, channels: int, head_dim: int, kernels: tuple[int, ...], norm: str = "rms"):
        super().__init__()
        self.attn = MultiscaleLinearAttention(channels, head_dim, kernels, norm)
        self.conv_out = GatedConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.attn(x))
