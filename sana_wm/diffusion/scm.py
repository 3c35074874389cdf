"""sCM: continuous-time consistency distillation of a TrigFlow model (arXiv 2410.11081, 2503.09641; spec section 6.4).

A consistency function f(x_t, t) = cos(t) x_t - sin(t) d F(x_t, t) is constant along the teacher's ODE. The loss asks
that its derivative along the ODE vanish, with the derivative of the network by forward-mode differentiation instead of
a finite step. Everything is a function of tensors that are given; networks enter as functions (x_t / d, t) -> F.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sana_wm.diffusion.trigflow import SIGMA_DATA, TrigModel, add_noise, per_lane, predicted_clean

TIME_MEAN, TIME_STD = 0.2, 1.6  # of the log-SNR-like normal that times are drawn from
WARM_UP = 4000  # optimiser steps until the whole of the tangent counts
TANGENT_FLOOR = 0.1


class ScmLoss(NamedTuple):
    """loss: scalar. clean (B, ...): the student's one-step latents, with gradients. tangent_norm (B,), for the
    log: |g| before it is normalised."""

    loss: Tensor
    clean: Tensor
    tangent_norm: Tensor


class Tangent(NamedTuple):
    """f (B, ...): F. g (B, ...): normalised. norm (B,): |g| before that."""

    f: Tensor
    g: Tensor
    norm: Tensor


class LogVariance(nn.Module):
    """How uncertain the loss is at a time: learned weights of the loss, of the network's embedding of the time."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedded_time: Tensor) -> Tensor:
        """(B, width) -> (B,)."""
        return self.linear(embedded_time)[..., 0]


def training_times(normal: Tensor, mean: float = TIME_MEAN, std: float = TIME_STD) -> Tensor:
    """Standard normal numbers -> t = arctan(exp(mean + std n) / d), in (0, pi/2)."""
    return torch.atan(torch.exp(mean + std * normal) / SIGMA_DATA)


def warm_up(step: int, steps: int = WARM_UP) -> float:
    """How much of the second part of the tangent counts: 0 to 1 over the first steps."""
    return min(1.0, step / steps)


def guided(conditional: Tensor, unconditional: Tensor, scale: Tensor | float) -> Tensor:
    """Classifier-free guidance of the teacher, u + scale (c - u); scale () or (B,)."""
    scale = torch.as_tensor(scale, device=conditional.device)
    return unconditional + per_lane(scale, conditional) * (conditional - unconditional)


@torch.no_grad()
def scm_tangent(student: TrigModel, x: Tensor, t: Tensor, ode: Tensor, warmed: float) -> Tangent:
    """The student's F at x_t, and minus the tangent d f / dt of its consistency function (times cos t), normalised.

        g = -cos^2(t) (d F - dx/dt) - r (cos(t) sin(t) x_t + d F'),   g / (|g| + 0.1)

    with F' the derivative of F along (dx/dt, 1) times cos(t) sin(t), and |g| the norm over all axes of a lane.

    Args:
        student: (x_t / d, t (B,)) -> F; every operation in it must have a forward derivative. Torch's own attention is
            run in its plain form here, which has one; kernels of others have none.
        x: (B, ...) at t (B,), with its factor d. ode: dx/dt of the teacher, alike. warmed: r, in [0, 1].
    Returns: without gradients.
    """
    lane = per_lane(t, x)
    cos, sin = torch.cos(lane), torch.sin(lane)
    tangents = (cos * sin * ode / SIGMA_DATA, torch.cos(t) * torch.sin(t))
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivative
        f, derivative = torch.func.jvp(student, (x / SIGMA_DATA, t), tangents)
    g = -(cos**2) * (SIGMA_DATA * f - ode) - warmed * (cos * sin * x + SIGMA_DATA * derivative)
    norm = _norm(g)
    return Tangent(f, g / (norm + TANGENT_FLOOR), norm.flatten())


def scm_loss(
    student: TrigModel,
    teacher: TrigModel,
    latents: Tensor,
    noise: Tensor,
    t: Tensor,
    log_variance: Tensor,
    warmed: float = 1.0,
) -> ScmLoss:
    """mean of exp(-w) / (d tan t) (F - F_ - g)^2 + w, where F_ is F without gradient.

    Args:
        student, teacher: (x_t / d, t (B,)) -> F; the teacher with its guidance in it, :func:`guided`.
        latents, noise: (B, ...), both without the factor d. t: (B,) of :func:`training_times`.
        log_variance: w (B,), learned. warmed: of :func:`warm_up`.
    """
    x = add_noise(latents, noise, t)
    with torch.no_grad():
        ode = SIGMA_DATA * teacher(x / SIGMA_DATA, t)
    fixed, g, norm = scm_tangent(student, x, t, ode, warmed)
    f = student(x / SIGMA_DATA, t)
    w = per_lane(log_variance, x)
    weight = torch.exp(-w) / (SIGMA_DATA * torch.tan(per_lane(t, x)))
    loss = (weight * (f - fixed - g) ** 2 + w).mean()
    return ScmLoss(loss, predicted_clean(x, f, t) / SIGMA_DATA, norm)


def _norm(x: Tensor) -> Tensor:
    """Of each lane, (B, 1, 1, ...)."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
