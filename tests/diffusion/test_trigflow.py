"""TrigFlow: exact identities in float64, the consistency sampler against diffusers' scheduler."""

import math

import pytest
import torch

from sana_wm.diffusion.trigflow import (
    SIGMA_DATA,
    START,
    add_noise,
    flow_as_trigflow,
    flow_time,
    image_start,
    predicted_clean,
    scm_sample,
    scm_schedule,
    trig_time,
    trigflow_as_flow,
)  # fmt: skip

B, SHAPE = 3, (5, 2, 3)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(seed=0):
    return torch.rand(B, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * (math.pi / 2)


def toy(seed=0):
    mix = randn(5, 5, seed=seed) * 0.5
    return lambda x, s: torch.tanh(torch.einsum("bc...,dc->bd...", x, mix.to(x)) + s[:, None, None, None].to(x))


def test_times_are_inverse_and_match_the_ratio_of_noise_to_signal():
    t = times()
    s = flow_time(t)
    torch.testing.assert_close(trig_time(s), t)
    torch.testing.assert_close(s / (1 - s), torch.tan(t))
    ends = torch.tensor([0.0, math.pi / 2], dtype=torch.float64)
    torch.testing.assert_close(flow_time(ends), torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_the_true_velocity_becomes_the_true_field():
    """noise - latent goes to cos(t) noise - sin(t) latent, whose step along the circle is the latent."""
    clean, noise, t = randn(B, *SHAPE), randn(B, *SHAPE, seed=1), times(2)
    asked = {}

    def velocity(x, s):
        asked.update(x=x, s=s)
        return noise - clean

    x = add_noise(clean, noise, t)
    f = flow_as_trigflow(velocity)(x / SIGMA_DATA, t)
    lane = t[:, None, None, None]
    torch.testing.assert_close(f, torch.cos(lane) * noise - torch.sin(lane) * clean)
    torch.testing.assert_close(predicted_clean(x, f, t), SIGMA_DATA * clean)
    s = asked["s"][:, None, None, None]
    torch.testing.assert_close(asked["x"], (1 - s) * clean + s * noise)


def test_wrapping_is_invertible():
    model, x, s = toy(), randn(B, *SHAPE), flow_time(times(3))
    torch.testing.assert_close(trigflow_as_flow(flow_as_trigflow(model))(x, s), model(x, s))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_an_exact_consistency_function_samples_a_gaussian(steps):
    """For N(0, d^2) data x0 does not depend on t along the ODE: F = 0 for it, and the flow wrapping says so."""

    def velocity(x, s):  # E[noise - latent | x_s] of unit Gaussian latents
        s = s[:, None, None, None]
        return (2 * s - 1) / (s**2 + (1 - s) ** 2) * x

    field = flow_as_trigflow(velocity)
    x, t = randn(B, *SHAPE), times(4)
    torch.testing.assert_close(field(x, t), torch.zeros_like(x))
    # Other data: a point. Its consistency function gives the point whatever the noise.
    point = randn(1, *SHAPE, seed=5)

    def to_point(x, t):
        t = t[:, None, None, None]
        return (torch.cos(t) * x - point) / torch.sin(t)

    got = scm_sample(to_point, SIGMA_DATA * x, scm_schedule(steps).double(), lambda step: randn(B, *SHAPE, seed=step))
    torch.testing.assert_close(got, point.expand_as(got), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("steps", "given"), [(1, None), (2, None), (3, None), (4, None), (3, [1.5, 1.1, 0.4, 0.0])])
def test_sampler_is_that_of_diffusers(steps, given):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.SCMScheduler()
    if given is not None:
        scheduler.set_timesteps(steps, timesteps=given, max_timesteps=None, intermediate_timesteps=None)
    else:  # its default, 1.3, is refused for any other number of steps
        scheduler.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    schedule = scm_schedule(steps, given)
    assert torch.equal(schedule, scheduler.timesteps)

    field, noise = flow_as_trigflow(toy()), randn(B, *SHAPE).float()
    x = start = SIGMA_DATA * noise
    generator = torch.Generator().manual_seed(7)
    for t in scheduler.timesteps[:-1]:
        f = field(x / SIGMA_DATA, t.expand(B))
        x, clean = scheduler.step(SIGMA_DATA * f, t, x, generator=generator, return_dict=False)
    expected = clean / SIGMA_DATA

    ours, drawn = torch.Generator().manual_seed(7), []

    def fresh(step):
        drawn.append(step)
        return torch.randn(noise.shape, generator=ours)

    told = []
    got = scm_sample(field, start, schedule, fresh, progress=lambda *done: told.append(done))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert drawn == list(range(1, steps)) and told == [(i + 1, steps) for i in range(steps)]


def test_image_start():
    clean, noise = randn(B, *SHAPE), randn(B, *SHAPE, seed=1)
    schedule = scm_schedule(4)
    for strength, left in ((1.0, 4), (0.75, 3), (0.5, 2), (0.25, 1)):  # where diffusers begins too
        x, rest = image_start(clean, noise, schedule, strength)
        assert torch.equal(rest, schedule[4 - left :])
        torch.testing.assert_close(x, add_noise(clean, noise, schedule[4 - left]))
    for steps, strength, left in ((4, 0.6, 2), (4, 0.01, 0), (2, 0.6, 0), (2, 0.9, 1), (1, 0.3, 0)):
        x, rest = image_start(clean, noise, scm_schedule(steps), strength)
        expected = torch.tensor([strength * START, *scm_schedule(steps)[steps - left :]])
        torch.testing.assert_close(rest, expected)
        torch.testing.assert_close(x, add_noise(clean, noise, rest[0]))
    _, rest = image_start(clean, noise, torch.tensor([1.2, 0.5, 0.0]), 1.0)  # times of one's own begin where they do
    torch.testing.assert_close(rest, torch.tensor([1.2, 0.5, 0.0]))
    x, _ = image_start(clean, noise, schedule, 1.0)
    torch.testing.assert_close(x, SIGMA_DATA * noise, atol=1e-5, rtol=0)  # nothing of the picture is left
    with pytest.raises(ValueError, match="strength"):
        image_start(clean, noise, schedule, 0.0)


def test_errors():
    with pytest.raises(ValueError, match="at least 1"):
        scm_schedule(0)
    for wrong in ([1.0, 1.2, 0.0], [1.0, 0.5], [2.0, 0.0], [0.0]):
        with pytest.raises(ValueError, match="falling"):
            scm_schedule(times=wrong)
    assert scm_schedule(1)[0] == torch.tensor(START)
