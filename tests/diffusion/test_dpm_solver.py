"""Flow DPM-Solver++ 2M against diffusers' scheduler, and against an ODE whose solution is known."""

import math

import pytest
import torch

from sana_wm.diffusion.dpm_solver import Prediction, dpm_schedule, dpm_solver, dpm_step, integer_timestep

MEAN, STD = 0.7, 0.4


def scheduler(steps, shift, order=2):
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift, solver_order=order
    )
    made.set_timesteps(steps)
    return made


def toy_network(seed):
    """Depends on the latent and on the time, and is far from the velocity of anything."""
    generator = torch.Generator().manual_seed(seed)
    mix, bias = torch.randn(5, 5, generator=generator) * 0.4, torch.randn(5, generator=generator)
    return lambda x, time: torch.tanh(
        torch.einsum("bc...,dc->bd...", x, mix.to(x)) + (bias * time / 300).to(x)[:, None]
    )


def variance(sigma):
    return ((1 - sigma) * STD) ** 2 + sigma**2


def gaussian_velocity(x, sigma):
    """E[noise - x0 | x] of x0 ~ N(MEAN, STD^2)."""
    clean = MEAN + (1 - sigma) * STD**2 / variance(sigma) * (x - (1 - sigma) * MEAN)
    return (x - clean) / sigma


def gaussian_solution(x, sigma):
    """Where the ODE takes x from sigma to 0: it keeps the distance from the mean in standard deviations."""
    return MEAN + STD * (x - (1 - sigma) * MEAN) / math.sqrt(variance(sigma))


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 14, 20, 33])
def test_schedule_is_that_of_diffusers(steps, shift):
    theirs, ours = scheduler(steps, shift), dpm_schedule(steps, shift)
    torch.testing.assert_close(ours.float(), theirs.sigmas, atol=1e-7, rtol=0)
    assert [integer_timestep(sigma) for sigma in ours[:-1].tolist()] == theirs.timesteps.tolist()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_sampling_is_that_of_diffusers(steps, shift, order):
    theirs, network = scheduler(steps, shift, order), toy_network(steps)
    noise = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    expected = noise
    for time in theirs.timesteps:
        expected = theirs.step(network(expected, float(time)), time, expected, return_dict=False)[0]
    got = dpm_solver(lambda x, s: network(x, integer_timestep(s)), noise, dpm_schedule(steps, shift), order=order)
    assert (expected - noise).abs().mean() > 0.5
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def errors(order, counts=(160, 320, 640)):
    """Of evenly spaced steps from sigma 0.7 to 0. The 0.999 of the releases' schedule is another matter: in log-SNR
    its first steps stay long however many there are."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    found = []
    for steps in counts:
        sigmas = torch.linspace(0.7, 0, steps + 1, dtype=torch.float64)
        got = dpm_solver(gaussian_velocity, x, sigmas, order=order)
        found.append(float((got - gaussian_solution(x, 0.7)).abs().max()))
    return found


@pytest.mark.parametrize("order", [1, 2])
def test_error_falls_with_the_order(order):
    coarse, middle, fine = errors(order)
    for ratio in (coarse / middle, middle / fine):
        assert abs(math.log2(ratio) - order) < 0.25, (coarse, middle, fine)  # order 2: h^2 log(1/h), as l is infinite


@pytest.mark.parametrize("order", [1, 2])
def test_error_of_even_steps_in_log_snr(order):
    """From sigma 0.95 to 0.05, where no step is infinitely long; at two points that the ODE connects."""
    x0 = torch.linspace(-1, 2, 9, dtype=torch.float64)

    def at(sigma):
        return (1 - sigma) * MEAN + (x0 - MEAN) * math.sqrt(variance(sigma)) / STD

    found = []
    for steps in (20, 40, 80):
        sigmas = torch.sigmoid(torch.linspace(3, -3, steps + 1, dtype=torch.float64)).tolist()
        x, before = at(sigmas[0]), None
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            now = Prediction(x - sigma * gaussian_velocity(x, sigma), sigma)
            x, before = dpm_step(x, now, following, before if order == 2 else None), now
        found.append(float((x - at(sigmas[-1])).abs().max()))
    for coarse, fine in zip(found, found[1:], strict=False):
        assert abs(math.log2(coarse / fine) - order) < 0.2, found


def test_order_two_is_worth_it():
    assert errors(2)[0] < 0.2 * errors(1)[0]


def test_pure_noise_and_clean_ends():
    x, clean, other = torch.tensor([0.3]), torch.tensor([-1.1]), torch.tensor([5.0])
    whole = dpm_step(x, Prediction(clean, 1.0), 0.0)
    torch.testing.assert_close(whole, clean)
    torch.testing.assert_close(dpm_step(x, Prediction(clean, 0.4), 0.0, Prediction(other, 0.8)), clean)
    torch.testing.assert_close(dpm_step(x, Prediction(clean, 1.0), 0.25), 0.25 * x + 0.75 * clean)
    after_noise = dpm_step(x, Prediction(clean, 0.5), 0.2, Prediction(other, 1.0))  # infinitely far: no line
    torch.testing.assert_close(after_noise, dpm_step(x, Prediction(clean, 0.5), 0.2))


def test_dtypes_and_progress():
    told, sigmas = [], dpm_schedule(3, 3.0)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    low = dpm_solver(lambda x, s: x, noise.bfloat16(), sigmas, progress=lambda *done: told.append(done))
    assert low.dtype == torch.float32 and told == [(1, 3), (2, 3), (3, 3)]
    assert dpm_solver(lambda x, s: x, noise.double(), sigmas).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: dpm_schedule(0, 3.0), "at least 1"),
        (lambda: dpm_schedule(3, 0.0), "positive"),
        (lambda: dpm_solver(lambda x, s: x, torch.zeros(1), torch.tensor([1.0, 0.5])), "fall"),
        (lambda: dpm_solver(lambda x, s: x, torch.zeros(1), torch.tensor([0.5, 0.5, 0.0])), "fall"),
        (lambda: dpm_solver(lambda x, s: x, torch.zeros(1), torch.tensor([1.0, 0.0]), order=3), "order"),
        (lambda: dpm_step(torch.zeros(1), Prediction(torch.zeros(1), 0.2), 0.5), "down"),
        (
            lambda: dpm_step(torch.zeros(1), Prediction(torch.zeros(1), 0.2), 0.1, Prediction(torch.zeros(1), 0.1)),
            "bef",
        ),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()
