"""Gradient planner: Adam on action knots through the world's differentiable rollout.

`samples` restarts per start descend the objective at the same time; the cheapest knots that any of them passed are the
plan. Bounds are kept by projection after each step ("clip"), or by optimising before a tanh ("tanh"). Needs a dynamics
whose rollout is differentiable with respect to its actions (a `WorldModel`; simulators have no gradient), and an
objective that scores tensors.

Memory grows with starts * samples * horizon, since the whole rollout is kept for its backward pass.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sana_wm.agents.objectives import imagine, score
from sana_wm.agents.shooting import Planner, Problem, ShootingConfig, check_costs

ROLLOUTS_PER_STEP = 3  # a backward pass costs about two forward passes


@dataclass(frozen=True)
class GradientConfig(ShootingConfig):
    """Restarts, steps and their size; `initial_std` of the restarts' random walks is in action units."""

    samples: int = 8  # restarts
    iterations: int = 10
    step_size: float = 0.1  # Adam's learning rate, in halves of the action range
    bounds: Literal["clip", "tanh"] = "clip"
    lanes: None = None  # the backward pass needs all of them

    def __post_init__(self):
        super().__post_init__()
        if self.bounds not in ("clip", "tanh"):
            raise ValueError(f"planner.bounds must be 'clip' or 'tanh', got {self.bounds!r}")
        if self.lanes is not None:
            raise ValueError("planner.lanes: the gradient planner rolls out all lanes at once; plan for fewer starts")

    @property
    def rollouts(self) -> int:
        return ROLLOUTS_PER_STEP * self.samples * self.iterations


class GradientPlanner(Planner):
    """Plans by gradient descent."""

    def _search(self, problem: Problem):
        import torch

        cfg, (lanes, knots_count, _) = self.config, problem.mean.shape
        start = self.proposal(problem, 0, problem.mean)
        device = getattr(problem.dynamics, "device", None)

        def tensor(values):
            return torch.tensor(values, dtype=torch.float32, device=device)

        low, high = tensor(self.low), tensor(self.high)
        middle, half = (low + high) / 2, (high - low) / 2
        # knots -> actions is linear: what it does to unit knots and to a unit origin is all there is to know
        of_knots = tensor(self.expand(np.eye(knots_count), np.zeros(knots_count)))  # (H, K)
        of_origin = tensor(self.expand(np.zeros((knots_count, 1)), np.ones(1)))  # (H, 1)
        origin = tensor(problem.origin)[:, None, None]  # (N, 1, 1, A)
        states = problem.state.repeat(cfg.samples)

        free = (tensor(start) - middle) / half  # in halves of the range
        if cfg.bounds == "tanh":
            free = torch.atanh(free.clamp(-0.999, 0.999))
        free = free.detach().requires_grad_()
        adam = torch.optim.Adam([free], lr=cfg.step_size)
        best_knots, best_cost = start[:, 0], np.full(lanes, np.inf)
        for iteration in range(cfg.iterations):
            with torch.enable_grad():
                unit = torch.tanh(free) if cfg.bounds == "tanh" else free
                knots = middle + half * unit  # (N, S, K, A)
                actions = (of_knots @ knots + of_origin * origin).flatten(0, 1)
                # rounding must not leave the box; the gradient passes where it does not
                actions = torch.maximum(torch.minimum(actions, high), low)
                cost = score(problem.objective, imagine(problem.dynamics, problem.objective, states, actions), actions)
                if not getattr(cost, "requires_grad", False):
                    raise ValueError(
                        f"{type(problem.dynamics).__name__} with {type(problem.objective).__name__} has no gradient "
                        "with respect to actions: the gradient planner needs a differentiable world and an objective "
                        "on tensors; plan with cem, icem, mppi or random instead"
                    )
                check_costs(cost, lanes * cfg.samples)
                if iteration < cfg.iterations - 1:
                    (gradient,) = torch.autograd.grad(cost.sum(), free)
            costs = cost.detach().double().reshape(lanes, cfg.samples).cpu().numpy()
            winner = costs.argmin(axis=1)
            better = costs.min(axis=1) < best_cost
            tried = self.clip(knots.detach().double().cpu().numpy())[np.arange(lanes), winner]
            best_knots = np.where(better[:, None, None], tried, best_knots)
            best_cost = np.where(better, costs.min(axis=1), best_cost)
            if iteration < cfg.iterations - 1:
                free.grad = _finite(gradient, iteration)
                adam.step()
                if cfg.bounds == "clip":
                    free.data.clamp_(-1, 1)
        return best_knots, best_cost, None


def _finite(gradient, iteration: int):
    """The gradient (N, S, K, A); restarts whose own is not finite stand still.

    Raises:
        ValueError: a start has no restart left.
    """
    moving = gradient.isfinite().all(-1).all(-1)  # (N, S)
    if not moving.any(dim=1).all():
        raise ValueError(
            f"the gradient of every restart of a start is not finite in iteration {iteration}: plan over fewer steps "
            "(planner.search.knots, block), or with cem, icem, mppi or random"
        )
    return gradient.masked_fill(~moving[..., None, None], 0.0)
