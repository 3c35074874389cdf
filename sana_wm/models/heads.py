"""Small networks that read a latent frame: reward, termination, success and proprioception."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class HeadsConfig:
    """What is predicted from a latent of shape (channels, *grid)."""

    channels: int
    grid: tuple[int, int]
    proprio_dim: int = 0
    reward: bool = False
    terminated: bool = False
    success: bool = False
    hidden: int = 512
    max_side: int = 8  # larger grids are average-pooled to this before they are flattened

    def __post_init__(self):
        object.__setattr__(self, "grid", tuple(self.grid))

    def to_dict(self) -> dict:
        return asdict(self) | {"grid": list(self.grid)}


class Heads(nn.Module):
    """One trunk on the flattened latent, one linear output for everything.

    The heads read the frame that an action led to: reward and termination are functions of where the world arrived.
    Positions are read from the flattened grid rather than from pooled features, because pooling forgets where.
    """

    def __init__(self, config: HeadsConfig):
        super().__init__()
        self.config = c = config
        pooled = tuple(min(side, c.max_side) for side in c.grid)
        self.pooled = pooled if pooled != c.grid else None
        self.trunk = nn.Sequential(
            nn.Linear(c.channels * pooled[0] * pooled[1], c.hidden),
            nn.SiLU(),
            nn.Linear(c.hidden, c.hidden),
            nn.SiLU(),
            nn.Linear(c.hidden, c.proprio_dim + 3),
        )
        self.register_buffer("proprio_mean", torch.zeros(c.proprio_dim))
        self.register_buffer("proprio_std", torch.ones(c.proprio_dim))

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """latents (..., C, h, w) -> proprio (..., P) standardised, reward and logits of terminated, success (...)."""
        lead = latents.shape[:-3]
        x = latents.reshape(-1, *latents.shape[-3:])
        x = F.adaptive_avg_pool2d(x, self.pooled) if self.pooled else x
        out = self.trunk(x.flatten(1)).unflatten(0, lead)
        proprio, rest = out.split([self.config.proprio_dim, 3], dim=-1)
        reward, terminated, success = rest.unbind(-1)
        return {"proprio": proprio, "reward": reward, "terminated": terminated, "success": success}

    def loss(self, latents: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Regression and cross-entropy losses for the targets given (proprio in its own units)."""
        out, c, losses = self(latents), self.config, {}
        if c.proprio_dim:
            target = (targets["proprio"] - self.proprio_mean) / self.proprio_std
            losses["proprio"] = F.smooth_l1_loss(out["proprio"], target, beta=0.1)
        if c.reward:
            losses["reward"] = F.smooth_l1_loss(out["reward"], targets["reward"], beta=0.1)
        for name in ("terminated", "success"):
            if getattr(c, name):
                losses[name] = F.binary_cross_entropy_with_logits(out[name], targets[name])
        return losses
