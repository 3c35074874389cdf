"""The LTX-2 video autoencoder of SANA-WM: clips to latents and back, whole or as a stream (spec section 8).

The networks are diffusers' ``AutoencoderKLLTX2Video`` (the ``ltx`` extra). What is added here: the normalisation that
the dynamics expect, frames as uint8, and a decoder that goes on from a state. Its causal convolutions see two frames
more than they are given: a whole clip repeats its first frame there, a stream remembers its last two inputs instead.
So decoding latent after latent is decoding them at once, at constant memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sana_wm.nn.widened import widened

NEEDED = "video autoencoders come with diffusers: pip install 'sana-wm[ltx]'"


class VideoVAE(nn.Module):
    """F = stride k + 1 raw frames <-> T = k + 1 latent frames; the first latent holds the first frame alone.

    Attributes:
        vae: diffusers' AutoencoderKLLTX2Video.
        channels: of a latent. compression: pixels of a latent cell's side. stride: raw frames of a latent frame.
        network: the class of diffusers.
    """

    network = "AutoencoderKLLTX2Video"

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.channels, self.compression, self.stride = self._sizes(vae)

    @staticmethod
    def _sizes(vae: nn.Module) -> tuple[int, int, int]:
        """Channels, compression and stride."""
        return vae.config.latent_channels, vae.spatial_compression_ratio, vae.temporal_compression_ratio

    @classmethod
    def _diffusers_class(cls) -> type[nn.Module]:
        try:
            import diffusers
        except ImportError as error:
            raise ImportError(NEEDED) from error
        return getattr(diffusers, cls.network)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype | None = None) -> VideoVAE:
        """Read a folder that diffusers saved (config.json and safetensors).

        Raises:
            ValueError: no such autoencoder in the folder, or only pickles. ImportError: no diffusers.
        """
        build, folder = cls._diffusers_class(), Path(folder)
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "no such folder"
            raise ValueError(f"{folder}: expected the config.json and .safetensors of an {cls.network}, found {found}")
        return cls(build.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True))

    @classmethod
    def blank(cls, config: dict) -> VideoVAE:
        """Of a config.json of diffusers, without weights (on the meta device). ImportError: no diffusers."""
        with torch.device("meta"):
            return cls(cls._diffusers_class().from_config(config))

    @property
    def streams(self) -> bool:
        """Whether latents can be decoded one after the other (:meth:`check_streams`)."""
        try:
            self.check_streams()
        except ValueError:
            return False
        return True

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder that :meth:`from_pretrained` and diffusers read."""
        self.vae.save_pretrained(folder, safe_serialization=True)

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.dtype

    @property
    def device(self) -> torch.device:
        return self.vae.device

    def grid(self, resolution: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the latents of frames of ``resolution``.

        Raises:
            ValueError: no whole number of latent cells.
        """
        if any(side < self.compression or side % self.compression for side in resolution):
            raise ValueError(f"resolution {tuple(resolution)}: expected multiples of {self.compression} pixels")
        return resolution[0] // self.compression, resolution[1] // self.compression

    @torch.no_grad()
    @widened
    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 (B, F, H, W, 3) -> normalised latents (B, C, T, h, w) float32, the mode of the posterior.

        Raises:
            ValueError: F is not stride k + 1, or frames of another type or shape.
        """
        frames = torch.as_tensor(frames)
        if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise ValueError(
                f"frames are {frames.dtype} of shape {tuple(frames.shape)}, expected uint8 (B, F, H, W, 3)"
            )
        if (frames.shape[1] - 1) % self.stride:
            raise ValueError(f"got {frames.shape[1]} frames, expected {self.stride} k + 1: cut the clip")
        self.grid(tuple(frames.shape[2:4]))
        pixels = frames.to(self.device).permute(0, 4, 1, 2, 3).to(self.dtype) / 127.5 - 1
        latents = self.vae.encode(pixels).latent_dist.mode()
        mean, std = self._statistics()
        return (latents.float() - mean) / std

    @torch.no_grad()
    @widened
    def pixels(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) of a clip from its start -> (B, 3, F, H, W) in about [-1, 1]."""
        return self.vae.decode(self._raw(latents)).sample

    def decode(self, latents: Tensor) -> np.ndarray:
        """Normalised latents (B, C, T, h, w) of a clip from its start -> uint8 (B, F, H, W, 3)."""
        return to_frames(self.pixels(latents)).cpu().numpy()

    def decode_stream(
        self, latents: Tensor, tails: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """:meth:`stream_pixels` as uint8 (B, F, H, W, 3), and the tails."""
        pixels, tails = self.stream_pixels(latents, tails)
        return to_frames(pixels), tails

    @torch.no_grad()
    @widened
    def stream_pixels(
        self, latents: Tensor, tails: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Decode the next latents of a stream.

        Args:
            latents: (B, C, n, h, w) normalised. tails: what the call before returned; None at the start of a clip.
        Returns: (B, 3, F, H, W) in about [-1, 1], F = stride n (at the start stride (n - 1) + 1), and the tails: of
            every convolution in the order of the pass its last two inputs (B, c, 2, h', w').

        Raises:
            ValueError: a decoder that sees the future, or that draws noise.
        """
        self.check_streams()
        return _StreamPass(tails).decode(self.vae.decoder, self._raw(latents))

    def check_streams(self) -> None:
        """Raise ValueError where latents cannot be decoded one after the other."""
        c = self.vae.config
        if not c.decoder_causal:
            raise ValueError(
                "this autoencoder decodes with a look into the future (decoder_causal=false), which a stream does not "
                "have: use the causal one that SANA-WM's streaming checkpoint comes with"
            )
        if c.timestep_conditioning or any(np.atleast_1d(c.decoder_inject_noise)):
            raise ValueError("a decoder with timestep conditioning or noise cannot be streamed: LTX-2's has neither")

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the dynamics' latents, (1, C, 1, 1, 1) float32."""
        mean, std = (s.float().view(1, -1, 1, 1, 1) for s in (self.vae.latents_mean, self.vae.latents_std))
        return mean, std / self.vae.config.scaling_factor

    def _raw(self, latents: Tensor) -> Tensor:
        """Normalised latents -> the autoencoder's own, in its dtype."""
        mean, std = self._statistics()
        return (latents.to(self.device).float() * std + mean).to(self.dtype)


def to_frames(pixels: Tensor) -> Tensor:
    """(B, 3, F, H, W) in [-1, 1] -> uint8 (B, F, H, W, 3)."""
    return (pixels.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)


class _StreamPass:
    """One pass through the LTX-2 decoder in which every causal convolution continues from its tail.

    Upsampling in time by s makes s frames of one and drops the first s - 1 of a clip: only a stream's first pass does.
    """

    def __init__(self, tails: tuple[Tensor, ...] | None):
        self.starts = tails is None
        self.given = iter(tails or ())
        self.left: list[Tensor] = []

    def decode(self, decoder: nn.Module, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = self.conv(decoder.conv_in, x)
        for resnet in decoder.mid_block.resnets:
            x = self.resnet(resnet, x)
        for block in decoder.up_blocks:
            x = x if block.conv_in is None else self.resnet(block.conv_in, x)
            for upsampler in block.upsamplers or ():
                x = self.upsample(upsampler, x)
            for resnet in block.resnets:
                x = self.resnet(resnet, x)
        x = self.conv(decoder.conv_out, decoder.conv_act(decoder.norm_out(x)))
        return _unfold(x, (decoder.patch_size_t, decoder.patch_size, decoder.patch_size), width_first=True), tuple(
            self.left
        )

    def conv(self, conv: nn.Module, x: Tensor) -> Tensor:
        keep = conv.kernel_size[0] - 1
        if keep:
            x = torch.cat([x[:, :, :1].expand(-1, -1, keep, -1, -1) if self.starts else next(self.given), x], dim=2)
            self.left.append(x[:, :, -keep:].clone())  # a copy, or a view would keep all of x
        return conv.conv(x)

    def resnet(self, block: nn.Module, x: Tensor) -> Tensor:
        y = self.conv(block.conv1, block.nonlinearity(block.norm1(x)))
        y = self.conv(block.conv2, block.nonlinearity(block.norm2(y)))
        if block.norm3 is not None:
            x = block.norm3(x.movedim(1, -1)).movedim(-1, 1)
        return y + (x if block.conv_shortcut is None else block.conv_shortcut(x))

    def upsample(self, block: nn.Module, x: Tensor) -> Tensor:
        drop = block.stride[0] - 1 if self.starts else 0
        y = _unfold(self.conv(block.conv, x), block.stride)[:, :, drop:]
        if not block.residual:
            return y
        x = _unfold(x, block.stride)[:, :, drop:]
        return y + x.repeat(1, y.shape[1] // x.shape[1], 1, 1, 1)


def _unfold(x: Tensor, stride: tuple[int, int, int], width_first: bool = False) -> Tensor:
    """(B, c s0 s1 s2, F, h, w) -> (B, c, F s0, h s1, w s2). ``width_first``: the order of channels in patches."""
    b, _, f, h, w = x.shape
    if width_first:
        x = x.reshape(b, -1, stride[0], stride[2], stride[1], f, h, w).transpose(3, 4)
    else:
        x = x.reshape(b, -1, *stride, f, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)
