"""Deep-compression autoencoder (DC-AE, arXiv 2410.10733; sana_family spec section 4).

Every change of resolution is a learned residual to a parameter-free shuffle between space and channels, so that high
compression stays trainable; the deep stages use EfficientViT blocks (multi-scale ReLU linear attention + gated conv).
Parameter names follow the published checkpoints in diffusers layout.
"""

from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DCAEConfig:
    """Shape of an autoencoder: one entry per stage, finest first. A first stage without layers folds into the stem."""

    in_channels: int = 3
    latent_channels: int = 32
    head_dim: int = 32
    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    block_types: tuple[str, ...] = ("res", "res", "res", "vit", "vit", "vit")
    multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    downsample: str = "conv"  # or "pixel_unshuffle"
    upsample: str = "interpolate"  # or "pixel_shuffle"
    scaling_factor: float = 0.41407  # of the published checkpoint: latent for diffusion = z * scaling_factor

    def __post_init__(self):
        for name in ("widths", "encoder_layers", "decoder_layers", "block_types"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "multiscales", tuple(tuple(scale) for scale in self.multiscales))
        stages = {
            name: len(getattr(self, name)) for name in ("widths", "encoder_layers", "decoder_layers", "block_types")
        }
        if len(set(stages.values()) | {len(self.multiscales)}) != 1:
            raise ValueError(f"every stage needs one entry: got {stages}, multiscales {len(self.multiscales)}")
        if self.downsample not in ("conv", "pixel_unshuffle") or self.upsample not in ("interpolate", "pixel_shuffle"):
            raise ValueError(
                f"downsample={self.downsample!r} (expected 'conv' or 'pixel_unshuffle'), "
                f"upsample={self.upsample!r} (expected 'interpolate' or 'pixel_shuffle')"
            )

    @property
    def compression(self) -> int:
        """Pixels per latent cell along each side."""
        return 2 ** (len(self.widths) - 1)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "DCAEConfig":
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown tokenizer settings {sorted(unknown)}; known: {[f.name for f in fields(cls)]}")
        return cls(**values)


class ChannelRMSNorm(nn.Module):
    """RMSNorm with bias over the channels of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().pow(2).mean(dim=1, keepdim=True) + self.eps).to(x.dtype)
        return x * scale * self.weight[:, None, None] + self.bias[:, None, None]


class ResBlock(nn.Module):
    """conv 3x3 -> SiLU -> conv 3x3 -> norm, plus the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = ChannelRMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(F.silu(self.conv1(x))))


class MultiscaleProjection(nn.Module):
    """Depthwise k x k, then 1x1 within each head's q, k and v: local context for the linear attention."""

    def __init__(self, channels: int, heads: int, kernel: int):
        super().__init__()
        self.proj_in = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.proj_out = nn.Conv2d(channels, channels, 1, groups=3 * heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.proj_in(x))


class MultiscaleLinearAttention(nn.Module):
    """ReLU linear attention; the quadratic form of the same kernel when there are few positions."""

    def __init__(self, channels: int, head_dim: int, kernels: tuple[int, ...], eps: float = 1e-15):
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
        self.norm_out = ChannelRMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        weight = torch.cat([self.to_q.weight, self.to_k.weight, self.to_v.weight])[:, :, None, None]
        qkv = F.conv2d(x, weight)
        qkv = torch.cat([qkv] + [project(qkv) for project in self.to_qkv_multiscale], dim=1)
        # Heads are runs of 3 * head_dim channels of the concatenation, split into q, k, v afterwards (spec 4.1).
        # contiguous: convolutions may hand back channels-last memory, which cannot be viewed like this
        q, k, v = qkv.contiguous().float().view(len(x), -1, 3 * self.head_dim, height * width).chunk(3, dim=2)
        q, k = F.relu(q), F.relu(k)
        if height * width > self.head_dim:
            ones = torch.ones_like(v[:, :, :1])
            out = torch.cat([v, ones], dim=2) @ k.transpose(-1, -2) @ q
            out = out[:, :, :-1] / (out[:, :, -1:] + self.eps)
        else:
            scores = k.transpose(-1, -2) @ q
            out = v @ (scores / (scores.sum(dim=2, keepdim=True) + self.eps))
        out = out.reshape(len(x), -1, height, width).to(x.dtype)
        return x + self.norm_out(F.conv2d(out, self.to_out.weight[:, :, None, None]))


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
        value, gate = self.conv_depth(F.silu(self.conv_inverted(x))).chunk(2, dim=1)
        return x + self.norm(self.conv_point(value * F.silu(gate)))


