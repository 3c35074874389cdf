"""The heads, on cached latents. They need no dynamics; cheap frames, many of them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sana_wm.models.heads import Heads
from sana_wm.training.batches import batch_rng, noise_generator


@dataclass(frozen=True)
class HeadsLoss:
    """``noise``: largest standard deviation of noise on the latents, so that imagined ones are read as well."""

    batch_size: int = 1024
    noise: float = 0.2


class HeadsTraining(nn.Module):
    """Args:
    latents: (N, C, h, w). labels: as in :class:`sana_wm.training.dynamics_stage.DynamicsTraining`.
    rows: frames to train on; each has a transition that led to it.
    """

    def __init__(self, heads: Heads, loss: HeadsLoss, latents: np.ndarray, labels: dict[str, np.ndarray],
                 rows: np.ndarray, seed: int):  # fmt: skip
        super().__init__()
        self.heads, self.config, self.seed = heads, loss, seed
        self.latents, self.labels, self.rows = latents, labels, rows

    def losses(self, step: int, progress: float) -> dict[str, Tensor]:
        device, c = self.heads.proprio_mean.device, self.config
        rows = np.sort(batch_rng(self.seed, step).choice(self.rows, c.batch_size))
        noise = noise_generator(self.seed, step, device)
        latents = torch.from_numpy(self.latents[rows].astype(np.float32)).to(device)
        level = c.noise * torch.rand(len(rows), 1, 1, 1, generator=noise, device=device)
        latents = latents + level * torch.randn(latents.shape, generator=noise, device=device)
        labels = {name: torch.from_numpy(values[rows]).to(device) for name, values in self.labels.items()}
        losses = self.heads.loss(latents, labels)
        nothing = 0 * self.heads.trunk[-1].bias.sum()  # a world without any label still has a loss to differentiate
        return losses | {"loss": sum(losses.values(), start=nothing)}
