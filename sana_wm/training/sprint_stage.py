"""Distilling an image member into few steps: sCM and LADD in turns (SANA-Sprint, arXiv 2503.09641; spec section 6).

Even steps train the student, ``scm_loss + adversarial * generator_loss``; odd ones the discriminator, ``hinge``. Each
has an optimiser of its own. Everything that is drawn is a pure function of (seed, step).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sana_wm.diffusion import ladd, scm
from sana_wm.diffusion.ladd import Discriminator
from sana_wm.diffusion.trigflow import (
    GUIDANCE_SCALE,
    SIGMA_DATA,
    START,
    TrigModel,
    add_noise,
    flow_as_trigflow,
    flow_time,
    predicted_clean,
)  # fmt: skip
from sana_wm.models.transformer import SanaTransformer
from sana_wm.nn.text_attention import TextMemory
from sana_wm.training.batches import batch_rng, noise_generator
from sana_wm.training.image_set import ImageBatch, ImageSet
from sana_wm.training.sprint_start import student_of


@dataclass(frozen=True)
class SprintLoss:
    """Attributes:
    guidance: scales of the teacher's guidance, one of which a lane learns at; the student is told it. [1]: none.
    mean, std: of the normal that times are drawn from. warm_up: steps of the student until all of the tangent counts.
    adversarial: weight of LADD; 0: sCM alone. start: share of its lanes that begin at pure noise.
    judged_mean, judged_std: as mean and std, of the noise in which the discriminator looks.
    blocks: of the teacher that it listens to; None: spread over the depth as in the paper.
    misaligned: latents beside the text of another count as fake. r1: weight of the gradient penalty.
    """

    batch_size: int = 16
    guidance: tuple[float, ...] = (4.0, 4.5, 5.0)
    mean: float = scm.TIME_MEAN
    std: float = scm.TIME_STD
    warm_up: int = scm.WARM_UP
    adversarial: float = ladd.ADVERSARIAL_WEIGHT
    start: float = ladd.START_PROBABILITY
    judged_mean: float = ladd.TIME_MEAN
    judged_std: float = ladd.TIME_STD
    blocks: tuple[int, ...] | None = None
    misaligned: bool = False
    r1: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "guidance", tuple(map(float, self.guidance)))
        object.__setattr__(self, "blocks", None if self.blocks is None else tuple(self.blocks))
        if self.batch_size < 1 or not self.guidance or self.warm_up < 1 or min(self.std, self.judged_std) <= 0:
            raise ValueError(
                f"{self}: expected batch_size and warm_up from 1 on, a scale of guidance, std and judged_std above 0"
            )
        if self.misaligned and self.batch_size < 2:
            raise ValueError("misaligned=True needs batch_size from 2 on: a lane takes the latents of the next one")
        if min(self.adversarial, self.r1) < 0 or not 0 <= self.start <= 1:
            raise ValueError(f"{self}: expected adversarial and r1 from 0 on, start from 0 to 1")


def feature_blocks(depth: int) -> tuple[int, ...]:
    """Blocks that the discriminator listens to: the paper's, or at other depths four of them, the last included."""
    if depth in ladd.FEATURE_BLOCKS:
        return ladd.FEATURE_BLOCKS[depth]
    return tuple(sorted({round((depth - 1) * share) for share in (0.1, 0.4, 0.7, 1.0)}))


def trig_model(network: SanaTransformer, text: TextMemory, guidance: Tensor | None = None) -> TrigModel:
    """(x_t / d (B, C, h, w), t (B,)) -> F of a network with dense time. guidance: (B,) scales, of a student."""
    told = None if guidance is None else GUIDANCE_SCALE * guidance

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        return network(x[:, :, None].to(network.dtype), s, text, guidance=told).velocity[:, :, 0]

    return flow_as_trigflow(velocity)


