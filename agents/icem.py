"""iCEM: the cross-entropy method with coloured noise, memory and a shrinking population (Pinneri et al., 2020).

"Sample-efficient Cross-Entropy Method for Real-time Planning", arXiv 2008.06389. What it adds to CEM:

* noise whose power falls with frequency as f^-beta along the knots, so that candidates keep a direction;
* a share of the elites competes again in the next iteration, and, shifted by what was acted, in the next plan;
* the population shrinks by `decay` from one iteration to the next, never below twice the elites;
* the mean itself is tried in the last iteration;
* means and stds move to the elites' by `1 - momentum`.

Knot k of the first proposal has the std initial_std * sqrt(k + 1) of the random walk in `sana_wm.agents.shooting`, so
that settings mean the same as in CEM.
"""

from dataclasses import dataclass

import numpy as np

from sana_wm.agents.shooting import Planner, Problem, ShootingConfig, cheapest


@dataclass(frozen=True)
class ICEMConfig(ShootingConfig):
    """Budget and proposal; stds are in action units. `samples` is the first iteration's population."""

    samples: int = 86
    iterations: int = 4
    elites: int = 5
    min_std: float = 6.0
    beta: float = 2.0  # exponent of the noise: 0 white, 2 Brownian
    decay: float = 1.25  # population of one iteration over that of the next
    keep: float = 0.3  # share of the elites that competes again
    momentum: float = 0.1  # of mean and std

    def __post_init__(self):
        super().__post_init__()
        if not self.decay >= 1:
            raise ValueError(f"planner.decay must be at least 1, got {self.decay}")
        for name in ("keep", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"planner.{name} must be in [0, 1], got {getattr(self, name)}")

    def population(self, iteration: int) -> int:
        """Candidates that are rolled out in one iteration."""
        return max(int(self.samples * self.decay**-iteration), min(2 * self.elites, self.samples))

    @property
    def kept(self) -> int:
        return int(np.ceil(self.keep * self.elites))

    @property
    def rollouts(self) -> int:
        return sum(self.population(iteration) for iteration in range(self.iterations))


class ICEM(Planner):
    """Plans by iCEM; `Plan.elites` are for the next plan's `initial_elites`."""

    def _search(self, problem: Problem):
        cfg, mean = self.config, problem.mean
        lanes, knots_count, width = mean.shape
        growth = np.sqrt(np.arange(knots_count) + 1.0)[:, None]
        std = np.broadcast_to(cfg.initial_std * growth, mean.shape)
        kept = np.zeros((lanes, 0, knots_count, width)), np.zeros((lanes, 0))
        for iteration in range(cfg.iterations):
            count, last = cfg.population(iteration), iteration == cfg.iterations - 1
            white = problem.noise(iteration, (count, width, knots_count))
            noise_NSKA = np.moveaxis(coloured(white, cfg.beta), -1, -2)
            knots = self.clip(mean[:, None] + noise_NSKA * std[:, None])
            # The warm start and the last mean are candidates too: in place of drawn ones, to keep the budget.
            given = [mean[:, None]] if iteration == 0 or last else []
            if iteration == 0 and problem.elites is not None:
                given.append(problem.elites[:, : cfg.kept])
            if given:
                given = self.clip(np.concatenate(given, axis=1)[:, :count])
                knots = np.concatenate([given, knots[:, given.shape[1] :]], axis=1)
            cost = problem.evaluate(knots)
            # Dynamics are deterministic: elites that compete again need not be rolled out again.
            knots, cost = np.concatenate([knots, kept[0]], axis=1), np.concatenate([cost, kept[1]], axis=1)
            elites, costs = cheapest(knots, cost, cfg.elites)
            kept = elites[:, : max(cfg.kept, 1)], costs[:, : max(cfg.kept, 1)]
            mean = cfg.momentum * mean + (1 - cfg.momentum) * elites.mean(axis=1)
            std = np.maximum(cfg.momentum * std + (1 - cfg.momentum) * elites.std(axis=1), cfg.min_std)
        return elites[:, 0], costs[:, 0], elites


def coloured(white: np.ndarray, beta: float) -> np.ndarray:
    """Turn white normal noise (..., T) into noise of power f^-beta along its last axis, of unit variance.

    By shaping its Fourier transform (Timmer and König, 1995); the mean (f = 0) is treated as the lowest frequency is.
    """
    steps = white.shape[-1]
    if steps == 1 or beta == 0:
        return white
    frequency = np.fft.rfftfreq(steps)
    frequency[0] = frequency[1]
    scale = frequency ** (-beta / 2)
    # Each of the two halves of the spectrum carries the power of a frequency, but for the ends.
    copies = np.full(len(scale), 2.0)
    copies[0] = 1.0
    if steps % 2 == 0:
        copies[-1] = 1.0
    power = (copies * scale**2).sum() / steps
    return np.fft.irfft(np.fft.rfft(white) * scale, n=steps) / np.sqrt(power)
