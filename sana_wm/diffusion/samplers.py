"""Flow Euler over a clip, over staggered chunks, and over a stream (SANA-WM, spec sections 6.1 and 7).

One timestep per latent frame: the frame of a given image stands at 0 and is never touched, finished chunks stand at 0
and are context. Noise is given, never drawn. Latents are updated in float32 at least (in the noise's dtype if that is
wider) and only rounded to the network's dtype for its eyes; the reference rounds them after every step, which is the
same where the network is float32. No gradients: samplers run under ``torch.no_grad``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sana_wm.diffusion.flow import TIMESTEPS, euler_step
from sana_wm.diffusion.guidance import Conditions, GuidedTransformer
from sana_wm.diffusion.schedules import chunk_starts, staggered_sigmas
from sana_wm.nn.state import StreamState

if TYPE_CHECKING:
    from sana_wm.models.transformer import SanaTransformer

__all__ = ["Conditions", "chunk_flow_euler", "flow_euler", "stream", "stream_chunk"]

Progress = Callable[[int, int], None]


@torch.no_grad()
def flow_euler(
    transformer: "SanaTransformer",
    noise: Tensor,
    conditions: Conditions,
    sigmas: Tensor,
    *,
    first: Tensor | None = None,
    guidance: float = 1.0,
    progress: Progress | None = None,
) -> Tensor:
    """Denoise a whole clip, all its frames together.

    Args:
        noise: (B, C, T, h, w) standard normal. conditions: of the T frames.
        sigmas: (steps + 1,) decreasing to 0, of :mod:`sana_wm.diffusion.schedules`.
        first: (B, C, 1, h, w) clean latent of the given image; it becomes frame 0, bit for bit.
        guidance: scale of classifier-free guidance, 1 for none.
        progress: called with (steps done, steps in all).
    Returns: (B, C, T, h, w) clean latents.

    Raises:
        ValueError: sigmas that do not fall to 0, shapes that do not fit, guidance without ``unconditional``.
    """
    x = _begin(noise, first)
    levels = _levels(_checked(sigmas)[:, None].expand(-1, x.shape[2]), first, x)
    guided = GuidedTransformer(transformer, conditions, guidance, len(x))
    for step in range(levels.steps):
        x = _step(guided, x, levels, step)
        _tell(progress, step + 1, levels.steps)
    return x


@torch.no_grad()
def chunk_flow_euler(
    transformer: "SanaTransformer",
    noise: Tensor,
    conditions: Conditions,
    sigmas: Tensor,
    *,
    first: Tensor | None = None,
    guidance: float = 1.0,
    chunks: Sequence[int] | None = None,
    interval: float | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Denoise a clip chunk after chunk, each a little behind the one before, without a memory (spec 7.2).

    At every global step the chunks that have begun pass through the network; those that are done are clean context.

    Args:
        chunks: sizes of the chunks; None: as the network is configured, one for a bidirectional network.
        interval: a chunk begins this part of the steps after the one before; None: 1 / number of chunks.
        progress: called with (global steps done, global steps in all).
        The others and the result as in :func:`flow_euler`.

    Raises:
        ValueError: as :func:`flow_euler`; chunks that do not divide the frames, an interval that is not positive.
    """
    x, config = _begin(noise, first), transformer.config
    frames = x.shape[2]
    if chunks is None and config.temporal == "bidirectional":
        options = {"first": first, "guidance": guidance, "progress": progress}
        return flow_euler(transformer, noise, conditions, sigmas, **options)
    sizes = config.chunks(frames) if chunks is None else tuple(chunks)
    if sum(sizes) != frames or min(sizes, default=0) < 1:
        raise ValueError(f"chunks {sizes} do not divide {frames} frames")
    sigmas = _checked(sigmas)
    starts = chunk_starts(len(sizes), len(sigmas) - 1, interval)
    levels = _levels(staggered_sigmas(sigmas, starts).repeat_interleave(torch.tensor(sizes), dim=1), first, x)
    guided = GuidedTransformer(transformer, conditions, guidance, len(x))
    for step in range(levels.steps):
        begun = sizes[: sum(start <= step for start in starts)]
        stop = sum(begun)
        active = _step(guided, x[:, :, :stop], levels, step, chunks=begun)
        x = torch.cat([active, x[:, :, stop:]], dim=2)
        _tell(progress, step + 1, levels.steps)
    return x


@torch.no_grad()
def stream_chunk(
    transformer: "SanaTransformer",
    state: StreamState | None,
    noise: Tensor,
    conditions: Conditions,
    sigmas: Tensor,
    *,
    first: Tensor | None = None,
    guidance: float = 1.0,
) -> tuple[Tensor, StreamState]:
    """Denoise the next chunk of a stream against its memory, then commit it: one more pass, clean, at timestep 0.

    The memory is read only while denoising. With guidance other than 1 the state has 2 B lanes, those of the negative
    prompt first (see :class:`sana_wm.diffusion.guidance.GuidedTransformer`); the published streaming model uses 1.

    Args:
        state: after the chunks before; None: a stream that has seen nothing.
        noise: (B, C, n, h, w). conditions: of these n frames.
        sigmas: (steps + 1,), such as :func:`sana_wm.diffusion.schedules.few_step_schedule`; on the host, so as not to
            wait for the device.
        first: (B, C, 1, h, w) frame 0 of this chunk, given and clean: for the first chunk of a stream.
    Returns: (B, C, n, h, w) clean latents, and the state after them.

    Raises:
        ValueError: as :func:`flow_euler`; a state of another number of lanes.
    """
    x = _begin(noise, first)
    frames = x.shape[2]
    levels = _levels(_checked(sigmas)[:, None].expand(-1, frames), first, x)
    guided = GuidedTransformer(transformer, conditions, guidance, len(x))
    state = guided.initial_state() if state is None else state
    guided.check_state(state)
    for step in range(levels.steps):
        x = _step(guided, x, levels, step, state=state, chunks=(frames,))
    return x, guided.commit(x, state)


