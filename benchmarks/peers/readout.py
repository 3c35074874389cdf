"""What planning needs to know, read from frames or from latents: places, and reward and outcomes of places."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sana_wm.models.heads import WhereHead

OUTCOMES = ("reward", "terminated", "success")


class Readout(nn.Module, ABC):
    """Places (P values, dataset units) and the outcomes that follow from them; the base of both readouts.

    As in the heads of `sana_wm`, reward, termination and success are a small network of the places.
    """

    def __init__(self, places: int, hidden: int = 128):
        super().__init__()
        self.register_buffer("mean", torch.zeros(places))
        self.register_buffer("std", torch.ones(places))
        self.outcomes = nn.Sequential(
            nn.Linear(places, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, len(OUTCOMES))
        )

    def fit(self, proprio: Tensor) -> None:
        self.mean.copy_(proprio.mean(0))
        self.std.copy_(proprio.std(0))

    @abstractmethod
    def places(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, P), standardised."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, ...) -> proprio (N, P) in dataset units, reward (N,), probabilities terminated and success (N,)."""
        places = self.places(x)
        reward, terminated, success = self.outcomes(places).unbind(-1)
        return {"proprio": places * self.std + self.mean, "reward": reward, "terminated": terminated.sigmoid(),
                "success": success.sigmoid()}  # fmt: skip

    def loss(self, x: Tensor, proprio: Tensor, outcomes: Tensor) -> dict[str, Tensor]:
        """Squared error of standardised places and of reward, cross-entropy of the rest. outcomes: (N, 3)."""
        places = self.places(x)
        # reward must not pull places away from where things are
        said = self.outcomes(places.detach())
        parts = {
            "places": F.mse_loss(places, (proprio - self.mean) / self.std),
            "reward": F.mse_loss(said[:, 0], outcomes[:, 0]),
            "outcomes": F.binary_cross_entropy_with_logits(said[:, 1:], outcomes[:, 1:]),
        }
        return {"loss": sum(parts.values())} | parts


class FrameReadout(Readout):
    """A small CNN on scaled frames (N, 3, H, W), and the head for places that `sana_wm` has too."""

    def __init__(self, places: int, size: tuple[int, int], width: int = 32):
        super().__init__(places)
        grid = (size[0] // 8, size[1] // 8)
        self.see = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.where = WhereHead(2 * width, grid, places, 4 * width)

    def places(self, x: Tensor) -> Tensor:
        return self.where(self.see(x))


class LatentProbe(Readout):
    """An MLP on latent vectors (N, D)."""

    def __init__(self, places: int, width: int, hidden: int = 256):
        super().__init__(places)
        self.read = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, places)
        )

    def places(self, x: Tensor) -> Tensor:
        return self.read(x)
