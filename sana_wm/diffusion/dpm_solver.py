"""Flow DPM-Solver++ 2M: the multistep sampler of SANA's images and videos (arXiv 2211.01095; sana_family spec 5.2).

On the flow path x_s = (1 - s) x0 + s noise, with alpha = 1 - s and half-log-SNR l = log(alpha / s), the probability
flow ODE has the solution

    x_t = (t / s) x_s + t * integral over l of exp(l) x0_hat(x_l, l) dl    from l_s to l_t,

in which only the predicted clean latent x0_hat is unknown. It is taken as constant over a step (order 1, the same as an
Euler step of the velocity) or as a line in l through this prediction and the one before (order 2, midpoint form). The
step that ends at s = 0 has an infinite length in l and is of order 1: it returns the prediction.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sana_wm.diffusion.flow import TIMESTEPS, shift_sigma

Velocity = Callable[[Tensor, float], Tensor]
Progress = Callable[[int, int], None]


class Prediction(NamedTuple):
    """A predicted clean latent and the sigma at which it was made: what the next step remembers of this one."""

    clean: Tensor
    sigma: float


def dpm_schedule(steps: int, shift: float) -> Tensor:
    """Sigmas of diffusers' ``DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=shift)``.

    Evenly spaced from 1 - 1/1000 down to 0, then shifted; the last step goes from the last but one to 0.

    Args:
        steps: network evaluations. shift: 3 for most of the family, see the table of spec section 5.1.
    Returns: (steps + 1,) float64.

    Raises:
        ValueError: fewer than one step; a shift that is not positive.
    """
    if steps < 1:
        raise ValueError(f"a schedule has at least 1 step, got {steps}")
    if not shift > 0:
        raise ValueError(f"flow shift {shift} must be positive: 3 is SANA's at 1024 pixels, 1 is none")
    # numpy's spacing, to the last bit: where 1000 sigma is a whole number, torch's falls just below it at times, and
    # the network is told the number below.
    even = torch.from_numpy(1 - np.linspace(1, 1 / TIMESTEPS, steps + 1))
    return shift_sigma(even, shift).flip(0)


def integer_timestep(sigma: float) -> float:
    """What the network is told of a sigma: 1000 sigma without its fraction, as this sampler of the releases does."""
    return float(math.trunc(TIMESTEPS * sigma))


def _log_snr(sigma: float) -> float:
    """log((1 - s) / s), -inf at pure noise."""
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def dpm_step(x: Tensor, now: Prediction, sigma_next: float, before: Prediction | None = None) -> Tensor:
    """One step from ``now.sigma`` down to ``sigma_next``.

    Args:
        x: the latent at ``now.sigma``. now: the prediction made from it. before: that of the step before, at a larger
            sigma; None: a step of order 1.
    """
    sigma, clean = now.sigma, now.clean
    if not 0 <= sigma_next < sigma <= 1:
        raise ValueError(f"a step goes down within [0, 1], got sigma {sigma} to {sigma_next}")
    if before is not None and sigma_next > 0:
        if not before.sigma > sigma:
            raise ValueError(f"the prediction before was made at sigma {before.sigma}, expected more than {sigma}")
        step, last = _log_snr(sigma_next) - _log_snr(sigma), _log_snr(sigma) - _log_snr(before.sigma)
        clean = clean + 0.5 * step / last * (clean - before.clean)  # half a step ahead on the line
    ratio = sigma_next / sigma
    return ratio * x + (1 - sigma_next - (1 - sigma) * ratio) * clean


@torch.no_grad()
def dpm_solver(
    velocity: Velocity,
    noise: Tensor,
    sigmas: Tensor,
    *,
    order: int = 2,
    progress: Progress | None = None,
) -> Tensor:
    """Denoise along the schedule.

    Args:
        velocity: (x, sigma) -> noise - x0, of the shape of ``x``; what the network is told of sigma is its own affair
            (:func:`integer_timestep`).
        noise: standard normal, any shape. Latents are kept in float32 at least.
        sigmas: (steps + 1,) decreasing to 0, of :func:`dpm_schedule`.
        order: 1 or 2. progress: called with (steps done, steps in all).
    Returns: clean latents, as ``noise``.

    Raises:
        ValueError: sigmas that do not fall to 0, another order.
    """
    levels = sigmas.tolist()
    falls = all(here > there for here, there in zip(levels, levels[1:], strict=False))
    if len(levels) < 2 or not falls or levels[0] > 1 or levels[-1] != 0:
        raise ValueError(f"sigmas {levels}: expected (steps + 1,) values that fall from at most 1 to 0")
    if order not in (1, 2):
        raise ValueError(f"order {order}: expected 1 or 2")
    x, before = noise.to(torch.promote_types(noise.dtype, torch.float32)), None
    for step, (sigma, sigma_next) in enumerate(zip(levels, levels[1:], strict=False)):
        now = Prediction(x - sigma * velocity(x, sigma).to(x.dtype), sigma)
        x = dpm_step(x, now, sigma_next, before if order == 2 else None)
        before = now
        if progress is not None:
            progress(step + 1, len(levels) - 1)
    return x
