"""TrigFlow: the circle on which SANA-Sprint is distilled and sampled (arXiv 2410.11081, 2503.09641; spec section 6).

    x_t = cos(t) x0 + sin(t) z,    t in [0, pi/2],    x0 = d * latent,    z = d * noise,    d = SIGMA_DATA

A flow model is a TrigFlow model seen from another angle: both mix a clean latent with noise, so a point of one path is
a point of the other once the ratio of noise to signal agrees, s / (1 - s) = tan(t), and the scale is put right. The
wrapping is exact and needs no training. A TrigFlow model predicts F with d F = E[cos(t) z - sin(t) x0 | x_t] = dx/dt of
its probability flow ODE, and one step of length t along the circle gives the clean latent: x0 = cos(t) x - sin(t) d F.

Here points x_t carry the factor d, as the paper writes them; networks are shown x_t / d.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SIGMA_DATA = 0.5
START = 1.57080  # of the releases' schedules: pi / 2, rounded up
_SAME_TIME = 1e-6
MIDDLE = 1.3  # of their two-step schedule
GUIDANCE_SCALE = 0.1  # a guidance scale enters the network's embedding times this

FlowModel = Callable[[Tensor, Tensor], Tensor]
TrigModel = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]


def per_lane(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, ...) with as many axes as ``like``, in its dtype; () stands for all lanes."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def flow_time(t: Tensor) -> Tensor:
    """s with s / (1 - s) = tan(t): in [0, 1] for t in [0, pi/2]."""
    return torch.sin(t) / (torch.sin(t) + torch.cos(t))


def trig_time(s: Tensor) -> Tensor:
    """Inverse of :func:`flow_time`."""
    return torch.atan2(s, 1 - s)


def flow_norm(s: Tensor) -> Tensor:
    """sqrt(s^2 + (1 - s)^2): the length of the flow path's coefficients, that of TrigFlow's being 1."""
    return torch.sqrt(s**2 + (1 - s) ** 2)


def flow_as_trigflow(velocity: FlowModel) -> TrigModel:
    """A flow model (x_s, s (B,) in 0..1) -> noise - latent, as a TrigFlow model (x_t / d, t (B,)) -> F.

    With x = x_t / d = (x_s) / norm(s):  F = ((1 - 2 s) x_s + (1 - 2 s + 2 s^2) v) / norm(s). (spec 6.1)
    Differentiable in both arguments, in forward mode too.
    """

    def field(x: Tensor, t: Tensor) -> Tensor:
        s = flow_time(t)
        s_lane = per_lane(s, x)
        norm = flow_norm(s_lane)
        x_flow = x * norm
        v = velocity(x_flow, s)
        return ((1 - 2 * s_lane) * x_flow + norm**2 * v.to(x.dtype)) / norm

    return field


def trigflow_as_flow(field: TrigModel) -> FlowModel:
    """Inverse of :func:`flow_as_trigflow`."""

    def velocity(x_flow: Tensor, s: Tensor) -> Tensor:
        s_lane = per_lane(s, x_flow)
        norm = flow_norm(s_lane)
        f = field(x_flow / norm, trig_time(s))
        return (norm * f.to(x_flow.dtype) - (1 - 2 * s_lane) * x_flow) / norm**2

    return velocity


def add_noise(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of clean latents and standard normal noise (both without d), t (B,) or ()."""
    t = per_lane(t, clean)
    return SIGMA_DATA * (torch.cos(t) * clean + torch.sin(t) * noise)


def predicted_clean(x: Tensor, f: Tensor, t: Tensor) -> Tensor:
    """d * latent from x_t and F: cos(t) x - sin(t) d F."""
    t = per_lane(t, x)
    return torch.cos(t) * x - torch.sin(t) * SIGMA_DATA * f.to(x.dtype)


def scm_schedule(steps: int = 2, times: Sequence[float] | None = None) -> Tensor:
    """Times of the consistency sampler: 1.57080 to 0 evenly, but for two steps, whose middle is at 1.3.

    Args:
        steps: network evaluations, 1 to 4 for the releases. times: given instead, steps + 1 falling values that end
            at 0.
    Returns: (steps + 1,) float32.

    Raises:
        ValueError: fewer than one step; times that do not fall to 0.
    """
    if times is not None:
        listed = [float(t) for t in times]
        falls = all(here > there for here, there in zip(listed, listed[1:], strict=False))
        if len(listed) < 2 or not falls or listed[0] > START or listed[-1] != 0:
            raise ValueError(f"times {listed}: expected falling values from at most {START} to 0")
        return torch.tensor(listed)
    if steps < 1:
        raise ValueError(f"a schedule has at least 1 step, got {steps}")
    if steps == 2:
        return torch.tensor([START, MIDDLE, 0.0])
    return torch.linspace(START, 0, steps + 1)


@torch.no_grad()
def scm_sample(
    field: TrigModel,
    x: Tensor,
    times: Tensor,
    noise_of_step: Callable[[int], Tensor],
    progress: Progress | None = None,
) -> Tensor:
    """Few-step consistency sampling: predict the clean latent, add fresh noise of the next time, and so on.

    Args:
        field: (x_t / d, t (B,)) -> F. x: (B, ...) at ``times[0]`` with its factor d: :func:`add_noise`, or d times
            noise where the schedule begins at pi / 2.
        times: (steps + 1,) falling to 0, of :func:`scm_schedule`.
        noise_of_step: step (1 for the first that needs any) -> standard normal noise of the shape of x.
        progress: called with (steps done, steps in all).
    Returns: (B, ...) clean latents without the factor d, in float32 at least.
    """
    steps = len(times) - 1
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    times = times.to(x.device)
    for step in range(steps):
        t = times[step].expand(len(x))
        clean = predicted_clean(x, field(x / SIGMA_DATA, t), t) / SIGMA_DATA
        if progress is not None:
            progress(step + 1, steps)
        if step + 1 < steps:
            x = add_noise(clean, noise_of_step(step + 1).to(x), times[step + 1])
    return clean


def image_start(clean: Tensor, noise: Tensor, times: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Where image-to-image begins: the picture's latent with the noise of a time that ``strength`` selects.

    The time is ``strength`` of the way to pure noise, and the schedule's times below it follow. Of an even schedule,
    this is what diffusers does where strength * steps is whole. Elsewhere diffusers begins at the next time of the
    schedule above: with the two steps of the releases, at pure noise for every strength beyond 0.5.

    Args:
        clean: (B, ...) latents of the picture, as the sampler returns them. noise: standard normal, alike.
        times: (steps + 1,) of :func:`scm_schedule`. strength: in (0, 1]; 1 keeps nothing of the picture.
    Returns: x at the first of the times, with its factor d; and the times.

    Raises:
        ValueError: a strength out of range.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength {strength}: expected more than 0 (nothing is changed) and at most 1 (all of it)")
    start = min(strength * START, float(times[0]))
    below = times[times < start - _SAME_TIME]
    first = times[(times - start).abs() <= _SAME_TIME][:1]  # the schedule's own time, to the bit, where it has it
    first = times.new_tensor([start]) if len(first) == 0 else first
    return add_noise(clean, noise, first[0].to(clean.device)), torch.cat([first, below])