class EfficientViTBlock(nn.Module):
    """Global context by linear attention, local context by the gated convolution."""

    def __init__(self, channels: int, head_dim: int, kernels: tuple[int, ...]):
        super().__init__()
        self.attn = MultiscaleLinearAttention(channels, head_dim, kernels)
        self.conv_out = GatedConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.attn(x))


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
        if self.shortcut:
            out = out + F.pixel_unshuffle(x, 2).unflatten(1, (-1, self.group)).mean(dim=2)
        return out


class UpBlock(nn.Module):
    """Twice the resolution: a convolution plus (shortcut) channel duplication and pixel-shuffle."""

    def __init__(self, channels: int, out_channels: int, mode: str, shortcut: bool = True):
        super().__init__()
        self.interpolate, self.shortcut = mode == "interpolate", shortcut
        self.repeats = out_channels * 4 // channels
        self.conv = nn.Conv2d(channels, out_channels * (1 if self.interpolate else 4), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.interpolate:
            out = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        else:
            out = F.pixel_shuffle(self.conv(x), 2)
        if self.shortcut:
            out = out + F.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1), 2)
        return out


def _blocks(config: DCAEConfig, stage: int, count: int) -> list[nn.Module]:
    width, kernels = config.widths[stage], config.multiscales[stage]
    kinds = {"res": lambda: ResBlock(width), "vit": lambda: EfficientViTBlock(width, config.head_dim, kernels)}
    if config.block_types[stage] not in kinds:
        raise ValueError(f"block type {config.block_types[stage]!r} of stage {stage}: expected one of {sorted(kinds)}")
    return [kinds[config.block_types[stage]]() for _ in range(count)]


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> latents (B, latent_channels, H / f, W / f)."""

    def __init__(self, config: DCAEConfig):
        super().__init__()
        c, last = config, len(config.widths) - 1
        if c.encoder_layers[0]:
            self.conv_in = nn.Conv2d(c.in_channels, c.widths[0], 3, padding=1)
        else:
            self.conv_in = DownBlock(c.in_channels, c.widths[1], c.downsample, shortcut=False)
        stages = []
        for i, layers in enumerate(c.encoder_layers):
            blocks = _blocks(c, i, layers)
            if i < last and not (i == 0 and not layers):
                blocks.append(DownBlock(c.widths[i], c.widths[i + 1], c.downsample))
            stages.append(nn.Sequential(*blocks))
        self.down_blocks = nn.ModuleList(stages)
        self.conv_out = nn.Conv2d(c.widths[-1], c.latent_channels, 3, padding=1)
        self.group = c.widths[-1] // c.latent_channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(x) + x.unflatten(1, (-1, self.group)).mean(dim=2)


class Decoder(nn.Module):
    """Latents -> images; mirrors the encoder."""

    def __init__(self, config: DCAEConfig):
        super().__init__()
        c, last = config, len(config.widths) - 1
        self.conv_in = nn.Conv2d(c.latent_channels, c.widths[-1], 3, padding=1)
        self.repeats = c.widths[-1] // c.latent_channels
        stages = []
        for i, layers in enumerate(c.decoder_layers):
            blocks = _blocks(c, i, layers)
            if i < last and not (i == 0 and not layers):
                blocks.insert(0, UpBlock(c.widths[i + 1], c.widths[i], c.upsample))
            stages.append(nn.Sequential(*blocks))
        self.up_blocks = nn.ModuleList(stages)
        channels = c.widths[0] if c.decoder_layers[0] else c.widths[1]
        self.norm_out = ChannelRMSNorm(channels)
        if c.decoder_layers[0]:
            self.conv_out = nn.Conv2d(channels, c.in_channels, 3, padding=1)
        else:
            self.conv_out = UpBlock(channels, c.in_channels, c.upsample, shortcut=False)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z) + z.repeat_interleave(self.repeats, dim=1)
        for stage in reversed(self.up_blocks):
            x = stage(x)
        return self.conv_out(F.relu(self.norm_out(x)))


class DCAE(nn.Module):
    """The autoencoder. Latents are unscaled; ``scaling_factor`` stands beside them."""

    def __init__(self, config: DCAEConfig):
        super().__init__()
        self.config = config
        self.scaling_factor = config.scaling_factor
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, latent_channels, H / f, W / f).

        Raises:
            ValueError: sides not divisible by the compression, wrong number of channels.
        """
        f, shape = self.config.compression, tuple(images.shape)
        if images.ndim != 4 or shape[1] != self.config.in_channels or shape[2] % f or shape[3] % f:
            raise ValueError(
                f"images have shape {shape}, expected (B, {self.config.in_channels}, H, W) with H, W multiples of {f}"
            )
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, 3, f h, f w), about [-1, 1], not clamped."""
        if latents.ndim != 4 or latents.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}, expected (B, {self.config.latent_channels}, h, w)"
            )
        return self.decoder(latents)
