"""Noise levels of the samplers: sigmas from 1 to 0, for one clip and for chunks that start one after the other.

The published models read timesteps without their fraction, so schedules are float32 and equal to the reference's bit
for bit: a timestep of 960 that comes out as 959.9999 would be read as 959 (SANA-WM, spec section 7 and traps 14, 17).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sana_wm.diffusion.flow import TIMESTEPS, shift_sigma

FEW_STEPS = (1000, 960, 889, 727, 0)  # of the streaming release: shift 8 of 1, 0.75, 0.5, 0.25, rounded
FEW_STEPS_TRAINING = (1000, 967, 908, 764, 0)  # of its training configurations; not to be mixed with the other


def flow_schedule(steps: int, shift: float = 9.8, device: torch.device | str = "cpu") -> Tensor:
    """Sigmas of the bidirectional model: those of diffusers' ``FlowMatchEulerDiscreteScheduler(shift=shift)``.

    That scheduler shifts the ends of its range (1 and 1/1000) when it is built, spaces the steps evenly between the
    shifted ends and shifts the result once more, so the last step is a long one: at 9.8 it goes from 0.0877 to 0.
    :func:`sana_wm.diffusion.flow.sigma_grid` shifts once, and is another schedule.

    Returns: (steps + 1,) float32.

    Raises:
        ValueError: fewer than one step; a shift that is not positive.
    """
    if steps < 1:
        raise ValueError(f"a schedule has at least 1 step, got {steps}")
    if not shift > 0:
        raise ValueError(f"flow shift {shift} must be positive: 9.8 is the published one, 1 is none")
    largest, smallest = shift_sigma(torch.tensor([TIMESTEPS, 1.0]) / TIMESTEPS, shift).tolist()
    even = torch.linspace(largest, smallest, steps, dtype=torch.float64)
    sigmas = shift_sigma(even, shift).float()
    return torch.cat([sigmas, torch.zeros(1)]).to(device)


def few_step_schedule(timesteps: Sequence[float] = FEW_STEPS) -> Tensor:
    """Sigmas of a denoising-step list of a distilled model, verbatim: its shift is in the list already.

    Args:
        timesteps: decreasing, from 1000 or less to 0.
    Returns: (len(timesteps),) float32; times 1000 and without fraction they are the integers of the list again.

    Raises:
        ValueError: a list that does not go down to 0 step by step, or begins above 1000.
    """
    listed = [float(t) for t in timesteps]
    falls = all(here > there for here, there in zip(listed, listed[1:], strict=False))
    if len(listed) < 2 or not falls or not listed[0] <= TIMESTEPS or listed[-1] != 0:
        raise ValueError(
            f"denoising steps {tuple(timesteps)}: expected a decreasing list from at most {TIMESTEPS:g} to 0, "
            f"such as {FEW_STEPS}"
        )
    sigmas = torch.tensor(listed, dtype=torch.float64).div(TIMESTEPS).float()
    lost = (sigmas * TIMESTEPS).floor() < torch.tensor(listed, dtype=torch.float64).floor()
    return torch.where(lost, sigmas.nextafter(torch.ones(())), sigmas)


def chunk_starts(num_chunks: int, steps: int, interval: float | None = None) -> tuple[int, ...]:
    """Global step at which each chunk begins: floor(i * interval * steps), in double precision as the reference does.

    Args:
        steps: Euler steps of one chunk.
        interval: part of a chunk's steps after which the next one begins; None: 1 / num_chunks. From 1 on, chunks
            follow each other without overlap.

    Raises:
        ValueError: an interval that is not positive.
    """
    interval = 1 / num_chunks if interval is None else interval
    if not interval > 0:
        raise ValueError(f"interval {interval} between the starts of chunks must be positive, 1 / chunks by default")
    return tuple(math.floor(i * float(interval) * steps) for i in range(num_chunks))


def staggered_sigmas(sigmas: Tensor, starts: Sequence[int]) -> Tensor:
    """Levels of chunks that go through the same schedule, each from its own global step on.

    Args:
        sigmas: (steps + 1,). starts: of :func:`chunk_starts`.
    Returns: (last start + steps + 1, chunks); row g holds the levels before global step g. A chunk that has not begun
        stands at the first sigma, one that is done at the last.
    """
    steps = len(sigmas) - 1
    clock = torch.arange(starts[-1] + steps + 1)[:, None] - torch.tensor(list(starts))
    return sigmas[clock.clamp(0, steps).to(sigmas.device)]
