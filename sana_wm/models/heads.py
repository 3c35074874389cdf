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
    cell_hidden: int = 128  # width of the network that all cells share
    max_side: int = 8  # larger grids are average-pooled to this
    outcome_hidden: int = 0  # width of a network from proprioception to reward, termination and success; 0: none

    def __post_init__(self):
        object.__setattr__(self, "grid", tuple(self.grid))

    def to_dict(self) -> dict:
        return asdict(self) | {"grid": list(self.grid)}


class WhereHead(nn.Module):
    """Values that are places: every cell says how far it is from the thing it sees, attention says which cell sees it.

    For each of P values, cell i offers ``anchor[i, p] + offset_p(i)`` and a logit; the value is the mean of the offers
    under the softmax of the logits over the cells (a soft-argmax with a learned anchor and offset). The network behind
    offsets and logits looks at 3x3 cells and is the same everywhere, so that what it learns of a small thing in one
    place holds in every other.
    """

    def __init__(self, channels: int, grid: tuple[int, int], values: int, hidden: int):
        super().__init__()
        self.seen = nn.Conv2d(channels, hidden, 3, padding=1)
        self.place = nn.Parameter(0.02 * torch.randn(hidden, *grid))
        self.mixed = nn.Conv2d(hidden, hidden, 1)
        self.offers = nn.Conv2d(hidden, 2 * values, 1)
        self.anchor = nn.Parameter(torch.zeros(values, *grid))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, P)."""
        x = F.silu(self.seen(x) + self.place)
        logits, offset = self.offers(F.silu(self.mixed(x))).chunk(2, dim=1)
        return (logits.flatten(2).softmax(-1) * (self.anchor + offset).flatten(2)).sum(-1)


class Heads(nn.Module):
    """One trunk on the flattened latent for everything; to proprioception it adds the places that the cells see.

    The heads read the frame that an action led to: reward and termination are functions of where the world arrived.
    With ``outcome_hidden`` they may look at proprioception as well: whether a place is reached is then as sharp as
    places are.
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
        self.where = WhereHead(c.channels, pooled, c.proprio_dim, c.cell_hidden) if c.proprio_dim else None
        self.outcome = None
        if c.outcome_hidden and c.proprio_dim:
            self.outcome = nn.Sequential(
                nn.Linear(c.proprio_dim, c.outcome_hidden),
                nn.SiLU(),
                nn.Linear(c.outcome_hidden, c.outcome_hidden),
                nn.SiLU(),
                nn.Linear(c.outcome_hidden, c.outcome_hidden),
                nn.SiLU(),
                nn.Linear(c.outcome_hidden, 3),
            )
        self.register_buffer("proprio_mean", torch.zeros(c.proprio_dim))
        self.register_buffer("proprio_std", torch.ones(c.proprio_dim))

    def forward(self, latents: Tensor, known: Tensor | None = None) -> dict[str, Tensor]:
        """latents (..., C, h, w) -> proprio (..., P) standardised, reward and logits of terminated, success (...).

        known: (..., P) standardised proprioception, where it is known better than the latents say it: outcomes follow.
        """
        lead = latents.shape[:-3]
        x = latents.reshape(-1, *latents.shape[-3:])
        x = F.adaptive_avg_pool2d(x, self.pooled) if self.pooled else x
        out = self.trunk(x.flatten(1))
        proprio, rest = out.split([self.config.proprio_dim, 3], dim=-1)
        if self.where is not None:
            proprio = proprio + self.where(x)
        if self.outcome is not None:
            # detached: places are learned from places alone
            rest = rest + self.outcome(proprio.detach() if known is None else known.reshape(-1, proprio.shape[-1]))
        reward, terminated, success = rest.reshape(*lead, 3).unbind(-1)
        proprio = proprio.reshape(*lead, self.config.proprio_dim)
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
