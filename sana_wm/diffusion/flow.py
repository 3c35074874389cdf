"""Flow matching between a clean latent and a start point (SANA-WM, spec sections 7 and 9.3).

With start point x1 and clean x0 the path is x_s = (1 - s) x0 + s x1, the velocity v = x1 - x0, the timestep 1000 s.
The start point is pure noise, as in the published model, or the previous frame plus ``start_noise`` times noise: for
small steps of the world that is a much shorter way (measured in the spec's recipe notes).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TIMESTEPS = 1000.0


@dataclass(frozen=True)
class FlowConfig:
    """How a frame is generated.

    Attributes:
        start: ``"noise"`` or ``"previous"`` (plus ``start_noise`` times noise).
        prediction: what the network's output means. ``"velocity"``: v itself, from x. ``"change"``: x0 minus the
            previous frame, from (1 - s)(x - previous). At s = 1 a start at the previous frame says nothing about x0
            and this input is zero, so that a narrow network has no noise to carry through.
        steps: Euler steps of a rollout. shift: flow shift of the sigma grid.
    """

    start: str = "previous"
    prediction: str = "velocity"
    start_noise: float = 0.4
    steps: int = 2
    shift: float = 1.0

    def __post_init__(self):
        if self.start not in ("noise", "previous"):
            raise ValueError(f"flow start {self.start!r}: expected 'noise' or 'previous'")
        if self.prediction not in ("velocity", "change"):
            raise ValueError(f"flow prediction {self.prediction!r}: expected 'velocity' or 'change'")
        if self.prediction == "change" and self.start != "previous":
            raise ValueError("flow prediction 'change' goes with start 'previous'")
        if self.steps < 1:
            raise ValueError(f"flow steps must be at least 1, got {self.steps}")


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Flow shift: s sigma / (1 + (s - 1) sigma)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigma_grid(steps: int, shift: float = 1.0, device: torch.device | str = "cpu") -> Tensor:
    """(steps + 1,) from 1 to 0."""
    return shift_sigma(torch.linspace(1.0, 0.0, steps + 1, device=device), shift)


def start_point(config: FlowConfig, previous: Tensor, noise: Tensor) -> Tensor:
    """x1 of the path."""
    return noise if config.start == "noise" else previous + config.start_noise * noise


def interpolate(clean: Tensor, start: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma; sigma broadcasts."""
    return (1 - sigma) * clean + sigma * start


def euler_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """x - (sigma - sigma_next) v."""
    return x - (sigma - sigma_next) * velocity


def network_input(config: FlowConfig, x: Tensor, previous: Tensor, sigma: Tensor | float) -> Tensor:
    """What the network is shown of x_sigma."""
    return x if config.prediction == "velocity" else (1 - sigma) * (x - previous)


def predicted_clean(config: FlowConfig, output: Tensor, x: Tensor, previous: Tensor, sigma: Tensor) -> Tensor:
    """x0 from the network's output."""
    return x - sigma * output if config.prediction == "velocity" else previous + output


def predicted_velocity(config: FlowConfig, output: Tensor, x: Tensor, previous: Tensor, sigma: Tensor) -> Tensor:
    """v from the network's output; sigma > 0."""
    return output if config.prediction == "velocity" else (x - previous - output) / sigma
