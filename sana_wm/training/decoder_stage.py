"""The decoder: the autoencoder's decoder once more, on the latents that it will be shown.

A world's pictures come out of the refiner, a little off what the encoder would have made of the true frame. The encoder
stays as it is, and with it all latents; the decoder learns to draw the frame from redrawn latents as well as from true
ones.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sana_wm.data.arrays import EpisodeArrays
from sana_wm.models.refiner import Refiner
from sana_wm.nn.proprio import pack
from sana_wm.training.batches import batch_rng, noise_generator, take_frames
from sana_wm.training.loop import autocast
from sana_wm.training.refiner_stage import RefinerLoss, hedged
from sana_wm.training.tokenizer_stage import pixel_losses
from sana_wm.world.tokenizer import FrameTokenizer


@dataclass(frozen=True)
class DecoderLoss:
    """``redrawn``: share of frames whose latent went through the refiner; the others are the encoder's, with
    ``latent_noise`` (in standard deviations). ``foreground``: as in
    :class:`sana_wm.training.tokenizer_stage.TokenizerLoss`.
    """

    batch_size: int = 32
    redrawn: float = 0.6
    latent_noise: float = 0.1
    foreground: float = 8.0


class DecoderTraining(nn.Module):
    """Args:
    latents: (N, C, h, w). proprio: (N, P) standardised. rows: frames to train on. first_stage: what pictures look like
        before the refiner redraws them.
    """

    def __init__(
        self, tokenizer: FrameTokenizer, refiner: Refiner, loss: DecoderLoss, first_stage: RefinerLoss,
        arrays: EpisodeArrays, latents: np.ndarray, proprio: np.ndarray, rows: np.ndarray, seed: int, bf16: str,
    ):  # fmt: skip
        super().__init__()
        self.tokenizer, self.redraw = tokenizer, refiner.redraw  # a function: the refiner is not trained here
        tokenizer.requires_grad_(False).dcae.decoder.requires_grad_(True)
        self.config, self.first_stage, self.seed, self.bf16 = loss, first_stage, seed, bf16
        self.arrays, self.latents, self.proprio, self.rows = arrays, latents, proprio, rows

    @torch.no_grad()
    def shown(self, rows: np.ndarray, redrawn: Tensor, noise: torch.Generator) -> Tensor:
        """Latents (B, C, h, w) of the frames at ``rows``; those of the mask ``redrawn`` (B,) by the refiner."""
        device = redrawn.device
        clean = torch.from_numpy(self.latents[rows].astype(np.float32)).to(device)
        picture, proprio = hedged(clean, torch.from_numpy(self.proprio[rows]).to(device), self.first_stage, noise)
        drawn = torch.randn(clean.shape, generator=noise, device=device)
        both = torch.cat([picture, pack(proprio, tuple(clean.shape[2:]))], dim=1)
        made = self.redraw(both, drawn)[:, : clean.shape[1]]
        noisy = clean + self.config.latent_noise * torch.randn(clean.shape, generator=noise, device=device)
        return torch.where(redrawn[:, None, None, None], made, noisy)

    def losses(self, step: int, progress: float) -> dict[str, Tensor]:
        c, device = self.config, self.tokenizer.background.device
        rows = batch_rng(self.seed, step).choice(self.rows, c.batch_size)
        noise = noise_generator(self.seed, step, device)
        redrawn = torch.rand(len(rows), generator=noise, device=device) < c.redrawn
        pixels = self.tokenizer.pixels(take_frames(self.arrays.frames, rows, device))
        latents = self.tokenizer.raw(self.shown(rows, redrawn, noise)).contiguous(memory_format=torch.channels_last)
        with autocast(device, self.bf16):
            decoded = self.tokenizer.dcae.decode(latents)
        return pixel_losses(decoded, pixels, c.foreground)
