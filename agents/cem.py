"""Cross-entropy method over action knots, planning for many start states in one batched rollout.

A plan is described by `knots` points in action space; each stands for `block` consecutive actions (held, or joined by
straight lines), so the horizon is knots * block. Every iteration draws `samples` candidates per start, rolls all of
them out at once, and refits the Gaussian to the cheapest `elites` (Rubinstein and Kroese, 2004). The cheapest
candidate ever seen stays among the elites (as in iCEM, Pinneri et al., 2020) and is what the planner returns.

The first proposal is a random walk: knot k is the origin plus the sum of k + 1 normal increments. Where actions are
absolute targets (PushT: the point the agent moves to), the origin is the agent's current position, so that the walk
starts where the agent stands and spreads as far as it could have gone.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium import spaces

from sana_wm.agents.protocols import Dynamics, Objective, State


@dataclass(frozen=True)
class CEMConfig:
    """Budget and proposal; stds are in action units (pixels of the 512 px table for PushT)."""

    knots: int = 5
    block: int = 5
    samples: int = 64
    iterations: int = 4
    elites: int = 5
    initial_std: float = 90.0  # of one increment of the random walk
    min_std: float = 6.0  # keeps the search alive once the elites agree
    persistence: float = 0.0  # correlation of successive increments: 1 keeps walking straight on
    interpolation: Literal["hold", "linear"] = "hold"

    def __post_init__(self):
        for name in ("knots", "block", "samples", "iterations", "elites"):
            if getattr(self, name) < 1:
                raise ValueError(f"planner.{name} must be at least 1, got {getattr(self, name)}")
        if self.elites > self.samples:
            raise ValueError(f"planner.elites ({self.elites}) cannot exceed planner.samples ({self.samples})")
        if self.interpolation not in ("hold", "linear"):
            raise ValueError(f"planner.interpolation must be 'hold' or 'linear', got {self.interpolation!r}")

    @property
    def horizon(self) -> int:
        return self.knots * self.block


@dataclass(frozen=True)
class Plan:
    actions: np.ndarray  # (N, H, A) float32, inside the action space
    cost: np.ndarray  # (N,) what the objective gave these actions
    knots: np.ndarray  # (N, K, A); pass to `plan(initial_mean=...)` to start the next search from here


class CEM:
    """Plans by the cross-entropy method; holds no state between calls.

    >>> planner = CEM(CEMConfig(initial_std=40.0), spaces.Box(0, 512, (2,), np.float32))
    >>> planner.config.horizon
    25
    """

    def __init__(self, config: CEMConfig, action_space: spaces.Box):
        if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
            raise ValueError(f"CEM plans in a one-dimensional Box action space, got {action_space}")
        if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
            raise ValueError(f"CEM needs finite action bounds, got low={action_space.low} high={action_space.high}")
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

        Raises:
            ValueError: for shapes that do not fit, or an objective that returns NaN or the wrong number of costs.
        """
        cfg, lanes, width = self.config, state.num_lanes, len(self.low)
        seeds = np.asarray(seeds)
        if seeds.shape != (lanes,):
            raise ValueError(f"seeds must be one per start, shape ({lanes},), got {seeds.shape}")
        middle = np.broadcast_to((self.low + self.high) / 2, (lanes, width))
        origin = np.asarray(middle if origin is None else origin, np.float64)
        if origin.shape != (lanes, width):
            raise ValueError(f"origin must have shape {(lanes, width)}, got {origin.shape}")
        flat = np.repeat(origin[:, None], cfg.knots, axis=1)
        mean = np.array(flat if initial_mean is None else initial_mean, np.float64)
        if mean.shape != flat.shape:
            raise ValueError(f"initial_mean must have shape {flat.shape}, got {mean.shape}")

        best_knots, best_cost = mean, np.full(lanes, np.inf)
        states = state.repeat(cfg.samples)
        std = None  # the first proposal is the walk itself, not independent knots
        for iteration in range(cfg.iterations):
            noise_NSKA = np.stack([_normal(seed, iteration, (cfg.samples, cfg.knots, width)) for seed in seeds])
            noise_NSKA[:, 0] = 0.0  # the mean itself is always tried
            deviation = self._walk(noise_NSKA) if std is None else noise_NSKA * std[:, None]
            knots = np.clip(mean[:, None] + deviation, self.low, self.high)
            cost = self._evaluate(dynamics, objective, states, knots, origin)

            # The best candidate so far competes with the new ones without being rolled out again.
            knots = np.concatenate([knots, best_knots[:, None]], axis=1)
            cost = np.concatenate([cost, best_cost[:, None]], axis=1)
            order = np.argsort(cost, axis=1, kind="stable")[:, : cfg.elites]
            elites = np.take_along_axis(knots, order[:, :, None, None], axis=1)
            mean, std = elites.mean(axis=1), np.maximum(elites.std(axis=1), cfg.min_std)
            best_knots, best_cost = elites[:, 0], np.take_along_axis(cost, order[:, :1], axis=1)[:, 0]
        return Plan(self.expand(best_knots, origin).astype(np.float32), best_cost, best_knots)

    def expand(self, knots: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """Turn knots (..., K, A) into actions (..., K * block, A); `origin` (..., A) precedes the first knot."""
        if self.config.interpolation == "hold":
            return np.repeat(knots, self.config.block, axis=-2)
        previous = np.concatenate([origin[..., None, :], knots[..., :-1, :]], axis=-2)
        fraction = (np.arange(self.config.block) + 1.0) / self.config.block
        path = previous[..., None, :] + fraction[:, None] * (knots - previous)[..., None, :]  # (..., K, block, A)
        return path.reshape(*knots.shape[:-2], self.config.horizon, knots.shape[-1])

    def _walk(self, noise_NSKA: np.ndarray) -> np.ndarray:
        increments = [noise_NSKA[:, :, 0]]
        keep = self.config.persistence
        for k in range(1, noise_NSKA.shape[2]):
            increments.append(keep * increments[-1] + np.sqrt(1 - keep**2) * noise_NSKA[:, :, k])
        return self.config.initial_std * np.cumsum(np.stack(increments, axis=2), axis=2)

    def _evaluate(self, dynamics, objective, states, knots_NSKA, origin) -> np.ndarray:
        lanes, samples = knots_NSKA.shape[:2]
        repeated_origin = np.broadcast_to(origin[:, None], (lanes, samples, origin.shape[-1]))
        actions = self.expand(knots_NSKA, repeated_origin).reshape(lanes * samples, self.config.horizon, -1)
        prediction = dynamics.rollout(states, actions.astype(np.float32))
        cost = np.asarray(objective(prediction), np.float64)
        if cost.shape != (lanes * samples,) or np.isnan(cost).any():
            raise ValueError(
                f"the objective must return {lanes * samples} costs without NaN, got shape {cost.shape}, "
                f"{np.isnan(cost).sum()} NaN"
            )
        return cost.reshape(lanes, samples)


def _normal(seed: int, iteration: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([int(seed), iteration]))).standard_normal(shape)
