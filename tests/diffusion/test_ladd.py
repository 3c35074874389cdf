"""Adversarial loss in a teacher's features."""

import pytest
import torch
from torch import nn

from sana_wm.diffusion.ladd import (
    Discriminator,
    DiscriminatorHead,
    VirtualBatchNorm,
    discriminator_loss,
    from_the_start,
    generator_loss,
    gradient_penalty,
    listening,
    roll,
)  # fmt: skip
from sana_wm.diffusion.trigflow import START

B, S, C = 3, 7, 6


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Teacher(nn.Module):
    """Blocks that put out (B, T, S, C), the second of them with something beside it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(C, C) for _ in range(3))
        self.second = nn.Identity()

    def forward(self, x):
        x = torch.tanh(self.blocks[0](x))
        x, _ = self.second((torch.tanh(self.blocks[1](x)), "state"))
        return self.blocks[2](x)


def test_hinge():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 0.25]])
    assert discriminator_loss(real, fake) == 0.5 * (0.5 / 2 + 1.25 / 2)
    assert generator_loss(fake) == 2.75 / 2
    sure = discriminator_loss(torch.full((2, 3), 1.5), torch.full((2, 3), -1.5))
    assert sure == 0  # certain on the right side: nothing to learn
    worse = discriminator_loss(torch.full((2, 3), 1.5), torch.full((2, 3), -1.5), torch.full((2, 3), 1.5))
    assert worse == 0.5 * 2.5 / 2


def test_heads_listen_to_frozen_features_and_gradients_pass():
    teacher = Teacher().requires_grad_(False)
    chosen = [teacher.blocks[0], teacher.second]
    discriminator = Discriminator([C, C])
    latents = randn(B, 1, S, C).requires_grad_()
    with listening(chosen) as heard:
        with pytest.raises(ValueError, match="0 of 2"):
            heard()
        teacher(latents)
        features = heard()
        with pytest.raises(ValueError, match="0 of 2"):
            heard()  # what was heard is not kept for longer than needed
    assert [tuple(f.shape) for f in features] == [(B, S, C)] * 2
    torch.testing.assert_close(features[0], teacher.blocks[0](latents).flatten(1, 2))
    logits = discriminator(features)
    assert logits.shape == (B, 2 * S)
    generator_loss(logits).backward()
    assert latents.grad.abs().sum() > 0
    assert all(not block._forward_hooks for block in chosen)
    with pytest.raises(ValueError, match="expected 2"):
        discriminator(features[:1])


def test_tokens_are_a_circle():
    head, x = DiscriminatorHead(C).eval(), randn(B, S, C)
    torch.testing.assert_close(head(x.roll(2, dims=1)), head(x).roll(2, dims=1))


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
def test_virtual_batch_norm(lanes):
    """Groups do not know of each other; within one, mean 0 and variance 1."""
    norm, x = VirtualBatchNorm(C, size=2, eps=0), 3 + 2 * randn(lanes, C, S)
    out, sizes = norm(x), [len(group) for group in x.tensor_split(-(-lanes // 2))]
    assert max(sizes) <= 2
    for got, group in zip(out.split(sizes), x.split(sizes), strict=True):
        torch.testing.assert_close(got, norm(group))
        torch.testing.assert_close(got.mean((0, 2)), torch.zeros(C), atol=1e-5, rtol=0)
        torch.testing.assert_close(got.var((0, 2), correction=0), torch.ones(C), atol=1e-4, rtol=0)


def test_gradient_penalty_is_the_squared_slope():
    first, second = randn(B, S, C).requires_grad_(), randn(B, S, C, seed=1).requires_grad_()
    a, b = randn(C, seed=2), randn(C, seed=3)
    penalty = gradient_penalty(first @ a + second @ b, [first, second])
    torch.testing.assert_close(penalty, S * (a.pow(2).sum() + b.pow(2).sum()))


def test_roll_and_start():
    x = torch.arange(3)[:, None]
    assert not (roll(x) == x).any() and sorted(roll(x).flatten().tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 2"):
        roll(x[:1])
    t = from_the_start(torch.tensor([0.3, 0.4, 0.5]), torch.tensor([0.9, 0.49, 0.5]))
    torch.testing.assert_close(t, torch.tensor([0.3, START, 0.5]))


def test_adversary_moves_a_generator_to_the_data():
    """Real tokens N(1, 1); the generator only has a shift, which begins at -1."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(2, 16), nn.Tanh()).requires_grad_(False)
    discriminator, shift = Discriminator([16]), torch.full((2,), -1.0, requires_grad=True)
    critic = torch.optim.Adam(discriminator.parameters(), 5e-3, betas=(0.0, 0.9))
    student = torch.optim.Adam([shift], 2e-2, betas=(0.0, 0.9))
    generator = torch.Generator().manual_seed(2)

    def judged(x):
        with listening([teacher]) as heard:
            teacher(x)
            return discriminator(heard())

    for _ in range(250):
        real = 1 + torch.randn(16, 9, 2, generator=generator)
        fake = torch.randn(16, 9, 2, generator=generator) + shift
        both = judged(torch.cat([real, fake.detach()]).view(2, 16, 9, 2).transpose(0, 1).flatten(0, 1))
        loss = discriminator_loss(both[0::2], both[1::2])
        critic.zero_grad()
        loss.backward()
        critic.step()
        real = 1 + torch.randn(16, 9, 2, generator=generator)
        both = judged(torch.stack([real, fake], dim=1).flatten(0, 1))
        student.zero_grad()
        generator_loss(both[1::2]).backward()
        student.step()
    assert (shift - 1).abs().max() < 0.5, shift
