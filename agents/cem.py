"""Cross-entropy method over action knots, planning for many start states in one batched rollout.

Every iteration draws `samples` candidates per start, rolls all of them out at once, and refits the Gaussian to the
cheapest `elites` (Rubinstein and Kroese, 2004). The cheapest candidate ever seen stays among the elites (as in iCEM,
Pinneri et al., 2020) and is what the planner returns. Knots and the first proposal: see `sana_wm.agents.shooting`.
"""

from dataclasses import dataclass

import numpy as np

from sana_wm.agents.shooting import Plan, Planner, Problem, ShootingConfig, cheapest

__all__ = ["CEM", "CEMConfig", "Plan"]


@dataclass(frozen=True)
class CEMConfig(ShootingConfig):
    """Budget and proposal; stds are in action units."""

    iterations: int = 4
    elites: int = 5
    min_std: float = 6.0  # keeps the search alive once the elites agree


class CEM(Planner):
    """Plans by the cross-entropy method.

    >>> from gymnasium import spaces
    >>> planner = CEM(CEMConfig(initial_std=40.0), spaces.Box(0, 512, (2,), np.float32))
    >>> planner.config.horizon
    25
    """

    def _search(self, problem: Problem):
        cfg, mean = self.config, problem.mean
        best_knots, best_cost = mean, np.full(len(mean), np.inf)
        std = None  # the first proposal is the walk itself, not independent knots
        for iteration in range(cfg.iterations):
            knots = self.proposal(problem, iteration, mean, std)
            cost = problem.evaluate(knots)
            # The best candidate so far competes with the new ones without being rolled out again.
            knots = np.concatenate([knots, best_knots[:, None]], axis=1)
            cost = np.concatenate([cost, best_cost[:, None]], axis=1)
            elites, costs = cheapest(knots, cost, cfg.elites)
            mean, std = elites.mean(axis=1), np.maximum(elites.std(axis=1), cfg.min_std)
            best_knots, best_cost = elites[:, 0], costs[:, 0]
        return best_knots, best_cost, None
