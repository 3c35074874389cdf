"""The start, the turns, what is learned where the answer is known, and resuming."""

import os
import signal

import pytest
import torch
from torch import nn

from sana_wm.diffusion.trigflow import flow_as_trigflow
from sana_wm.generation.image_sampling import Prompt, Sampling, sprint_latents
from sana_wm.models.transformer import SanaOutput
from sana_wm.training.image_stage import ImageLoss, ImageTraining
from sana_wm.training.loop import Interrupted, LoopConfig, run_stage
from sana_wm.training.optimizer import OptimizerConfig
from sana_wm.training.sprint_stage import SprintLoss, SprintTraining, feature_blocks, trig_model
from sana_wm.training.sprint_start import is_dense, student_of, with_dense_time
from tests.training.sprint_toys import CHANNELS, GRID, TEXT_DIM, TOKENS, pictures, teacher
from tests.training.toys import QuietLog

LOSS = SprintLoss(batch_size=6, guidance=(1.0, 2.5), warm_up=10)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(lanes):
    mask = torch.ones(lanes, TOKENS, dtype=torch.bool)
    mask[0, 2:] = False
    return randn(lanes, TOKENS, TEXT_DIM, seed=3), mask


def test_the_student_starts_as_the_teacher_at_any_scale():
    network, (text, mask), x = teacher(), told(4), randn(4, CHANNELS, *GRID)
    t = torch.tensor([0.2, 0.9, 1.3, 1.57])
    student = student_of(network)
    expected = flow_as_trigflow(lambda u, s: network(u[:, :, None], s, text, mask).velocity[:, :, 0])(x, t)
    assert expected.std() > 0.1
    for scale in (torch.zeros(4), torch.full((4,), 4.5), torch.tensor([1.0, 2.0, 7.0, 30.0])):
        got = trig_model(student, student.encode_text(text, mask), scale)(x, t)
        torch.testing.assert_close(got, expected)
    with torch.no_grad():
        student.guidance_embedder.linear_2.weight.add_(0.1)
    moved = trig_model(student, student.encode_text(text, mask), torch.tensor([1.0, 2.0, 7.0, 30.0]))(x, t)
    assert (moved - expected).flatten(1).abs().amax(1).min() > 1e-3  # and the scale is heard
    assert student.config.guidance and not network.config.guidance


def test_a_teacher_without_dense_time_is_made_one_first():
    old = teacher(dense=False)
    with pytest.raises(ValueError, match="timestep_scale=1.0, qk_norm=False.*with_dense_time"):
        student_of(old)
    new = with_dense_time(old)
    assert is_dense(new.config) and not is_dense(old.config)
    for name, tensor in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], tensor), name
    assert all((v == 1).all() for k, v in new.state_dict().items() if "q_norm" in k or "k_norm" in k)
    training = ImageTraining(new.requires_grad_(True), ImageLoss(batch_size=4), pictures(), 0)
    training.losses(0, 0.0)["loss"].backward()
    assert all(block.attn.q_norm.weight.grad.abs().sum() > 0 for block in new.blocks)
    assert student_of(new).config.qk_norm


def test_the_guidance_of_each_lane_is_in_the_teacher():
    training = SprintTraining(teacher(), LOSS, pictures(), 0)
    drawn = training._drawn(4)
    assert set(drawn.guidance.tolist()) == {1.0, 2.5}  # of this step; both scales, or the test says little
    x, t = randn(6, CHANNELS, *GRID), torch.linspace(0.1, 1.5, 6)
    alone = lambda text, mask: trig_model(training.teacher, training.teacher.encode_text(text, mask))(x, t)  # noqa: E731
    null = training.pictures.without_text(drawn.batch, torch.ones(6, dtype=torch.bool))
    c, u = alone(drawn.batch.text, drawn.batch.text_mask), alone(null.text, null.text_mask)
    expected = u + drawn.guidance[:, None, None, None] * (c - u)
    torch.testing.assert_close(training._guided(drawn)(x, t), expected)
    assert (expected - c).abs().max() > 1e-2


def run(folder, steps, loss=LOSS, fn=None, lr=1e-2):
    torch.manual_seed(1)
    training = SprintTraining(teacher(), loss, pictures(), 0)
    loop = LoopConfig(steps=steps, optimizer=OptimizerConfig(lr=lr), warmup=1, validate_every=1e9, checkpoint_every=0)
    losses = (lambda step, progress: fn(training, step, progress)) if fn else training.losses
    run_stage("distil", training, losses, loop, folder, QuietLog(), players=training.players)
    return training


def changed(training):
    torch.manual_seed(1)
    begun = dict(SprintTraining(teacher(), training.config, pictures(), 0).named_parameters())
    moved = {name for name, p in training.named_parameters() if not torch.equal(p, begun[name])}
    return {name.split(".")[0] for name in moved}


