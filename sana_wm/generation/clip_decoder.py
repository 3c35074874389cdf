"""Latents of a video to its frames, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sana_wm.generation.aspect import resize_and_crop
from sana_wm.models.video_vae import to_frames

if TYPE_CHECKING:
    from sana_wm.models.video_vae import VideoVAE


class ClipDecoder:
    """Latents (1, C, n, h, w) of one video, in order, to uint8 frames (f, height, width, 3).

    Latent by latent, at constant memory, where the autoencoder allows it; else, or with ``tiling="on"``, a whole clip
    at once.
    """

    def __init__(self, vae: VideoVAE, height: int, width: int, tiling: str = "auto"):
        self.vae, self.size, self.tiles, self.tails = vae, (height, width), tiling != "off", None
        self.streams = vae.streams and tiling != "on"

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Iterator[np.ndarray]:
        if not self.streams:
            before, self.vae.vae.use_tiling = self.vae.vae.use_tiling, self.tiles
            try:
                pixels = self.vae.pixels(latents)
            finally:
                self.vae.vae.use_tiling = before  # a picture is encoded in one piece
            yield _shown(pixels, *self.size)
            return
        for latent in latents.split(1, dim=2):
            pixels, self.tails = self.vae.stream_pixels(latent, self._take_tails())
            yield _shown(pixels, *self.size)

    def _take_tails(self):
        """Nothing here refers to them while they are replaced, so that memory need not hold them twice."""
        tails, self.tails = self.tails, None
        return tails


def _shown(pixels: Tensor, height: int, width: int) -> np.ndarray:
    """(1, 3, f, H, W) -> uint8 (f, height, width, 3)."""
    frames = resize_and_crop(rearrange(pixels.float(), "1 c f h w -> f c h w"), height, width)
    return to_frames(rearrange(frames, "f c h w -> 1 c f h w"))[0].cpu().numpy()
