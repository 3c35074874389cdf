"""LADD: an adversarial loss in the features of a frozen teacher (arXiv 2403.12015, 2503.09641; spec section 6.5).

The student's one-step latents and real ones get fresh noise, pass through the frozen teacher, and small heads on the
outputs of some of its blocks tell them apart, token by token. Hinge loss. A step of the generator minimises
``scm_loss + ADVERSARIAL_WEIGHT * generator_loss``, a step of the discriminator ``discriminator_loss``, in turns.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from sana_wm.diffusion.trigflow import START

FEATURE_BLOCKS = {20: (2, 8, 14, 19), 28: (2, 8, 14, 20, 27)}  # by the teacher's depth
TIME_MEAN, TIME_STD = -0.6, 1.0  # of the noise before the discriminator, through scm.training_times
ADVERSARIAL_WEIGHT = 0.5
START_PROBABILITY = 0.5  # of a lane of the generator to begin at pure noise


class VirtualBatchNorm(nn.Module):
    """Batch normalisation of (B, C, S) within groups of lanes, without running statistics: the same in training and
    out of it, and independent of how many lanes a device has.

    Real lanes judged in another pass than the student's each lose their own mean here. Side by side, lanes alternating,
    they keep what tells them apart.
    """

    def __init__(self, channels: int, size: int = 8, eps: float = 1e-5):
        super().__init__()
        self.size, self.eps = size, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        groups = []
        for group in x.tensor_split(-(-len(x) // self.size)):
            variance, mean = torch.var_mean(group.float(), dim=(0, 2), keepdim=True, correction=0)
            groups.append((group - mean.to(x.dtype)) * torch.rsqrt(variance + self.eps).to(x.dtype))
        return torch.cat(groups) * self.weight[:, None] + self.bias[:, None]


def _layer(channels: int, kernel: int) -> nn.Sequential:
    """Circular: tokens of an image have no end of a line in this order."""
    conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, padding_mode="circular")
    return nn.Sequential(spectral_norm(conv), VirtualBatchNorm(channels), nn.LeakyReLU(0.2))


class DiscriminatorHead(nn.Module):
    """(B, S, C) features of the tokens -> (B, S) logits, positive for real; S >= 4."""

    def __init__(self, channels: int):
        super().__init__()
        self.each, self.around = _layer(channels, 1), _layer(channels, 9)
        self.logit = spectral_norm(nn.Conv1d(channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        x = self.each(features.transpose(1, 2))
        return self.logit((x + self.around(x)) / 2**0.5)[:, 0]


class Discriminator(nn.Module):
    """One head for each block that is listened to.

    Args:
        channels: width of the features of each.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.heads = nn.ModuleList(DiscriminatorHead(width) for width in channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features (B, S, C) of each -> logits (B, S of all heads together)."""
        if len(features) != len(self.heads):
            raise ValueError(f"got features of {len(features)} blocks, expected {len(self.heads)}: one of each head")
        return torch.cat([head(x) for head, x in zip(self.heads, features, strict=True)], dim=1)


@contextmanager
def listening(blocks: Sequence[nn.Module]) -> Iterator[Callable[[], list[Tensor]]]:
    """Within it, what ``blocks`` put out is kept: ``with listening(blocks) as heard: teacher(...); heard()``.

    A block that returns several things is listened to for its first. ``heard()`` gives the outputs of the last pass as
    (B, S, C), frames and tokens in one axis, and forgets them; gradients flow through them.

    Raises:
        ValueError: from ``heard()``, when no pass was made.
    """
    kept: dict[int, Tensor] = {}

    def hook(index: int):
        def keep(_module, _inputs, output):
            output = output if isinstance(output, Tensor) else output[0]
            kept[index] = output.flatten(1, -2)

        return keep

    def heard() -> list[Tensor]:
        if len(kept) < len(blocks):
            raise ValueError(f"{len(kept)} of {len(blocks)} blocks were heard: run the teacher in the context first")
        features = [kept[index] for index in range(len(blocks))]
        kept.clear()
        return features

    handles = [block.register_forward_hook(hook(index)) for index, block in enumerate(blocks)]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def generator_loss(fake: Tensor) -> Tensor:
    """Minus the mean logit of the student's latents."""
    return -fake.mean()


def discriminator_loss(real: Tensor, fake: Tensor, misaligned: Tensor | None = None) -> Tensor:
    """Hinge loss, half the sum of mean relu(1 - real) and mean relu(1 + fake).

    Args:
        misaligned: logits of real latents with others' prompts, of :func:`roll`; they count as fake.
    """
    wrong = fake if misaligned is None else torch.cat([fake, misaligned])
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + wrong).mean())


def gradient_penalty(logits: Tensor, features: Sequence[Tensor]) -> Tensor:
    """R1: mean over the lanes of the squared gradient of their logits' sum with respect to the heads' inputs.

    Args:
        logits: of real latents. features: what they were made from; they must require gradients.
    """
    gradients = torch.autograd.grad(logits.sum(), list(features), create_graph=True)
    return sum(g.pow(2).flatten(1).sum(1).mean() for g in gradients)


def roll(latents: Tensor) -> Tensor:
    """Latents of the next lane, so that none stands beside its own prompt.

    Raises:
        ValueError: fewer than two lanes.
    """
    if len(latents) < 2:
        raise ValueError("misaligned pairs need at least 2 lanes, got 1: leave them out or take larger batches")
    return latents.roll(1, dims=0)


def from_the_start(t: Tensor, uniform: Tensor, probability: float = START_PROBABILITY) -> Tensor:
    """Times of the generator's adversarial latents: some lanes begin at pure noise, as one-step sampling does.

    Args:
        t: (B,) of :func:`sana_wm.diffusion.scm.training_times`. uniform: (B,) in [0, 1).
    """
    return torch.where(uniform < probability, torch.full_like(t, START), t)
