"""Model-predictive path integral control over action knots (Williams et al., 2017, arXiv 1509.01149).

The new mean is the average of all candidates, weighted by exp(-(cost - lowest cost) / temperature). Optionally, as in
TD-MPC2 (Hansen et al., 2024), the std is refitted with the same weights and only the cheapest `elites` count.
The plan is the last mean, or the best candidate seen if that is cheaper.
"""

from dataclasses import dataclass

import numpy as np

from sana_wm.agents.shooting import Planner, Problem, ShootingConfig, cheapest


@dataclass(frozen=True)
class MPPIConfig(ShootingConfig):
    """Budget, proposal and weights; stds are in action units."""

    iterations: int = 4
    temperature: float = 0.1  # in units of the costs' std among the candidates of a start, or of the cost itself
    relative: bool = True  # False: temperature is in the objective's own unit, as Williams et al. have it
    update_std: bool = True  # False: every iteration proposes the same walk around its mean
    elites: int | None = None  # how many of the cheapest count; None: all
    min_std: float = 6.0

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"planner.temperature must be positive, got {self.temperature}: small follows the best")

    @property
    def rollouts(self) -> int:
        return self.samples * self.iterations + 1  # the last mean


class MPPI(Planner):
    """Plans by exponentially weighted averages."""

    def _search(self, problem: Problem):
        cfg, mean, std = self.config, problem.mean, None
        best_knots, best_cost = mean, np.full(len(mean), np.inf)
        for iteration in range(cfg.iterations):
            knots = self.proposal(problem, iteration, mean, std)
            cost = problem.evaluate(knots)
            knots, cost = cheapest(knots, cost, cfg.elites or cfg.samples)
            better = cost[:, 0] < best_cost
            best_knots = np.where(better[:, None, None], knots[:, 0], best_knots)
            best_cost = np.where(better, cost[:, 0], best_cost)
            weights = self._weights(cost)[..., None, None]
            mean = (weights * knots).sum(axis=1)
            if cfg.update_std:
                variance = (weights * np.square(knots - mean[:, None])).sum(axis=1)
                std = np.maximum(np.sqrt(variance), cfg.min_std)
        cost = problem.evaluate(mean[:, None])[:, 0]
        better = cost <= best_cost
        return np.where(better[:, None, None], mean, best_knots), np.where(better, cost, best_cost), None

    def _weights(self, cost_NS: np.ndarray) -> np.ndarray:
        """Cheapest first -> weights (N, S) that add up to one."""
        unit = cost_NS.std(axis=1, keepdims=True) if self.config.relative else 1.0
        above = (cost_NS - cost_NS[:, :1]) / np.maximum(self.config.temperature * unit, 1e-12)
        weights = np.exp(-above)
        return weights / weights.sum(axis=1, keepdims=True)
