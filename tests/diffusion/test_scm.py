"""The sCM loss: identities in float64 on a Gaussian, and a student that learns one-step sampling of a mixture."""

import math

import pytest
import torch

from sana_wm.diffusion.scm import (
    TANGENT_FLOOR,
    LogVariance,
    guided,
    scm_loss,
    scm_tangent,
    training_times,
    warm_up,
)  # fmt: skip
from sana_wm.diffusion.trigflow import SIGMA_DATA, add_noise, scm_sample, scm_schedule
from tests.diffusion.mixture import Student, draw, energy_distance, field, teacher_samples

B, STD = 5, 1.7


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_teacher(u, t):
    """Field of latents N(0, STD^2)."""
    t = t[:, None]
    return torch.cos(t) * torch.sin(t) * (1 - STD**2) / ((torch.cos(t) * STD) ** 2 + torch.sin(t) ** 2) * u


def gaussian_consistency(u, t):
    """The F that goes to the end of the teacher's ODE in one step."""
    t = t[:, None]
    end = STD * u / torch.sqrt((torch.cos(t) * STD) ** 2 + torch.sin(t) ** 2)
    return (torch.cos(t) * u - end) / torch.sin(t)


def toy_student(u, t):
    return torch.tanh(u @ randn(2, 2, seed=3)) * torch.sin(2 * t[:, None]) - 0.3 * u


def point():
    t = training_times(randn(B, seed=1))
    x = add_noise(randn(B, 2), randn(B, 2, seed=2), t)
    return x, t, SIGMA_DATA * gaussian_teacher(x / SIGMA_DATA, t)


def test_a_consistency_function_has_no_tangent():
    x, t, ode = point()
    f, g, _ = scm_tangent(gaussian_consistency, x, t, ode, 1.0)
    torch.testing.assert_close(f, gaussian_consistency(x / SIGMA_DATA, t))
    torch.testing.assert_close(g, torch.zeros_like(g), atol=1e-12, rtol=0)


def test_tangent_is_the_slope_along_the_ode():
    """cos(t) df/dt by central differences, with dx/dt of the teacher."""
    x, t, ode = point()
    h = 1e-6

    def end(shift):
        at, time = x + shift * ode, (t + shift)[:, None]
        return torch.cos(time) * at - torch.sin(time) * SIGMA_DATA * toy_student(at / SIGMA_DATA, t + shift)

    slope = torch.cos(t)[:, None] * (end(h) - end(-h)) / (2 * h)
    expected = slope / (slope.norm(dim=1, keepdim=True) + TANGENT_FLOOR)
    _, g, _ = scm_tangent(toy_student, x, t, ode, 1.0)
    torch.testing.assert_close(g, expected, atol=1e-7, rtol=1e-6)


def test_without_warm_up_the_student_is_pulled_to_the_teacher():
    x, t, ode = point()
    f, g, _ = scm_tangent(toy_student, x, t, ode, 0.0)
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(g, ode / SIGMA_DATA - f), torch.ones(B).double())
    assert [warm_up(step) for step in (0, 1000, 4000, 9000)] == [0, 0.25, 1, 1]


def test_a_student_with_attention_has_a_tangent():
    x, t, ode = point()
    keys = randn(7, 2, seed=4)

    def student(u, t):
        told = keys[None, None].expand(B, 1, -1, -1)  # (B, heads, tokens, width), as fused kernels take it
        query = u[:, None, None]
        return torch.nn.functional.scaled_dot_product_attention(query, told + query, told)[:, 0, 0]

    _, g, _ = scm_tangent(student, x, t, ode, 1.0)
    h = 1e-6

    def end(shift):
        at, time = x + shift * ode, (t + shift)[:, None]
        return torch.cos(time) * at - torch.sin(time) * SIGMA_DATA * student(at / SIGMA_DATA, t)

    slope = torch.cos(t)[:, None] * (end(h) - end(-h)) / (2 * h)
    torch.testing.assert_close(g, slope / (slope.norm(dim=1, keepdim=True) + TANGENT_FLOOR), atol=1e-7, rtol=1e-6)


