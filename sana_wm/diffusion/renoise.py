"""Few steps of prediction and fresh noise, over a stream of blocks: the sampler of LongSANA (sana_family spec 8.2).

At each level s of a short list the distilled network predicts the clean block from x_s, with the memory of the blocks
before it, and the prediction is noised anew to the next level:

    x0_hat = x_s - s v(x_s, 1000 s),    x_next = (1 - s_next) x0_hat + s_next * (new noise).

The last prediction is the block. One more pass reads it, clean and at timestep 0, and writes it into the memory: the
sums of linear attention and the last frame of each temporal convolution, whose size does not depend on how much they
have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sana_wm.diffusion.flow import TIMESTEPS, interpolate, shift_sigma
from sana_wm.diffusion.guidance import Conditions, GuidedTransformer
from sana_wm.diffusion.schedules import few_step_schedule
from sana_wm.nn.state import StreamState

if TYPE_CHECKING:
    from sana_wm.models.transformer import SanaTransformer

NoiseOfDraw = Callable[[int], Tensor]
Progress = Callable[[int, int], None]


def renoise_schedule(steps: int, shift: float = 8.0) -> Tensor:
    """(steps + 1,) sigmas down to 0: evenly spaced, shifted, and rounded to whole timesteps as the release's list is.

    >>> (1000 * renoise_schedule(4)).int().tolist()
    [1000, 960, 889, 727, 0]

    Raises:
        ValueError: fewer than one step; a shift that is not positive, or so large that steps fall together.
    """
    if steps < 1:
        raise ValueError(f"a schedule has at least 1 step, got {steps}")
    if not shift > 0:
        raise ValueError(f"flow shift {shift} must be positive: 8 is LongSANA's, 1 is none")
    even = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    return few_step_schedule([round(t) for t in (TIMESTEPS * shift_sigma(even, shift)).tolist()] + [0])


@torch.no_grad()
def renoise_block(
    transformer: SanaTransformer,
    state: StreamState | None,
    noise_of_draw: NoiseOfDraw,
    conditions: Conditions,
    sigmas: Tensor,
    *,
    first: Tensor | None = None,
    guidance: float = 1.0,
    progress: Progress | None = None,
) -> tuple[Tensor, StreamState]:
    """Make the next block of a stream and write it into the memory, which is only read until then.

    Args:
        state: after the blocks before; None: a stream that has seen nothing. With guidance other than 1 it has 2 B
            lanes, see :class:`~sana_wm.diffusion.guidance.GuidedTransformer`; the released model is made for 1.
        noise_of_draw: 0 -> the block's first noise (B, C, n, h, w), k -> that before step k, of the same shape.
        conditions: the text of this block. sigmas: (steps + 1,), falling to 0.
        first: (B, C, 1, h, w) clean latent of a given picture; it is frame 0 of this block, at timestep 0.
        progress: called with (passes done, passes in all).
    Returns: (B, C, n, h, w) clean latents, float32 at least, and the state after them.

    Raises:
        ValueError: sigmas that do not fall to 0, shapes that do not fit, a state of another number of lanes.
    """
    levels = sigmas.tolist()
    falls = all(here > there for here, there in zip(levels, levels[1:], strict=False))
    if len(levels) < 2 or not falls or levels[0] > 1 or levels[-1] != 0:
        raise ValueError(f"sigmas {levels}: expected (steps + 1,) values that fall from at most 1 to 0")
    noise = noise_of_draw(0)
    wide = torch.promote_types(noise.dtype, torch.float32)
    lanes, _, frames, *grid = noise.shape
    if first is not None and first.shape != noise[:, :, :1].shape:
        raise ValueError(f"first has shape {tuple(first.shape)}, expected {tuple(noise[:, :, :1].shape)}: one frame")
    guided = GuidedTransformer(transformer, conditions, guidance, lanes)
    state = transformer.initial_state(guided.lanes, tuple(grid)) if state is None else state
    guided.check_state(state)

    def given(x: Tensor) -> Tensor:
        return x if first is None else torch.cat([first.to(x), x[:, :, 1:]], dim=2)

    # Timesteps in the schedule's own dtype: a network that drops their fraction must see the list's whole numbers.
    timesteps = (TIMESTEPS * sigmas[:-1])[:, None].repeat(1, frames).to(noise.device)
    if first is not None:
        timesteps[:, 0] = 0
    x, clean = given(noise.to(wide)), None
    for step, sigma in enumerate(levels[:-1]):
        if step:
            x = given(interpolate(clean, noise_of_draw(step).to(x), sigma))
        velocity = guided.velocity(x, timesteps[step], state, (frames,))
        clean = given(x - sigma * velocity)
        _tell(progress, step + 1, len(levels))
    state = guided.commit(clean, state)
    _tell(progress, len(levels), len(levels))
    return clean, state


def renoise_stream(
    transformer: SanaTransformer,
    noise_of_block: Callable[[int, int, int], Tensor],
    conditions_of_block: Callable[[int, int], Conditions],
    sizes: Iterable[int],
    sigmas: Tensor,
    *,
    first: Tensor | None = None,
    guidance: float = 1.0,
    state: StreamState | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Tensor, StreamState]]:
    """Blocks of a stream, one after the other, for as long as ``sizes`` goes on; only the state is kept between them.

    Args:
        noise_of_block: (start, stop, draw) -> (B, C, stop - start, h, w), called when a block's step needs it.
        conditions_of_block: (start, stop) -> what these latent frames are told; the prompt may change with every block.
        sizes: latent frames of each block, such as ``transformer.config.chunks(frames)``; may be endless.
        first: of the first block. state: to go on from; frames count from the first one of this call all the same.
        The others as in :func:`renoise_block`.
    Yields: (B, C, n, h, w) clean latents of a block, and the state after it.
    """
    start = 0
    for size in sizes:
        stop = start + size

        def noise_of_draw(draw: int, start: int = start, stop: int = stop) -> Tensor:
            return noise_of_block(start, stop, draw)

        told = conditions_of_block(start, stop)
        how = {"first": first, "guidance": guidance, "progress": progress}
        latents, state = renoise_block(transformer, state, noise_of_draw, told, sigmas, **how)
        first, start = None, stop
        yield latents, state


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
