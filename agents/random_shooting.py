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
        noise_NSKA = problem.noise(0, (self.config.samples, *problem.mean.shape[1:]))
        noise_NSKA[:, 0] = 0.0
        knots = self.clip(problem.mean[:, None] + self.walk(noise_NSKA))
        best, cost = cheapest(knots, problem.evaluate(knots), 1)
        return best[:, 0], cost[:, 0], None
