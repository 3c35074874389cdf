"""Deep-compression autoencoder (DC-AE, arXiv 2410.10733; sana_family spec section 4).

Every change of resolution is a learned residual to a parameter-free shuffle between space and channels, so that high
compression stays trainable; the deep stages use EfficientViT blocks (multi-scale ReLU linear attention + gated conv).
Parameter names follow the published checkpoints in diffusers layout.
"""

from itertools import chain
from pathlib import Path

import torch
from einops import reduce
from torch import Tensor, nn

from sana_wm.models import dc_ae_pretrained
from sana_wm.models.dc_ae_blocks import (
    ChannelRMSNorm,
    EfficientViTBlock,
    GatedConv,
    MultiscaleLinearAttention,
    MultiscaleProjection,
    ResBlock,
    activate,
    add,
    normed,
)
from sana_wm.models.dc_ae_config import DCAE_PRESETS, DCAEConfig, dcae_preset
from sana_wm.models.dc_ae_resample import DownBlock, UpBlock
from sana_wm.models.dc_ae_tiling import run_tiled, tile_and_stride
from sana_wm.nn.widened import widened

__all__ = ["ChannelRMSNorm", "DCAE", "DCAEConfig", "DCAE_PRESETS", "Decoder", "DownBlock", "EfficientViTBlock",
           "Encoder", "GatedConv", "MultiscaleLinearAttention", "MultiscaleProjection", "ResBlock", "UpBlock",
           "dcae_preset"]  # fmt: skip


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
        for i, (width, layers) in enumerate(zip(c.widths, c.encoder_layers, strict=True)):
            blocks = [_block(c.block_types[i], width, c.head_dim, c.multiscales[i]) for _ in range(layers)]
            if i < last and (i or layers):
                blocks.append(DownBlock(width, c.widths[i + 1], c.downsample))
            stages.append(nn.Sequential(*blocks))
        self.down_blocks = nn.ModuleList(stages)
        self.conv_out = nn.Conv2d(c.widths[-1], c.latent_channels, 3, padding=1)
        self.group = c.widths[-1] // c.latent_channels if c.encoder_shortcut else 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        for block in chain.from_iterable(self.down_blocks):  # no stage, which would keep its input to its end
            x = block(x)
        out = self.conv_out(x)
        return add(out, reduce(x, "b (c g) h w -> b c h w", "mean", g=self.group)) if self.group else out


class Decoder(nn.Module):
    """Latents -> images; mirrors the encoder."""

    def __init__(self, config: DCAEConfig):
        super().__init__()
        c, s, last = config, config.of_decoder(), len(config.widths) - 1
        self.conv_in = nn.Conv2d(c.latent_channels, s.widths[-1], 3, padding=1)
        self.repeats = s.widths[-1] // c.latent_channels if c.decoder_shortcut else 0
        stages = []
        for i, (width, layers) in enumerate(zip(s.widths, c.decoder_layers, strict=True)):
            kind = (s.block_types[i], width, c.head_dim, s.multiscales[i], s.norms[i], s.activations[i])
            blocks = [_block(*kind) for _ in range(layers)]
            if i < last and (i or layers):
                blocks.insert(0, UpBlock(s.widths[i + 1], width, c.upsample))
            stages.append(nn.Sequential(*blocks))
        self.up_blocks = nn.ModuleList(stages)
        channels = s.widths[0] if c.decoder_layers[0] else s.widths[1]
        self.norm_out = ChannelRMSNorm(channels)
        self.out_activation = c.out_activation
        if c.decoder_layers[0]:
            self.conv_out = nn.Conv2d(channels, c.in_channels, 3, padding=1)
        else:
            self.conv_out = UpBlock(channels, c.in_channels, c.upsample, shortcut=False)

    def forward(self, z: Tensor) -> Tensor:
        z = z.contiguous(memory_format=torch.channels_last)
        x = self.conv_in(z)
        x = add(x, z.repeat_interleave(self.repeats, dim=1)) if self.repeats else x
        for block in chain.from_iterable(reversed(self.up_blocks)):  # as in the encoder
            x = block(x)
        return self.conv_out(activate(self.out_activation, normed(self.norm_out, x)))


