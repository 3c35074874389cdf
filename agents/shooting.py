"""What all planners share: bounds, knots, proposals, one batched evaluation, and a plan as the result.

A plan is described by `knots` points in action space; each stands for `block` consecutive actions (held, or joined by
straight lines), so the horizon is knots * block. A planner is a `Planner` with a `_search`: it proposes knots
(N, S, K, A) for N starts, has `Problem.evaluate` roll all N * S candidates out at once, and says which it takes.

The first proposal is a random walk: knot k is the origin plus the sum of k + 1 normal increments. Where actions are
absolute targets (PushT: the point the agent moves to), the origin is the agent's current position, so that the walk
starts where the agent stands and spreads as far as it could have gone.

Draws are counter-based, a pure function of (seed of the start, iteration): the plan of a start does not depend on who
shares its batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from sana_wm.agents.objectives import imagine, score
from sana_wm.agents.predictions import joined
from sana_wm.agents.protocols import Dynamics, Objective, State


@dataclass(frozen=True)
class ShootingConfig:
    """What every planner has: a horizon in knots, a number of candidates and a proposal.

    Stds are in action units (pixels of the 512 px table for PushT, whose defaults these are).
    """

    knots: int = 5
    block: int = 5
    samples: int = 64
    initial_std: float = 90.0  # of one increment of the random walk
    persistence: float = 0.0  # correlation of successive increments: 1 keeps walking straight on
    interpolation: Literal["hold", "linear"] = "hold"
    lanes: int | None = None  # candidates rolled out at once, all starts together; None: all of them. Bounds memory

    def __post_init__(self):
        for name in ("knots", "block", "samples", "iterations", "elites", "lanes"):
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise ValueError(f"planner.{name} must be at least 1, got {value}")
        for name in ("initial_std", "min_std", "temperature", "beta", "step_size"):
            value = getattr(self, name, None)
            if value is not None and not value >= 0:
                raise ValueError(f"planner.{name} must not be negative, got {value}")
        if not 0 <= self.persistence <= 1:
            raise ValueError(f"planner.persistence must be in [0, 1], got {self.persistence}")
        if (getattr(self, "elites", None) or 0) > self.samples:
            raise ValueError(f"planner.elites ({self.elites}) cannot exceed planner.samples ({self.samples})")
        if self.interpolation not in ("hold", "linear"):
            raise ValueError(f"planner.interpolation must be 'hold' or 'linear', got {self.interpolation!r}")

    @property
    def horizon(self) -> int:
        return self.knots * self.block

    @property
    def rollouts(self) -> int:
        """Rollouts of the horizon that one plan of one start costs."""
        return self.samples * getattr(self, "iterations", 1)


def bounded(config: ShootingConfig, lanes: int) -> ShootingConfig:
    """The same search with at most so many candidates rolled out at once."""
    return replace(config, lanes=lanes) if lanes < config.samples else config


@dataclass(frozen=True)
class Plan:
    actions: np.ndarray  # (N, H, A) float32, inside the action space
    cost: np.ndarray  # (N,) what the objective gave these actions
    knots: np.ndarray  # (N, K, A); pass to `plan(initial_mean=...)` to start the next search from here
    elites: np.ndarray | None = None  # (N, E, K, A) the best candidates, of planners that keep them (iCEM)

    def shifted(self, used: int) -> dict[str, np.ndarray | None]:
        """Where the next search starts after the first `used` knots were acted: arguments of `Planner.plan`.

        The last knot is repeated to fill the horizon.
        """

        def moved(knots):
            return np.concatenate([knots[..., used:, :], np.repeat(knots[..., -1:, :], used, axis=-2)], axis=-2)

        return {
            "initial_mean": moved(self.knots),
            "initial_elites": None if self.elites is None else moved(self.elites),
        }


@dataclass(frozen=True)
class Problem:
    """One call of `plan`: where N searches start, and what a candidate costs."""

    evaluate: Callable[[np.ndarray], np.ndarray]  # knots (N, S, K, A) -> costs (N, S)
    seeds: np.ndarray  # (N,)
    origin: np.ndarray  # (N, A)
    mean: np.ndarray  # (N, K, A)
    elites: np.ndarray | None  # (N, E, K, A)
    dynamics: Dynamics
    objective: Objective
    state: State

    def noise(self, iteration: int, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal draws (N, *shape), each start's from its own seed."""
        return np.stack([normal(seed, iteration, shape) for seed in self.seeds])


