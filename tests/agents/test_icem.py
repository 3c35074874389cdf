import numpy as np
import pytest
from gymnasium import spaces

from sana_wm.agents.icem import ICEM, ICEMConfig, coloured
from sana_wm.agents.objectives import ProprioGoal
from tests.agents.toys import Drift, Points

BOX = spaces.Box(-1, 1, (2,), np.float32)
START, GOAL = np.zeros((3, 2)), np.array([[2.0, -1.0], [0.5, 3.0], [-2.0, 0.0]])


def plan(config, **options):
    dynamics = Drift(0.5)
    found = ICEM(config, BOX).plan(dynamics, ProprioGoal(GOAL), Points(START), seeds=np.arange(3), **options)
    return found, dynamics.calls


def test_noise_of_exponent_zero_is_white_and_of_two_keeps_its_direction():
    white = np.random.default_rng(0).standard_normal((4000, 9))
    assert np.array_equal(coloured(white, 0.0), white)
    lag_one = []
    for beta in (0.5, 1.0, 2.0, 4.0):
        noise = coloured(white, beta)
        assert noise.std() == pytest.approx(1.0, abs=0.03) and abs(noise.mean()) < 0.03
        lag_one.append((noise[:, 1:] * noise[:, :-1]).mean())
    assert (np.diff([0.0, *lag_one]) > 0.05).all()


@pytest.mark.parametrize("steps", [1, 2, 6, 7])
def test_the_spectrum_falls_as_promised(steps):
    noise = coloured(np.random.default_rng(1).standard_normal((20_000, steps)), 2.0)
    assert noise.shape == (20_000, steps) and noise.std() == pytest.approx(1.0, abs=0.05)
    power = (np.abs(np.fft.rfft(noise)) ** 2).mean(0)
    for k in range(2, len(power)):
        assert power[1] / power[k] == pytest.approx(k**2, rel=0.1)


def test_the_population_shrinks_to_twice_the_elites():
    config = ICEMConfig(samples=40, iterations=6, elites=7, decay=1.5, initial_std=0.5, min_std=0.01)
    _, calls = plan(config)
    assert calls == [3 * n for n in (40, 26, 17, 14, 14, 14)]
    assert config.rollouts == 125


def test_the_last_iteration_tries_the_mean_itself():
    # One elite and no momentum: the last mean is the best candidate so far.
    seen = []

    class Watching(Drift):
        def rollout(self, state, actions):
            seen.append(actions.reshape(3, -1, *actions.shape[1:]))
            return super().rollout(state, actions)

    config = ICEMConfig(samples=12, iterations=3, elites=1, momentum=0.0, initial_std=0.5, min_std=0.01)
    objective = ProprioGoal(GOAL)
    ICEM(config, BOX).plan(Watching(0.5), objective, Points(START), seeds=np.arange(3))
    earlier = np.concatenate(seen[:2], axis=1)
    cost = objective(
        Drift(0.5).rollout(Points(START).repeat(earlier.shape[1]), earlier.reshape(-1, *earlier.shape[2:]))
    )
    best = earlier[np.arange(3), cost.reshape(3, -1).argmin(1)]
    np.testing.assert_allclose(seen[2][:, 0], best, atol=1e-6)


def test_elites_of_the_last_plan_compete_in_the_next():
    thorough = ICEMConfig(samples=64, iterations=6, elites=6, initial_std=0.5, min_std=0.02)
    good, _ = plan(thorough)
    assert good.elites.shape == (3, 6, 5, 2)
    assert np.array_equal(good.elites[:, 0], good.knots)
    hasty = ICEMConfig(samples=6, iterations=1, elites=3, keep=1.0, initial_std=0.1, min_std=0.02)
    cold, calls = plan(hasty)
    warm, same_calls = plan(hasty, initial_elites=good.elites)
    assert calls == same_calls  # they take the place of drawn candidates
    np.testing.assert_allclose(warm.cost, good.cost, atol=1e-6)
    assert (cold.cost > good.cost + 0.1).any()


def test_shifting_moves_knots_and_elites_and_repeats_the_last():
    good, _ = plan(ICEMConfig(samples=16, iterations=2, elites=4, initial_std=0.5, min_std=0.02))
    moved = good.shifted(2)
    for now, then in ((moved["initial_mean"], good.knots), (moved["initial_elites"], good.elites)):
        assert np.array_equal(now[..., :3, :], then[..., 2:, :])
        assert np.array_equal(now[..., 3:, :], np.repeat(then[..., -1:, :], 2, axis=-2))
