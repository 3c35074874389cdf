"""The refiner, on cached latents: redraw a noised picture from what is left of it and from proprioception."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sana_wm.models.refiner import Refiner, noised_to
from sana_wm.training.batches import batch_rng, noise_generator


@dataclass(frozen=True)
class RefinerLoss:
    """``blur``: largest weight with which another frame's picture is mixed in, since first stages hedge between
    futures. ``proprio_noise``: standard deviation of noise on standardised proprioception.
    """

    batch_size: int = 256
    blur: float = 0.5
    proprio_noise: float = 0.005


def hedged(clean: Tensor, proprio: Tensor, loss: RefinerLoss, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """As a first stage has it: latents (N, C, h, w) mixed with another frame's, proprioception (N, P) a little off."""
    proprio = proprio + loss.proprio_noise * torch.randn(proprio.shape, generator=noise, device=proprio.device)
    share = loss.blur * torch.rand(len(clean), 1, 1, 1, generator=noise, device=clean.device)
    return (1 - share) * clean + share * clean.roll(1, dims=0), proprio


class RefinerTraining(nn.Module):
    """Args:
    latents: (N, C, h, w). proprio: (N, P) standardised. rows: frames to train on.
    """

    def __init__(
        self, refiner: Refiner, loss: RefinerLoss, latents: np.ndarray, proprio: np.ndarray, rows: np.ndarray, seed: int
    ):
        super().__init__()
        self.refiner, self.config, self.seed = refiner, loss, seed
        self.latents, self.proprio, self.rows = latents, proprio, rows

    def losses(self, step: int, progress: float) -> dict[str, Tensor]:
        device, c = self.refiner.out.weight.device, self.config
        rows = batch_rng(self.seed, step).choice(self.rows, c.batch_size)
        noise = noise_generator(self.seed, step, device)
        clean = torch.from_numpy(self.latents[rows].astype(np.float32)).to(device)
        picture, proprio = hedged(clean, torch.from_numpy(self.proprio[rows]).to(device), c, noise)
        # around the level of use, as far below it as it is from 1
        sigma = 1 - (1 - self.refiner.config.sigma) * 2 * torch.rand(len(rows), generator=noise, device=device)
        sigma = sigma.clamp(min=0.0)
        drawn = torch.randn(clean.shape, generator=noise, device=device)
        noised = noised_to(picture, drawn, sigma[:, None, None, None])
        return {"loss": (self.refiner(noised, sigma, proprio) - clean).pow(2).mean()}
