"""The flow loss of text-to-image (SANA, arXiv 2410.10629 section 3.3; sana_family spec sections 5.1 and 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sana_wm.diffusion.flow import TIMESTEPS, interpolate, shift_sigma
from sana_wm.models.transformer import SanaTransformer
from sana_wm.training.batches import batch_rng, noise_generator
from sana_wm.training.image_set import ImageBatch, ImageSet
from sana_wm.training.loop import autocast


@dataclass(frozen=True)
class ImageLoss:
    """Attributes:
    mean, std: of the normal whose sigmoid, shifted by ``shift``, is the noise level.
    caption_dropout: share of lanes that learn without their text, for classifier-free guidance.
    """

    batch_size: int = 16
    mean: float = 0.0
    std: float = 1.0
    shift: float = 3.0
    caption_dropout: float = 0.1

    def __post_init__(self):
        if self.batch_size < 1 or self.std <= 0 or self.shift <= 0 or not 0 <= self.caption_dropout <= 1:
            raise ValueError(
                f"{self}: expected batch_size from 1 on, std and shift above 0, caption_dropout from 0 to 1"
            )


class HeldOutErrors(NamedTuple):
    """Flow loss of each picture (N,) float64 with its own caption, and with that of another picture."""

    own: np.ndarray
    other: np.ndarray


class ImageTraining(nn.Module):
    """A transformer of one frame, and the pictures that it learns from."""

    def __init__(
        self, transformer: SanaTransformer, loss: ImageLoss, pictures: ImageSet, seed: int, bf16: str = "auto"
    ):
        super().__init__()
        self.transformer, self.config, self.pictures, self.seed, self.bf16 = transformer, loss, pictures, seed, bf16

    def losses(self, step: int, progress: float) -> dict[str, Tensor]:
        """Mean squared error of the velocity, noise - latent, at noise levels of the shifted logit-normal."""
        c, device = self.config, self.transformer.device
        batch = self.pictures.draw(batch_rng(self.seed, step), c.batch_size, device)
        noise_of = noise_generator(self.seed, step, device)
        dropped = torch.rand(c.batch_size, generator=noise_of, device=device) < c.caption_dropout
        return {"loss": self.errors(self.pictures.without_text(batch, dropped), noise_of).mean()}

    def errors(self, batch: ImageBatch, noise_of: torch.Generator) -> Tensor:
        """(B,) mean squared error of the velocity of each picture, at a noise level of its own."""
        c, device, lanes = self.config, self.transformer.device, len(batch.latents)
        level = torch.sigmoid(c.mean + c.std * torch.randn(lanes, generator=noise_of, device=device))
        sigma = shift_sigma(level, c.shift)
        noise = torch.randn(batch.latents.shape, generator=noise_of, device=device)
        x = interpolate(batch.latents, noise, sigma[:, None, None, None])
        time = TIMESTEPS * self.transformer.config.timestep_scale * sigma
        with autocast(device, self.bf16):
            velocity = self.transformer(x[:, :, None], time, batch.text, batch.text_mask).velocity[:, :, 0]
        return (velocity.float() - (noise - batch.latents)).pow(2).mean((1, 2, 3))

    @torch.no_grad()
    def held_out(self, pictures: ImageSet, most: int = 256) -> HeldOutErrors:
        """On pictures (at most ``most``, evenly) at the same noise every time, each with its first caption.

        The other caption is that of the next picture of another text, at the same noise: by how much the loss rises
        says how much of the picture is read from the text.
        """
        chosen = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).astype(np.int64)
        ends = np.cumsum([len(bucket.latents) for bucket in pictures.buckets])
        which = np.searchsorted(ends, chosen, side="right")
        rows = chosen - np.concatenate([[0], ends])[which]
        captions = np.array([pictures.buckets[b].captions[row, 0] for b, row in zip(which, rows, strict=True)])
        others = captions[[_next_other(captions, i) for i in range(len(captions))]]
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for number, bucket in enumerate(pictures.buckets):
            here = np.flatnonzero(which == number)
            for start in range(0, len(here), self.config.batch_size):
                part = here[start : start + self.config.batch_size]
                for told, errors in zip((captions, others), found, strict=True):
                    noise_of = noise_generator(number, start, self.transformer.device)
                    batch = pictures.take(bucket, rows[part], told[part], self.transformer.device)
                    errors.append(self.errors(batch, noise_of).cpu())
        return HeldOutErrors(*(torch.cat(errors).double().numpy() for errors in found))


def _next_other(captions: np.ndarray, i: int) -> int:
    """Place of the next caption that is another one; its own where all are the same."""
    order = np.roll(np.arange(len(captions)), -i)
    return int(order[np.argmax(captions[order] != captions[i])])
