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
    hidden: int = 192
    depth: int = 3
    sigma: float = 0.8

    def __post_init__(self):
        object.__setattr__(self, "grid", tuple(self.grid))
        if not 0 < self.sigma <= 1:
            raise ValueError(f"refiner sigma {self.sigma}: expected 0 < sigma <= 1")

    def to_dict(self) -> dict:
        return asdict(self) | {"grid": list(self.grid)}


class Refiner(nn.Module):
    """One network that all cells share: what a cell shows follows from the places of things relative to it.

    Its first layer sees the cell's place, proprioception, sigma and 3x3 noised cells; half of its features are sines,
    so that edges are within reach of a few layers (Fourier features; Tancik et al. 2020, with learned frequencies).
    """

    def __init__(self, config: RefinerConfig):
        super().__init__()
        self.config = c = config
        half = c.hidden // 2
        self.noised = nn.Conv2d(c.channels, c.hidden, 3, padding=1)
        self.known = nn.Linear(c.proprio_dim + 1, c.hidden)
        rows = torch.linspace(-1, 1, c.grid[0]) if c.grid[0] > 1 else torch.zeros(1)
        columns = torch.linspace(-1, 1, c.grid[1]) if c.grid[1] > 1 else torch.zeros(1)
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        self.register_buffer("place", place.flatten(1).T.contiguous(), persistent=False)
        self.placed = nn.Linear(2, c.hidden, bias=False)
        self.layers = nn.ModuleList(nn.Linear(c.hidden, c.hidden) for _ in range(c.depth))
        self.out = nn.Linear(c.hidden, c.channels)
        with torch.no_grad():  # wavelengths from the whole scene down to a fraction of a cell
            self.known.weight[half:].normal_(std=1.0)
            self.placed.weight[half:].normal_(std=1.5)
            self.known.bias[half:].uniform_(-torch.pi, torch.pi)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, noised: Tensor, sigma: Tensor, proprio: Tensor) -> Tensor:
        """noised (N, C, h, w), sigma (N,) in [0, 1], standardised proprioception (N, P) -> clean (N, C, h, w)."""
        cells = self.noised(noised).flatten(2).mT  # N S H
        known = self.known(torch.cat([proprio, sigma[:, None]], dim=-1))[:, None]
        x = cells + known + self.placed(self.place.to(cells.dtype))
        smooth, waves = x.chunk(2, dim=-1)
        x = torch.cat([F.silu(smooth), waves.sin()], dim=-1)
        for layer in self.layers:
            x = x + F.silu(layer(x))
        return self.out(x).mT.unflatten(2, self.config.grid)

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
