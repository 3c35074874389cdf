"""Prompts to latents of videos: how members are sampled, and whole clips by DPM-Solver++ (sana_family spec 5, 7.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sana_wm.diffusion.dpm_solver import dpm_schedule, dpm_solver, integer_timestep
from sana_wm.diffusion.guidance import Conditions, GuidedTransformer
from sana_wm.diffusion.renoise import renoise_schedule
from sana_wm.diffusion.schedules import few_step_schedule
from sana_wm.generation.image_sampling import NULL_MASKS, Progress, Prompt, check_guidance, is_finite
from sana_wm.world.noise import lane_noise

if TYPE_CHECKING:
    from sana_wm.models.transformer import SanaTransformer

SAMPLERS = ("dpm-solver", "renoise")


@dataclass(frozen=True)
class ClipSampling:
    """How a video member is sampled.

    Attributes:
        sampler: ``"dpm-solver"`` for whole clips; ``"renoise"``, block after block, for LongSANA.
        steps: network evaluations (of a block), with guidance two halves each; of ``"renoise"`` also a list of
            timesteps that falls to 0, whose shift is in it already.
        shift: flow shift of the schedule. guidance: scale; 1 is none.
        null_mask: which tokens of the negative prompt the network reads. ``"negative"``: its own, as diffusers and
            NVlabs' code for video do; ``"prompt"``: as many as the prompt has.
        guided: sigmas between which there is guidance (dpm-solver).
        motion: score of the motion wanted, which is told behind the prompt; 0: nothing is.
        frames, fps: of a video, where nothing else is asked for.
    """

    sampler: str = "dpm-solver"
    steps: int | tuple[float, ...] = 50
    shift: float = 8.0
    guidance: float = 6.0
    null_mask: str = "negative"
    guided: tuple[float, float] = (0.0, 1.0)
    motion: int = 30
    frames: int = 81
    fps: float = 16.0

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler={self.sampler!r}: expected one of {SAMPLERS}")
        if self.null_mask not in NULL_MASKS:
            raise ValueError(f"null_mask={self.null_mask!r}: expected one of {NULL_MASKS}")
        check_guidance(self.guidance, self.guided)
        if not is_finite(self.motion) or self.motion != int(self.motion) or self.motion < 0:
            raise ValueError(f"motion={self.motion}: expected a whole number such as 30, or 0 for none")
        if self.sampler == "renoise" and tuple(self.guided) != (0.0, 1.0):
            raise ValueError(f"guided={self.guided}: a stream has one guidance at all levels; leave it out")
        self.schedule()

    @property
    def streams(self) -> bool:
        return self.sampler == "renoise"

    def schedule(self) -> Tensor:
        """(steps + 1,) sigmas.

        Raises:
            ValueError: no steps, a shift that makes no schedule, a list for the other sampler.
        """
        if not self.streams:
            if not isinstance(self.steps, int):
                raise ValueError(f"steps={self.steps}: expected a number; lists of timesteps are LongSANA's")
            return dpm_schedule(self.steps, self.shift)
        return few_step_schedule(self.steps) if not isinstance(self.steps, int) else renoise_schedule(
            self.steps, self.shift
        )  # fmt: skip

    def told(self, prompt: str) -> str:
        """The prompt with its score of motion, as the members read it in training."""
        return f"{prompt} motion score: {int(self.motion)}." if self.motion else prompt


_LONG = ClipSampling("renoise", steps=4, guidance=1.0, motion=10, frames=161)
SAMPLING = {  # spec 5.1; by the names of the family
    "sana-video-2b-480p": ClipSampling(),
    "sana-video-2b-720p": ClipSampling(),
    "longsana-2b-480p": _LONG,
}


def clip_noise(seeds: Sequence[int], start: int, stop: int, draw: int, shape: tuple[int, ...], device=None) -> Tensor:
    """Standard normal (B, C, n, h, w) of latent frames ``start`` to ``stop``, each a function of seed, number and draw.

    Args:
        seeds: of the B lanes. draw: 0 for the noise to begin from, k for that before step k. shape: (C, h, w).
    """
    frames = torch.arange(start, stop, device=device)
    lanes = torch.tensor(list(seeds), dtype=torch.int64, device=device)
    noise = lane_noise(lanes.repeat_interleave(len(frames)), frames.repeat(len(lanes)), draw, shape)
    return noise.unflatten(0, (len(lanes), len(frames))).transpose(1, 2)


@torch.no_grad()
def clip_conditions(
    transformer: SanaTransformer, prompt: Prompt, negative: Prompt | None, sampling: ClipSampling
) -> Conditions:
    """A prompt as the network reads it and, with guidance, the negative one; of B lanes, or of one for all.

    Raises:
        ValueError: as :meth:`Prompt.against`.
    """
    told = transformer.encode_text(*prompt)
    if sampling.guidance == 1:
        return Conditions(told)
    return Conditions(told, transformer.encode_text(*prompt.against(negative, sampling.guidance, sampling.null_mask)))


@torch.no_grad()
def clip_latents(
    transformer: SanaTransformer,
    noise: Tensor,
    conditions: Conditions,
    sampling: ClipSampling | None = None,
    *,
    first: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Denoise whole clips with DPM-Solver++ and classifier-free guidance, v = v_negative + s (v_prompt - v_negative).

    Args:
        noise: (B, C, T, h, w) standard normal. conditions: of :func:`clip_conditions`.
        first: (B, C, 1, h, w) clean latent of a given picture. It is frame 0 throughout, bit for bit, and the network
            is told time 0 for it; only the frames behind it are stepped.
        progress: called with (steps done, steps in all).
    Returns: (B, C, T, h, w) normalised latents, float32 at least.

    Raises:
        ValueError: guidance without a negative prompt, shapes that do not fit, the sampler of LongSANA.
    """
    sampling = sampling or ClipSampling()
    if sampling.streams:
        raise ValueError(f"sampler={sampling.sampler!r}: whole clips are made by 'dpm-solver'; see renoise_stream")
    lanes, frames = noise.shape[0], noise.shape[2]
    given = 0 if first is None else 1
    if given and first.shape != noise[:, :, :1].shape:
        raise ValueError(f"first has shape {tuple(first.shape)}, expected {tuple(noise[:, :, :1].shape)}: one frame")
    if frames <= given:
        raise ValueError(f"{frames} latent frames with a given first one: nothing is left to make; ask for more")
    guided = GuidedTransformer(transformer, conditions, sampling.guidance, lanes)
    (low, high), alone = sampling.guided, guided
    if (low, high) != (0, 1):
        alone = GuidedTransformer(transformer, conditions, 1.0, lanes)
    first = None if first is None else first.to(torch.promote_types(noise.dtype, torch.float32))

    def velocity(x: Tensor, sigma: float) -> Tensor:
        timestep = torch.full((frames,), integer_timestep(sigma) * transformer.config.timestep_scale, device=x.device)
        if given:
            x, timestep[0] = torch.cat([first, x], dim=2), 0
        asked = guided if low <= sigma <= high else alone
        return asked.velocity(x, timestep)[:, :, given:]

    made = dpm_solver(velocity, noise[:, :, given:], sampling.schedule(), progress=progress)
    return torch.cat([first, made], dim=2) if given else made