def _block(
    kind: str, width: int, head_dim: int, kernels: tuple[int, ...], norm: str = "rms", activation: str = "silu"
) -> nn.Module:
    return ResBlock(width, norm, activation) if kind == "res" else EfficientViTBlock(width, head_dim, kernels, norm)


class DCAE(nn.Module):
    """The autoencoder. Latents are unscaled; ``scaling_factor`` stands beside them."""

    def __init__(self, config: DCAEConfig):
        super().__init__()
        self.config = config
        self.scaling_factor = config.scaling_factor
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, preset: str | None = None, dtype: torch.dtype | None = None, **changes
    ) -> "DCAE":
        """Read a folder of :meth:`save_pretrained`, one that diffusers saved (AutoencoderDC, or a pipeline with a
        folder ``vae``), or weights with the names of mit-han-lab and NVlabs; safetensors only.

        Args:
            path: a folder (config.json and one or several .safetensors) or one .safetensors file.
            preset: a member of :data:`DCAE_PRESETS`, for weights that come without a configuration. Without it their
                shapes are read; shapes do not tell the scaling factor.
            dtype: of the parameters; None: as saved.
            changes: values of the configuration to set.

        Raises:
            ValueError: a pickle; tensors that are missing, extra or of another shape, by name; unknown settings.
        """
        return dc_ae_pretrained.load(cls, path, preset, dtype, changes)

    def save_pretrained(self, folder: str | Path, *, layout: str = "sana_wm", max_shard_size: str = "5GB") -> None:
        """Write config.json and safetensors.

        Args:
            layout: "sana_wm", "diffusers" (AutoencoderDC reads it) or "mit" (names of mit-han-lab and NVlabs).
        """
        dc_ae_pretrained.save(self, folder, layout, max_shard_size)

    @widened
    def encode(
        self, images: Tensor, *, tile: int | str | None = "auto", stride: int | None = None, slicing: bool = False
    ) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, latent_channels, H / f, W / f).

        Args:
            tile, stride, slicing: as in :meth:`decode`.

        Raises:
            ValueError: sides not divisible by the compression (pad or crop: padding here would change what is coded),
                wrong number of channels, tiles that do not fit.
        """
        f, shape = self.config.compression, tuple(images.shape)
        if images.ndim != 4 or shape[1] != self.config.in_channels or shape[2] % f or shape[3] % f:
            raise ValueError(
                f"images have shape {shape}, expected (B, {self.config.in_channels}, H, W) with H, W multiples of {f}"
            )
        cells = tile_and_stride(shape[2:], tile, stride, f)
        return self._run(self.encoder, images, cells, (f, 1), slicing)

    @widened
    def decode(
        self, latents: Tensor, *, tile: int | str | None = "auto", stride: int | None = None, slicing: bool = False
    ) -> Tensor:
        """(B, latent_channels, h, w) -> (B, 3, f h, f w), about [-1, 1], not clamped.

        Args:
            tile: side of the squares that are coded one at a time, in pixels of the image; an image no larger is coded
                at once. None: always at once. "auto": 1024 beyond 2048 x 2048 pixels, where memory would grow past
                what devices have (a 4096 x 4096 image takes 25 tiles), else at once. Global attention sees its tile
                only, so that results differ somewhat from those of the whole.
            stride: pixels between tiles; None: 7/8 of the tile (896 for 1024). The rest overlaps and is cross-faded.
            slicing: one image of the batch at a time.

        Raises:
            ValueError: wrong number of channels, tiles that do not fit.
        """
        if latents.ndim != 4 or latents.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}, expected (B, {self.config.latent_channels}, h, w)"
            )
        f = self.config.compression
        cells = tile_and_stride((f * latents.shape[2], f * latents.shape[3]), tile, stride, f)
        return self._run(self.decoder, latents, cells, (1, f), slicing)

    @staticmethod
    def _run(
        code: nn.Module, x: Tensor, cells: tuple[int, int] | None, scale: tuple[int, int], slicing: bool
    ) -> Tensor:
        def one(part: Tensor) -> Tensor:
            return code(part) if cells is None else run_tiled(code, part, *cells, scale)

        return torch.cat([one(part) for part in x.split(1)]) if slicing and len(x) > 1 else one(x)
