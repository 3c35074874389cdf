"""Random shooting: draw candidates once, take the cheapest. What every other planner must beat."""

from dataclasses import dataclass

from sana_wm.agents.shooting import Planner, Problem, ShootingConfig, cheapest


@dataclass(frozen=True)
class RandomShootingConfig(ShootingConfig):
    """Budget and proposal; stds are in action units."""

    samples: int = 256


class RandomShooting(Planner):
    """Plans by the best of `samples` random walks; the warm start is the first of them."""

    def _search(self, problem: Problem):
        knots = self.proposal(problem, 0, problem.mean)
        best, cost = cheapest(knots, problem.evaluate(knots), 1)
        return best[:, 0], cost[:, 0], None
