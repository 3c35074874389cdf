"""The refiner: a second, small pass that sharpens the picture of an imagined frame.

As in SANA-WM's two-stage generation (spec section 11) the first stage's latent is noised up to sigma and denoised
again by another network. Here that network also sees the proprioception imagined with the frame: what the first stage
leaves blurred, because one token carries the whole picture, is drawn again from the places of things.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.proprio import unpack


@dataclass(frozen=True)
class RefinerConfig:
    """sigma: how far the first stage's picture is noised before it is drawn again; 1 forgets it."""

    channels: int
    grid: tuple[int, int]
    proprio_dim: int
    hidden: int = 512
    depth: int = 3
    sigma: float = 0.8

    def __post_init__(self):
        object.__setattr__(self, "grid", tuple(self.grid))
        if not 0 < self.sigma <= 1:
            raise ValueError(f"refiner sigma {self.sigma}: expected 0 < sigma <= 1")

    def to_dict(self) -> dict:
        return asdict(self) | {"grid": list(self.grid)}


class RefinerBlock(nn.Module):
    """x + Linear(SiLU(Linear(LayerNorm(x)))), the identity at the start."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, width)
        self.linear_2 = nn.Linear(width, width)
        nn.init.zeros_(self.linear_2.weight)
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear_2(F.silu(self.linear_1(self.norm(x))))


class Refiner(nn.Module):
    """The whole frame as one vector: an autoencoder with attention lets every cell depend on all of the scene, and a
    network that cells share draws it with four times the error of this one (docs/recipe_log.md).

    Half of the first layer's features are sines, so that edges are within reach of a few layers (Fourier features;
    Tancik et al. 2020, with learned frequencies).
    """

    def __init__(self, config: RefinerConfig):
        super().__init__()
        self.config = c = config
        cells, known = c.channels * c.grid[0] * c.grid[1], c.proprio_dim + 1
        half = c.hidden // 2
        self.embed = nn.Linear(known + cells, c.hidden)
        self.blocks = nn.ModuleList(RefinerBlock(c.hidden) for _ in range(c.depth))
        self.out = nn.Linear(c.hidden, cells)
        with torch.no_grad():  # wavelengths from the whole scene down to a fraction of it
            self.embed.weight[half:, :known].normal_(std=1.0)
            self.embed.bias[half:].uniform_(-torch.pi, torch.pi)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, noised: Tensor, sigma: Tensor, proprio: Tensor) -> Tensor:
        """noised (N, C, h, w), sigma (N,) in [0, 1], standardised proprioception (N, P) -> clean (N, C, h, w)."""
        smooth, waves = self.embed(torch.cat([proprio, sigma[:, None], noised.flatten(1)], dim=-1)).chunk(2, dim=-1)
        x = torch.cat([F.silu(smooth), waves.sin()], dim=-1)
        for block in self.blocks:
            x = block(x)
        return self.out(x).reshape(noised.shape)

    def redraw(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Latents (N, C + K, h, w) of the first stage, picture and proprioception -> the same with a new picture.

        noise: (N, C, h, w).
        """
        c = self.config
        picture, rest = latents[:, : c.channels], latents[:, c.channels :]
        sigma = torch.full((len(latents),), c.sigma, device=latents.device)
        return torch.cat([self(noised_to(picture, noise, c.sigma), sigma, unpack(rest, c.proprio_dim)), rest], dim=1)


def noised_to(latents: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """(1 - sigma) x + sigma n, as in flow matching; sigma broadcasts."""
    return (1 - sigma) * latents + sigma * noise