def test_loss_and_its_gradient():
    """Value: weights times the squared tangent, plus w. Gradient: -2 weight g into F, and none through the tangent."""
    latents, noise, t = randn(B, 2), randn(B, 2, seed=2), training_times(randn(B, seed=1))
    gain = torch.ones(2, dtype=torch.float64, requires_grad=True)
    w = randn(B, seed=6).requires_grad_()
    out = scm_loss(lambda u, t: gain * toy_student(u, t), gaussian_teacher, latents, noise, t, w, 0.6)
    x = add_noise(latents, noise, t)
    f, g, _ = scm_tangent(toy_student, x, t, SIGMA_DATA * gaussian_teacher(x / SIGMA_DATA, t), 0.6)
    weight = (torch.exp(-w) / (SIGMA_DATA * torch.tan(t)))[:, None]
    torch.testing.assert_close(out.loss, (weight * g**2 + w[:, None]).mean())
    n = out.tangent_norm[:, None]
    torch.testing.assert_close(g.norm(dim=1, keepdim=True), n / (n + TANGENT_FLOOR))
    assert out.tangent_norm.shape == (B,)  # of before: the normalised one is a constant, nearly
    lane = t[:, None]
    torch.testing.assert_close(out.clean, (torch.cos(lane) * x / SIGMA_DATA - torch.sin(lane) * f), check_dtype=False)
    into_gain, into_w = torch.autograd.grad(out.loss, [gain, w])
    torch.testing.assert_close(into_gain, (-2 * weight * g * f).sum(0) / g.numel())
    torch.testing.assert_close(into_w, (1 - (weight * g**2).mean(1)) / B)


def test_guidance_scale_of_each_lane():
    c, u, scale = randn(3, 2, 2), randn(3, 2, 2, seed=1), torch.tensor([4.0, 4.5, 5.0])
    mixed = guided(c, u, scale)
    for lane in range(3):
        torch.testing.assert_close(mixed[lane], u[lane] + scale[lane] * (c[lane] - u[lane]))
    torch.testing.assert_close(guided(c, u, 1.0), c)


def test_times():
    normal = torch.tensor([0.0, -50.0, 50.0], dtype=torch.float64)
    expected = torch.tensor([math.atan(math.exp(0.2) / 0.5), 0.0, math.pi / 2], dtype=torch.float64)
    torch.testing.assert_close(training_times(normal), expected)


def trained(steps, warm):
    """A student after so many steps of a few seconds' training."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    student, uncertainty = Student(), LogVariance(2)
    optimiser = torch.optim.Adam([*student.parameters(), *uncertainty.parameters()], 1e-3)
    for step in range(steps):
        t = training_times(torch.randn(256, generator=generator))
        w = uncertainty(torch.stack([torch.cos(t), torch.sin(t)], dim=1))
        noise = torch.randn(256, 2, generator=generator)
        loss = scm_loss(student, field, draw(256, generator), noise, t, w, warm_up(step, warm)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
    return student


def sample(student, noise, steps):
    generator = torch.Generator().manual_seed(5)
    fresh = lambda step: torch.randn(noise.shape, generator=generator)  # noqa: E731
    return scm_sample(student, SIGMA_DATA * noise, scm_schedule(steps), fresh)


@pytest.fixture(scope="module")
def scene():
    noise = torch.randn(800, 2, generator=torch.Generator().manual_seed(4))
    return noise, teacher_samples(noise)


def test_one_step_student_samples_like_the_teacher(scene):
    noise, teacher = scene
    assert energy_distance(teacher, draw(800, torch.Generator().manual_seed(8))) < 0.02  # the teacher is right
    torch.manual_seed(0)
    start = energy_distance(sample(Student(), noise, 1), teacher)
    student = trained(600, 200)
    assert start > 0.5
    for steps in (1, 2, 4):
        assert energy_distance(sample(student, noise, steps), teacher) < 0.1 * start, steps


def test_the_second_part_of_the_tangent_is_what_makes_it_one_step(scene):
    """Pulled to the teacher only (r = 0) the student learns the teacher's field, whose one step is the mean."""
    noise, teacher = scene
    student = trained(250, math.inf)
    assert energy_distance(sample(student, noise, 1), teacher) > 0.4
