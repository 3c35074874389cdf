"""Frames to latents and back."""

import numpy as np
import torch
from torch import Tensor, nn

from sana_wm.models.dc_ae import DCAE, DCAEConfig


class FrameTokenizer(nn.Module):
    """DC-AE per frame, with the normalisation that the dynamics expect.

    The camera's background (the median frame of the training data; mid-grey for moving cameras) is subtracted before
    encoding and added after decoding, so that latents spend nothing on what never changes. Latents are standardised
    per channel with training statistics.
    """

    def __init__(self, config: DCAEConfig, resolution: tuple[int, int]):
        super().__init__()
        self.dcae = DCAE(config)
        self.register_buffer("background", torch.full((3, *resolution), 127.5))
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(config.latent_channels, 1, 1))

    def pixels(self, frames: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float (B, 3, H, W): difference to the background in units of 127.5."""
        if tuple(frames.shape[1:3]) != tuple(self.background.shape[1:]):
            got, expected = tuple(frames.shape[1:3]), tuple(self.background.shape[1:])
            raise ValueError(
                f"frames are {got[0]}x{got[1]} pixels, this world sees {expected[0]}x{expected[1]}: resize them"
            )
        pixels = frames.permute(0, 3, 1, 2).to(self.background.dtype)
        return ((pixels - self.background) / 127.5).contiguous(memory_format=torch.channels_last)

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 (..., H, W, 3) -> normalised latents (..., C, h, w)."""
        lead = frames.shape[:-3]
        latents = self.dcae.encode(self.pixels(frames.reshape(-1, *frames.shape[-3:])))
        return ((latents - self.latent_mean) / self.latent_std).reshape(*lead, *latents.shape[1:])

    def raw(self, latents: Tensor) -> Tensor:
        """Normalised latents (..., C, h, w) -> the autoencoder's own."""
        return latents * self.latent_std + self.latent_mean

    def decode(self, latents: Tensor) -> np.ndarray:
        """Normalised latents (..., C, h, w) -> uint8 (..., H, W, 3)."""
        lead = latents.shape[:-3]
        raw = self.raw(latents.reshape(-1, *latents.shape[-3:]))
        pixels = self.dcae.decode(raw.to(self.background.dtype)) * 127.5 + self.background
        frames = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return frames.reshape(*lead, *frames.shape[1:]).cpu().numpy()