class Planner(ABC):
    """Plans in a one-dimensional Box of finite bounds; holds no state between calls."""

    def __init__(self, config: ShootingConfig, action_space: spaces.Box):
        name = type(self).__name__
        if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
            raise ValueError(f"{name} plans in a one-dimensional Box action space, got {action_space}")
        if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
            raise ValueError(f"{name} needs finite action bounds, got low={action_space.low} high={action_space.high}")
        self.config = config
        self.low, self.high = action_space.low, action_space.high

    def plan(
        self,
        dynamics: Dynamics,
        objective: Objective,
        state: State,
        *,
        seeds: np.ndarray,
        origin: np.ndarray | None = None,
        initial_mean: np.ndarray | None = None,
        initial_elites: np.ndarray | None = None,
    ) -> Plan:
        """Search the cheapest action sequence for each of N start states.

        Args:
            dynamics: rolls out N * samples lanes at once.
            objective: with one goal or with N.
            state: N lanes.
            seeds: (N,) non-negative integers; the plan of a start depends on its own seed, not on its neighbours.
            origin: (N, A) action the random walk starts from (and from which linear interpolation departs); the
                middle of the action space by default.
            initial_mean: (N, K, A) warm start; replaces the flat walk around `origin` as the first mean.
            initial_elites: (N, E, K, A) candidates of an earlier search; planners that keep none ignore them.

        Raises:
            ValueError: for shapes that do not fit, or an objective that returns NaN or the wrong number of costs.
        """
        lanes, width, knots = state.num_lanes, len(self.low), self.config.knots
        seeds = np.asarray(seeds)
        if seeds.shape != (lanes,):
            raise ValueError(f"seeds must be one per start, shape ({lanes},), got {seeds.shape}")
        middle = np.broadcast_to((self.low + self.high) / 2, (lanes, width))
        origin = np.asarray(middle if origin is None else origin, np.float64)
        if origin.shape != (lanes, width):
            raise ValueError(f"origin must have shape {(lanes, width)}, got {origin.shape}")
        flat = np.repeat(origin[:, None], knots, axis=1)
        mean = np.array(flat if initial_mean is None else initial_mean, np.float64)
        if mean.shape != flat.shape:
            raise ValueError(f"initial_mean must have shape {flat.shape}, got {mean.shape}")
        if initial_elites is not None:
            initial_elites = np.asarray(initial_elites, np.float64)
            shape = initial_elites.shape
            if len(shape) != 4 or (shape[0], *shape[2:]) != flat.shape:
                raise ValueError(f"initial_elites must have shape ({lanes}, E, {knots}, {width}), got {shape}")
        evaluate = self._evaluator(dynamics, objective, state, origin)
        best, cost, elites = self._search(
            Problem(evaluate, seeds, origin, mean, initial_elites, dynamics, objective, state)
        )
        return Plan(self.expand(best, origin).astype(np.float32), cost, best, elites)

    @abstractmethod
    def _search(self, problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The best knots (N, K, A) found, their costs (N,), and the elites (N, E, K, A) or None."""

    def expand(self, knots: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """Turn knots (..., K, A) into actions (..., K * block, A); `origin` (..., A) precedes the first knot."""
        if self.config.interpolation == "hold":
            return np.repeat(knots, self.config.block, axis=-2)
        previous = np.concatenate([origin[..., None, :], knots[..., :-1, :]], axis=-2)
        fraction = (np.arange(self.config.block) + 1.0) / self.config.block
        path = previous[..., None, :] + fraction[:, None] * (knots - previous)[..., None, :]  # (..., K, block, A)
        return path.reshape(*knots.shape[:-2], self.config.horizon, knots.shape[-1])

    def proposal(self, problem: Problem, iteration: int, mean: np.ndarray, std: np.ndarray | None = None) -> np.ndarray:
        """Candidates (N, S, K, A) around a mean (N, K, A), which is the first of them.

        std: (N, K, A) of independent knots; None: the random walk.
        """
        noise_NSKA = problem.noise(iteration, (self.config.samples, *mean.shape[1:]))
        noise_NSKA[:, 0] = 0.0
        deviation = self.walk(noise_NSKA) if std is None else noise_NSKA * std[:, None]
        return self.clip(mean[:, None] + deviation)

    def walk(self, noise_NSKA: np.ndarray) -> np.ndarray:
        """Deviations (N, S, K, A) of the first proposal: a random walk from standard normal draws."""
        increments = [noise_NSKA[:, :, 0]]
        keep = self.config.persistence
        for k in range(1, noise_NSKA.shape[2]):
            increments.append(keep * increments[-1] + np.sqrt(1 - keep**2) * noise_NSKA[:, :, k])
        return self.config.initial_std * np.cumsum(np.stack(increments, axis=2), axis=2)

    def clip(self, knots: np.ndarray) -> np.ndarray:
        return np.clip(knots, self.low, self.high)

    def _evaluator(self, dynamics, objective, state, origin) -> Callable[[np.ndarray], np.ndarray]:
        repeated: dict[int, State] = {}  # a search often asks for the same number of candidates again

        def evaluate(knots_NSKA: np.ndarray) -> np.ndarray:
            lanes, samples = knots_NSKA.shape[:2]
            repeated_origin = np.broadcast_to(origin[:, None], (lanes, samples, origin.shape[-1]))
            actions = self.expand(knots_NSKA, repeated_origin).reshape(lanes * samples, self.config.horizon, -1)
            actions = actions.astype(np.float32)
            limit = self.config.lanes
            if limit is None or limit >= len(actions):
                if samples not in repeated:
                    repeated.clear()
                    repeated[samples] = state.repeat(samples)
                prediction = imagine(dynamics, objective, repeated[samples], actions)
            else:
                start = np.repeat(np.arange(lanes), samples)
                shares = [slice(first, first + limit) for first in range(0, len(actions), limit)]
                prediction = joined([imagine(dynamics, objective, state.select(start[s]), actions[s]) for s in shares])
            cost = np.asarray(score(objective, prediction, actions), np.float64)
            check_costs(cost, lanes * samples)
            return cost.reshape(lanes, samples)

        return evaluate


def check_costs(cost: Any, lanes: int) -> None:
    """Raise ValueError unless there is one cost per lane and none is NaN."""
    values = np.asarray(cost.detach().cpu() if hasattr(cost, "detach") else cost)
    if values.shape != (lanes,) or np.isnan(values).any():
        raise ValueError(
            f"the objective must return {lanes} costs without NaN, got shape {values.shape}, "
            f"{np.isnan(values).sum()} NaN"
        )


def normal(seed: int, iteration: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal draws, a pure function of seed and iteration."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([int(seed), iteration]))).standard_normal(shape)


def cheapest(knots_NSKA: np.ndarray, cost_NS: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` cheapest candidates of every start, cheapest first, and their costs."""
    order = np.argsort(cost_NS, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(knots_NSKA, order[:, :, None, None], axis=1), np.take_along_axis(cost_NS, order, axis=1)