def test_student_and_discriminator_take_turns(tmp_path):
    seen = []

    def losses(training, step, progress):
        found = training.losses(step, progress)
        seen.append(set(found))
        return found

    assert changed(run(tmp_path / "one", 1, fn=losses)) == {"generator"}
    assert changed(run(tmp_path / "two", 2, fn=losses)) == {"generator", "discriminator"}
    student, critic = {"loss", "scm", "tangent", "adversarial"}, {"loss", "hinge", "real", "fake"}
    assert seen == [student, student, critic]
    alone = run(tmp_path / "alone", 2, SprintLoss(batch_size=6, adversarial=0.0))
    assert changed(alone) == {"generator"}


def test_the_teacher_stays_as_it_is_and_out_of_the_checkpoint(tmp_path):
    training = run(tmp_path, 4)
    assert not any("teacher" in name or "_frozen" in name for name in training.state_dict())
    for name, tensor in teacher().state_dict().items():
        assert torch.equal(training.teacher.state_dict()[name], tensor)


def test_kill_and_resume_is_the_uninterrupted_run(tmp_path):
    def killed_at(when):
        def losses(training, step, progress):
            if step == when:
                os.kill(os.getpid(), signal.SIGTERM)
            return training.losses(step, progress)

        return losses

    whole = run(tmp_path / "whole", 9)
    for when in (2, 5):  # in the student's turn, and in the other's
        with pytest.raises(Interrupted, match=f"step {when + 1}"):
            run(tmp_path / "killed", 9, fn=killed_at(when))
    resumed = run(tmp_path / "killed", 9)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_misaligned_pairs_and_the_penalty():
    loss = SprintLoss(batch_size=5, guidance=(1.0,), misaligned=True, r1=0.5, blocks=(0, 2))
    training = SprintTraining(teacher(), loss, pictures(), 0)
    found = training.losses(1, 0.0)
    torch.testing.assert_close(found["loss"], found["hinge"] + 0.5 * found["r1"])
    assert len(training.discriminator.heads) == 2
    found["loss"].backward()
    assert all(p.grad is not None for p in training.discriminator.parameters())
    assert all(p.grad is None for p in training.generator.parameters())
    kinds = training._kinds(training._drawn(1), torch.zeros(5, CHANNELS, *GRID))
    assert torch.equal(kinds[2][1:], kinds[0][:-1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"guidance": ()}, "scale of guidance"),
        ({"misaligned": True, "batch_size": 1}, "from 2 on"),
        ({"start": 1.5}, "start from 0 to 1"),
    ],
)
def test_settings_that_cannot_be_meant(settings, words):
    with pytest.raises(ValueError, match=words):
        SprintLoss(**settings)


def test_blocks():
    assert feature_blocks(20) == (2, 8, 14, 19) and feature_blocks(4) == (0, 1, 2, 3) and feature_blocks(1) == (0,)
    with pytest.raises(ValueError, match="blocks \\[3\\]: the teacher has blocks 0 to 2"):
        SprintTraining(teacher(), SprintLoss(blocks=(1, 3)), pictures(), 0)


class Normal(nn.Module):
    """The exact flow of latents N(0, spread^2) of whatever text, in place of a teacher."""

    def __init__(self, network, spread):
        super().__init__()
        self.config, self.dtype, self.spread = network.config, torch.float32, spread

    def encode_text(self, text, mask):
        return None

    def forward(self, x, s, text, guidance=None):
        s = s[:, None, None, None, None]
        variance = (1 - s) ** 2 * self.spread**2 + s**2
        return SanaOutput((s - (1 - s) * self.spread**2) / variance * x, None)


def test_one_step_goes_to_the_end_of_the_teachers_path():
    """From noise z the ODE of N(0, spread^2) ends at spread * z; its first step alone would end at 0."""
    spread, noise = 0.6, randn(64, CHANNELS, *GRID, seed=9)
    text, mask = told(64)
    loss = SprintLoss(batch_size=32, guidance=(1.0,), adversarial=0.0, warm_up=20)
    torch.manual_seed(0)
    training = SprintTraining(teacher(depth=1), loss, pictures(spread), 0)
    training._frozen = (Normal(training.teacher, spread),)

    def error():
        made = sprint_latents(training.student, noise, Prompt(text, mask), Sampling("scm", steps=1, guidance=1.0))
        return float((made - spread * noise).pow(2).mean() / (spread * noise).pow(2).mean())

    before, optimiser = error(), torch.optim.AdamW(training.generator.parameters(), 1e-2)
    for step in range(120):
        found = training.losses(step, 0.0)["loss"]
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
    assert before > 0.8 and error() < 0.15, (before, error())
