"""A mixture of Gaussians in the plane whose TrigFlow field is known exactly: a teacher without a network."""

import math

import torch
from torch import nn

MEANS, VARIANCE = torch.tensor([[1.0, 1.0], [-1.2, 0.3], [0.2, -1.1]]), 0.04


def draw(count, generator):
    """(count, 2) latents."""
    noise = torch.randn(count, 2, generator=generator)
    return MEANS[torch.randint(len(MEANS), (count,), generator=generator)] + VARIANCE**0.5 * noise


def field(u, t):
    """E[cos(t) noise - sin(t) latent | u = cos(t) latent + sin(t) noise]."""
    cos, sin = torch.cos(t)[:, None, None], torch.sin(t)[:, None, None]
    variance, away = cos**2 * VARIANCE + sin**2, u[:, None] - cos * MEANS
    weight = torch.softmax(-(away**2).sum(-1, keepdim=True) / 2 / variance, dim=1)
    latent, noise = MEANS + cos * VARIANCE / variance * away, sin / variance * away
    return (weight * (cos * noise - sin * latent)).sum(1)


def teacher_samples(noise, steps=50):
    """Heun's method along the probability flow ODE."""
    times = torch.linspace(math.pi / 2, 0, steps + 1)
    u = noise
    for t, following in zip(times[:-1], times[1:], strict=True):
        slope = field(u, t.expand(len(u)))
        ahead = field(u + (following - t) * slope, following.expand(len(u)))
        u = u + (following - t) / 2 * (slope + ahead)
    return u


def energy_distance(a, b):
    """0 for equal distributions."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


class Student(nn.Module):
    """(u (B, 2), t (B,)) -> F."""

    def __init__(self, width=96):
        super().__init__()
        widths = (4, width, width, width)
        layers = [part for i, o in zip(widths, widths[1:], strict=False) for part in (nn.Linear(i, o), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, u, t):
        return self.layers(torch.cat([u, torch.cos(t)[:, None], torch.sin(t)[:, None]], dim=1))