class Generator(nn.Module):
    """The student, and how uncertain its loss is at a time."""

    def __init__(self, teacher: SanaTransformer, values: int):
        super().__init__()
        self.student = student_of(teacher)
        self.log_variance = scm.LogVariance(teacher.config.width)
        # The tangent of a picture has length 1 over all its values. Where the loss begins with the weight that makes up
        # for that, LADD, whose heads know nothing yet, does not have the first steps to itself.
        nn.init.constant_(self.log_variance.linear.bias, -math.log(values))

    def uncertainty(self, t: Tensor, guidance: Tensor) -> Tensor:
        """(B,) of the embedding that the student itself reads."""
        told = self.student.guidance_embedder(GUIDANCE_SCALE * guidance)
        return self.log_variance(self.student.t_embedder(flow_time(t)) + told)


class Drawn(NamedTuple):
    """What a step begins with: a batch, guidance (B,), and the generator of everything else."""

    batch: ImageBatch
    guidance: Tensor
    random: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random, device=self.guidance.device)

    def noise(self) -> Tensor:
        return self.normal(*self.batch.latents.shape)

    def times(self, mean: float, std: float) -> Tensor:
        return scm.training_times(self.normal(len(self.guidance)), mean, std)


class SprintTraining(nn.Module):
    """Student and discriminator; the teacher is frozen and no part of what is trained or kept."""

    def __init__(self, teacher: SanaTransformer, loss: SprintLoss, pictures: ImageSet, seed: int):
        super().__init__()
        self.config, self.pictures, self.seed = loss, pictures, seed
        self._frozen = (teacher.requires_grad_(False).eval(),)  # in a tuple: not to be saved with every checkpoint
        self.generator = Generator(teacher, math.prod(pictures.buckets[0].latents.shape[1:]))
        depth = teacher.config.depth
        self.blocks = feature_blocks(depth) if loss.blocks is None else loss.blocks
        if unknown := [block for block in self.blocks if not 0 <= block < depth]:
            raise ValueError(f"blocks {unknown}: the teacher has blocks 0 to {depth - 1}")
        self.discriminator = Discriminator([teacher.config.width] * len(self.blocks))

    @property
    def teacher(self) -> SanaTransformer:
        return self._frozen[0]

    @property
    def student(self) -> SanaTransformer:
        return self.generator.student

    @property
    def players(self) -> tuple[nn.Module, ...]:
        """Who takes turns; without LADD there is nobody to play against."""
        return (self.generator, self.discriminator) if self.config.adversarial else (self.generator,)

    def losses(self, step: int, progress: float) -> dict[str, Tensor]:
        """Of the one whose turn it is."""
        turn = step % len(self.players)
        self.discriminator.requires_grad_(turn == 1)  # the student's turn would pay for gradients that nobody reads
        return self.discriminator_losses(step) if turn else self.generator_losses(step)

    def generator_losses(self, step: int) -> dict[str, Tensor]:
        c, drawn = self.config, self._drawn(step)
        text = self.student.encode_text(drawn.batch.text, drawn.batch.text_mask)
        student = trig_model(self.student, text, drawn.guidance)
        t = drawn.times(c.mean, c.std)
        w = self.generator.uncertainty(t, drawn.guidance)
        warmed = scm.warm_up(step // len(self.players), c.warm_up)
        out = scm.scm_loss(student, self._guided(drawn), drawn.batch.latents, drawn.noise(), t, w, warmed)
        losses = {"loss": out.loss, "scm": out.loss.detach(), "tangent": out.tangent_norm.mean()}
        if c.adversarial:
            fake = self._some_from_noise(drawn, text, t, out.clean)
            logits = self.discriminator(self._features(drawn, self._kinds(drawn, fake)))
            adversarial = ladd.generator_loss(self._apart(logits)[1])
            losses |= {"loss": out.loss + c.adversarial * adversarial, "adversarial": adversarial.detach()}
        return losses

    def discriminator_losses(self, step: int) -> dict[str, Tensor]:
        c, drawn = self.config, self._drawn(step)
        with torch.no_grad():
            text = self.student.encode_text(drawn.batch.text, drawn.batch.text_mask)
            student = trig_model(self.student, text, drawn.guidance)
            t = self._from_the_start(drawn, drawn.times(c.mean, c.std))
            fake = _in_one_step(student, drawn.batch.latents, drawn.noise(), t)
            features = self._features(drawn, self._kinds(drawn, fake))
        features = [part.requires_grad_(c.r1 > 0) for part in features]
        real, *others = self._apart(self.discriminator(features))
        hinge = ladd.discriminator_loss(real, *others)
        losses = {"loss": hinge, "hinge": hinge.detach(), "real": real.detach().mean(),
                  "fake": others[0].detach().mean()}  # fmt: skip
        if c.r1:
            penalty = ladd.gradient_penalty(real, features)
            losses |= {"loss": hinge + c.r1 * penalty, "r1": penalty.detach()}
        return losses

    def _drawn(self, step: int) -> Drawn:
        rng, device = batch_rng(self.seed, step), self.student.device
        batch = self.pictures.draw(rng, self.config.batch_size, device)
        guidance = rng.choice(self.config.guidance, size=len(batch.latents)).astype("float32")
        return Drawn(batch, torch.from_numpy(guidance).to(device), noise_generator(self.seed, step, device))

    def _guided(self, drawn: Drawn) -> TrigModel:
        """The teacher with its guidance in it."""
        batch = drawn.batch
        if (drawn.guidance == 1).all():
            return trig_model(self.teacher, self.teacher.encode_text(batch.text, batch.text_mask))
        null = self.pictures.without_text(batch, torch.ones_like(drawn.guidance, dtype=torch.bool))
        both = torch.cat([batch.text, null.text]), torch.cat([batch.text_mask, null.text_mask])
        two = trig_model(self.teacher, self.teacher.encode_text(*both))

        def field(x: Tensor, t: Tensor) -> Tensor:
            told, untold = two(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
            return scm.guided(told, untold, drawn.guidance)

        return field

    def _from_the_start(self, drawn: Drawn, t: Tensor) -> Tensor:
        uniform = torch.rand(t.shape, generator=drawn.random, device=t.device)
        return ladd.from_the_start(t, uniform, self.config.start)

    def _some_from_noise(self, drawn: Drawn, text: TextMemory, t: Tensor, clean: Tensor) -> Tensor:
        """The student's latents ``clean``, made at ``t``, and in some lanes others that it makes of pure noise."""
        noise, t = drawn.noise(), self._from_the_start(drawn, t)
        lanes = (t == START).nonzero()[:, 0]
        if not len(lanes):
            return clean
        blocks = tuple((keys[lanes], values[lanes]) for keys, values in text.blocks)
        student = trig_model(self.student, TextMemory(blocks, text.mask[lanes]), drawn.guidance[lanes])
        return clean.index_copy(0, lanes, _in_one_step(student, drawn.batch.latents[lanes], noise[lanes], t[lanes]))

    def _kinds(self, drawn: Drawn, fake: Tensor) -> list[Tensor]:
        """What is judged: real, the student's, and perhaps real ones beside the wrong text."""
        real = drawn.batch.latents
        return [real, fake, ladd.roll(real)] if self.config.misaligned else [real, fake]

    def _features(self, drawn: Drawn, kinds: Sequence[Tensor]) -> list[Tensor]:
        """Of the frozen teacher, at fresh noise; lanes of the kinds alternate, see :class:`ladd.VirtualBatchNorm`."""
        count, batch = len(kinds), drawn.batch
        latents = torch.stack(list(kinds), dim=1).flatten(0, 1)
        t = drawn.times(self.config.judged_mean, self.config.judged_std).repeat_interleave(count)
        x = add_noise(latents, drawn.normal(*latents.shape), t)
        told = batch.text.repeat_interleave(count, 0), batch.text_mask.repeat_interleave(count, 0)
        with ladd.listening([self.teacher.blocks[i] for i in self.blocks]) as heard:
            trig_model(self.teacher, self.teacher.encode_text(*told))(x / SIGMA_DATA, t)
            return heard()

    def _apart(self, logits: Tensor) -> tuple[Tensor, ...]:
        """(B * kinds, S) -> one (B, S) of each kind."""
        return logits.unflatten(0, (self.config.batch_size, -1)).unbind(1)


def _in_one_step(student: TrigModel, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the student makes of latents at time t (B,), in one pass; of pure noise at the start."""
    x = add_noise(latents, noise, t)
    return predicted_clean(x, student(x / SIGMA_DATA, t), t) / SIGMA_DATA
