"""A log that keeps what it was told, and a small thing to train."""

from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import nn

from sana_wm.training.batches import noise_generator


class QuietLog:
    """The interface of RunLog without a terminal, files or wandb."""

    def __init__(self):
        self.steps, self.values = [], []
        self.console = SimpleNamespace(print=lambda *_, **__: None)

    def scalars(self, step, values):
        self.values.append((step, values))

    @contextmanager
    def stage(self, name, total):
        yield lambda step, left, losses, share=None: self.steps.append(step)


class Regression(nn.Module):
    """Fits a linear map from noise that is a pure function of the step."""

    def __init__(self, width: int = 4):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(width, 8), nn.SiLU(), nn.Linear(8, 1))
        self.register_buffer("counted", torch.zeros(1))
        self.width = width

    def losses(self, step: int, progress: float) -> dict[str, torch.Tensor]:
        x = torch.randn(16, self.width, generator=noise_generator(0, step, torch.device("cpu")))
        self.counted += 1
        return {"loss": (self.net(x)[:, 0] - x.sum(1)).pow(2).mean()}
