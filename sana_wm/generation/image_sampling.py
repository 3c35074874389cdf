"""Prompts to latents of images: SANA by DPM-Solver++ with guidance, Sprint by few consistency steps (spec 5 and 6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sana_wm.diffusion.dpm_solver import Velocity, dpm_schedule, dpm_solver, integer_timestep
from sana_wm.diffusion.trigflow import (
    GUIDANCE_SCALE,
    SIGMA_DATA,
    flow_as_trigflow,
    image_start,
    scm_sample,
    scm_schedule,
)  # fmt: skip

if TYPE_CHECKING:
    from sana_wm.models.transformer import SanaTransformer

Progress = Callable[[int, int], None]
SAMPLERS = ("dpm-solver", "scm")
NULL_MASKS = ("prompt", "negative")


@dataclass(frozen=True)
class Sampling:
    """How a member is sampled.

    Attributes:
        sampler: ``"dpm-solver"``, or ``"scm"`` for Sprint. steps: network evaluations, with guidance two halves each.
        shift: flow shift of the schedule (dpm-solver). times: of the consistency sampler, None: the released ones.
        guidance: scale; 1 is none. Sprint has it in its weights and is told the scale.
        null_mask: which tokens of the negative prompt the network reads. ``"prompt"``: as many as the prompt has, as
            NVlabs' code does and as captions were dropped in training; ``"negative"``: its own, as diffusers does.
        guided: sigmas between which there is guidance; outside of them the prompt alone counts, at half the price.
    """

    sampler: str = "dpm-solver"
    steps: int = 20
    shift: float = 3.0
    times: tuple[float, ...] | None = None
    guidance: float = 4.5
    null_mask: str = "prompt"
    guided: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler={self.sampler!r}: expected one of {SAMPLERS}")
        if self.null_mask not in NULL_MASKS:
            raise ValueError(f"null_mask={self.null_mask!r}: expected one of {NULL_MASKS}")
        check_guidance(self.guidance, self.guided)
        if self.times is not None and self.sampler != "scm":
            raise ValueError("times are those of sampler='scm'; dpm-solver takes steps and shift")
        if self.times is not None:
            object.__setattr__(self, "steps", len(self.times) - 1)
        self.schedule()

    def schedule(self) -> Tensor:
        """(steps + 1,) sigmas, or times of the consistency sampler.

        Raises:
            ValueError: no steps; a shift or times that make no schedule.
        """
        if self.sampler == "scm":
            return scm_schedule(self.steps, self.times)
        return dpm_schedule(self.steps, self.shift)


def check_guidance(guidance, guided) -> None:
    """Raise ValueError unless the scale is a finite number, and ``guided`` are two rising sigmas in 0..1."""
    if not is_finite(guidance):
        raise ValueError(f"guidance={guidance}: expected a finite number, such as 4.5; 1 is none")
    pair = isinstance(guided, (tuple, list)) and len(guided) == 2 and all(map(is_finite, guided))
    if not pair or not 0 <= guided[0] <= guided[1] <= 1:
        raise ValueError(f"guided={guided}: expected two rising sigmas from 0 to 1, such as [0.2,1]")


def is_finite(value) -> bool:
    """Whether it is a number, neither bool nor infinite nor nan."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_SPRINT = Sampling("scm", steps=2)
SAMPLING = {  # spec 5.1
    "sana-600m-512": Sampling(),
    "sana-600m": Sampling(shift=4.0),  # its scheduler file in diffusers' layout says 3
    "sana-1600m-512": Sampling(),
    "sana-1600m": Sampling(),
    "sana-1600m-2k": Sampling(),
    "sana-1600m-4k": Sampling(shift=6.0, guidance=5.0),
    "sana1.5-1600m": Sampling(),
    "sana1.5-4800m": Sampling(),
    "sana-sprint-600m": _SPRINT,
    "sana-sprint-1600m": _SPRINT,
}


class Prompt(NamedTuple):
    """What :class:`sana_wm.models.prompt_encoder.PromptEncoder` makes: features (B, L, E), mask (B, L) bool."""

    features: Tensor
    mask: Tensor

    def lanes(self, count: int) -> Prompt:
        """Of ``count`` lanes, from one that all share or as many."""
        if len(self.mask) not in (1, count):
            raise ValueError(f"prompts of {len(self.mask)} lanes, expected {count} as the noise has, or 1 for all")
        return Prompt(self.features.expand(count, -1, -1), self.mask.expand(count, -1))

    def against(self, negative: Prompt | None, guidance: float, null_mask: str) -> Prompt:
        """What guidance leads away from: the negative prompt, of as many lanes as this one.

        Args:
            null_mask: which of its tokens are read: its own (``"negative"``), or as many as this prompt has.

        Raises:
            ValueError: there is none; numbers of lanes or tokens that differ.
        """
        if negative is None:
            raise ValueError(
                f"guidance {guidance:g} compares two texts, and negative is None: give the encoded negative prompt (it "
                "may be empty), or guidance=1"
            )
        negative = negative.lanes(len(self.mask))
        if negative.mask.shape != self.mask.shape:
            counts = negative.mask.shape[1], self.mask.shape[1]
            raise ValueError(f"negative has {counts[0]} tokens and prompt {counts[1]}: encode both with one max_tokens")
        return Prompt(negative.features, self.mask) if null_mask == "prompt" else negative