def stream(
    transformer: "SanaTransformer",
    noise_of_chunk: Callable[[int, int], Tensor],
    conditions_of_chunk: Callable[[int, int], Conditions],
    sizes: Iterable[int],
    sigmas: Tensor,
    *,
    first: Tensor | None = None,
    guidance: float = 1.0,
    state: StreamState | None = None,
) -> Iterator[tuple[Tensor, StreamState]]:
    """Chunks of a stream, one after the other, for as long as ``sizes`` goes on; only the state is kept between them.

    Args:
        noise_of_chunk: (start, stop) -> (B, C, stop - start, h, w), called when the chunk's turn comes. Frames count
            from the first one of this call, be ``state`` given or not.
        conditions_of_chunk: (start, stop) -> Conditions of these frames; :meth:`Conditions.frames` of a clip is one.
        sizes: frames of each chunk; may be endless, such as ``itertools.repeat(3)``.
        first: (B, C, 1, h, w) frame 0 of the first chunk. state: to go on from; None: from nothing.
        The others as in :func:`stream_chunk`.
    Yields: (B, C, n, h, w) clean latents of a chunk, and the state after it.

    Raises:
        ValueError: as :func:`stream_chunk`; noise of another number of frames than the chunk has.
    """
    sigmas, start = sigmas.cpu(), 0
    for size in sizes:
        noise = noise_of_chunk(start, start + size)
        if noise.shape[2] != size:
            raise ValueError(f"noise of frames {start} to {start + size} has shape {tuple(noise.shape)}: "
                             f"expected {size} frames, (B, C, {size}, h, w)")  # fmt: skip
        told = conditions_of_chunk(start, start + size)
        latents, state = stream_chunk(transformer, state, noise, told, sigmas, first=first, guidance=guidance)
        first, start = None, start + size
        yield latents, state


def _checked(sigmas: Tensor) -> Tensor:
    """On the host: which frames move is decided there."""
    sigmas = sigmas.cpu()
    if sigmas.ndim != 1 or len(sigmas) < 2 or sigmas[-1] != 0 or not bool((sigmas.diff() < 0).all()):
        raise ValueError(f"sigmas {sigmas.tolist()}: expected (steps + 1,) values that fall to 0")
    return sigmas


def _begin(noise: Tensor, first: Tensor | None) -> Tensor:
    """Latents to start from, in the dtype that they are updated in."""
    if noise.ndim != 5 or not noise.shape[2]:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, expected (B, C, T, h, w) with at least one frame")
    x = noise.to(torch.promote_types(noise.dtype, torch.float32))
    if first is None:
        return x
    expected = (*x.shape[:2], 1, *x.shape[3:])
    if tuple(first.shape) != expected:
        raise ValueError(f"first has shape {tuple(first.shape)}, expected {expected}: one clean latent frame")
    return torch.cat([first.to(x), x[:, :, 1:]], dim=2)


class _Levels(NamedTuple):
    """Noise levels of every frame, G steps long.

    Attributes:
        moves: (G, T) bool, on the host: the frame's level falls in this step.
        timestep: (G, T) what the network is told. sigma: (G + 1, T) before each step, and after the last.
    """

    moves: Tensor
    timestep: Tensor
    sigma: Tensor

    @property
    def steps(self) -> int:
        return len(self.moves)


def _levels(sigma_GT: Tensor, first: Tensor | None, x: Tensor) -> _Levels:
    """For latents ``x``; a given first frame is clean throughout."""
    sigma_GT = sigma_GT.clone()
    if first is not None:
        sigma_GT[:, 0] = 0
    # Timesteps in the schedule's own dtype: a network that drops their fraction must see what the reference's sees.
    timestep = (TIMESTEPS * sigma_GT[:-1]).to(x.device, non_blocking=True)
    sigma = sigma_GT.to(x.device, x.dtype, non_blocking=True)
    return _Levels(sigma_GT[:-1] > sigma_GT[1:], timestep, sigma)


def _step(guided: GuidedTransformer, x: Tensor, levels: _Levels, step: int, **how) -> Tensor:
    """One Euler step of the frames (B, C, n, h, w) whose level falls; the others are copied through."""
    frames = x.shape[2]
    if not levels.moves[step, :frames].any():
        return x
    velocity = guided.velocity(x, levels.timestep[step, :frames], **how)
    sigma, following = levels.sigma[step : step + 2, :frames, None, None]
    return torch.where(sigma > following, euler_step(x, velocity, sigma, following), x)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