@torch.no_grad()
def image_latents(
    transformer: SanaTransformer,
    noise: Tensor,
    prompt: Prompt,
    negative: Prompt | None = None,
    sampling: Sampling | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Denoise images with DPM-Solver++ and classifier-free guidance, v = v_negative + scale (v_prompt - v_negative).

    Args:
        noise: (B, C, h, w) standard normal. prompt, negative: of B lanes or of one for all.
        negative: with guidance; that of the empty text, encoded without the instruction, unless another is meant.
        sampling: None: the default of :class:`Sampling`. progress: called with (steps done, steps in all).
    Returns: (B, C, h, w) float32 latents, with the autoencoder's scaling factor in them.

    Raises:
        ValueError: guidance without ``negative``, numbers of lanes or tokens that differ, settings of Sprint.
    """
    sampling = sampling or Sampling()
    if sampling.sampler != "dpm-solver":
        raise ValueError(f"sampler={sampling.sampler!r}: this is the sampler 'dpm-solver'; see sprint_latents")
    velocity = _guided_velocity(transformer, prompt.lanes(len(noise)), negative, sampling)
    return dpm_solver(velocity, noise, sampling.schedule(), progress=progress)


def _guided_velocity(
    transformer: SanaTransformer, prompt: Prompt, negative: Prompt | None, sampling: Sampling
) -> Velocity:
    """(x (B, C, h, w), sigma) -> velocity; the text is embedded once for all steps."""
    scale, (low, high) = sampling.guidance, sampling.guided
    unit = transformer.config.timestep_scale

    def ask(x: Tensor, sigma: float, text) -> Tensor:
        timestep = torch.full((len(x),), integer_timestep(sigma) * unit, device=x.device)
        return transformer(x[:, :, None].to(transformer.dtype), timestep, text).velocity[:, :, 0].to(x.dtype)

    if scale == 1:
        alone = transformer.encode_text(*prompt)
        return lambda x, sigma: ask(x, sigma, alone)
    texts = zip(prompt.against(negative, scale, sampling.null_mask), prompt, strict=True)
    both = transformer.encode_text(*map(torch.cat, texts))
    alone = transformer.encode_text(*prompt) if low > 0 or high < 1 else None

    def velocity(x: Tensor, sigma: float) -> Tensor:
        if not low <= sigma <= high:
            return ask(x, sigma, alone)
        without, told = ask(torch.cat([x, x]), sigma, both).chunk(2)
        return without + scale * (told - without)

    return velocity


@torch.no_grad()
def sprint_latents(
    transformer: SanaTransformer,
    noise: Tensor,
    prompt: Prompt,
    sampling: Sampling = _SPRINT,
    noise_of_step: Callable[[int], Tensor] | None = None,
    *,
    picture: Tensor | None = None,
    strength: float = 0.6,
    progress: Progress | None = None,
) -> Tensor:
    """Denoise images with Sprint: a flow network on the circle of TrigFlow, one pass a step, fresh noise between.

    Args:
        noise: (B, C, h, w) standard normal. prompt: of B lanes or of one for all.
        noise_of_step: step from 1 on -> (B, C, h, w); more than one step needs it.
        picture: (B, C, h, w) latents, as this returns them, to begin from; ``strength``: how much of it may change,
            see :func:`sana_wm.diffusion.trigflow.image_start`.
        progress: called with (steps done, steps in all).
    Returns: (B, C, h, w) float32 latents, with the autoencoder's scaling factor in them.

    Raises:
        ValueError: settings that are not Sprint's; more than one step without their noise.
    """
    if sampling.sampler != "scm":
        raise ValueError(f"sampler={sampling.sampler!r}: Sprint's is 'scm'")
    noise, times = noise.to(torch.promote_types(noise.dtype, torch.float32)), sampling.schedule()
    x = SIGMA_DATA * noise
    if picture is not None:
        x, times = image_start(picture.to(noise), noise, times, strength)
    if len(times) > 2 and noise_of_step is None:
        raise ValueError(f"{len(times) - 1} steps need fresh noise between them: give noise_of_step")
    text = transformer.encode_text(*prompt.lanes(len(noise)))
    scale = torch.full((len(noise),), GUIDANCE_SCALE * sampling.guidance, device=noise.device)

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        latents = x[:, :, None].to(transformer.dtype)
        return transformer(latents, s, text, guidance=scale).velocity[:, :, 0]

    return scm_sample(flow_as_trigflow(velocity), x, times, noise_of_step, progress)
