"""A true simulator as a `Dynamics`: the ceiling of every planner that imagines."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SimulatorState:
    """Exact simulator states of B lanes."""

    states: np.ndarray  # (B, D) float64

    @property
    def num_lanes(self) -> int:
        return len(self.states)

    def repeat(self, n: int) -> "SimulatorState":
        return SimulatorState(np.repeat(self.states, n, axis=0))

    def select(self, lanes: Any) -> "SimulatorState":
        return SimulatorState(self.states[lanes])


@dataclass(frozen=True)
class SimulatedRollout:
    """What the simulator says; only proprioception, exactly."""

    proprio: np.ndarray  # (B, H, P)
    latents: None = None
    reward: None = None
    terminated: None = None
    success: None = None
    uncertainty: None = None


class SimulatorDynamics:
    """Rolls out a simulator with settable state.

    Args:
        make_env: builds an environment with `simulate(state (D,), actions (H, A)) -> states (H, D)`; must be picklable
            (a class or a module-level function) if `workers` are used.
        proprio: maps states (..., D) to the columns (..., P) a world would read from frames.
        workers: processes to spread lanes over; 0 simulates in this one.

    Use it as a context manager, or call `close`, when it has workers.

    >>> from sana_wm.envs.pusht import PushTEnv
    >>> from sana_wm.envs.pusht_pose import proprio_of_states
    >>> dynamics = SimulatorDynamics(PushTEnv, proprio_of_states)
    >>> start = SimulatorState(PushTEnv().get_state()[None])
    >>> dynamics.rollout(start.repeat(3), np.full((3, 5, 2), 256.0)).proprio.shape
    (3, 5, 18)
    """

    def __init__(self, make_env: Callable[[], Any], proprio: Callable[[np.ndarray], np.ndarray], workers: int = 0):
        self._proprio, self._workers = proprio, workers
        if workers:
            # Spawned, not forked: the parent may hold torch threads, which a fork copies in an undefined state.
            self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (make_env,))
        else:
            self._env = make_env()

    def rollout(self, state: SimulatorState, actions: np.ndarray) -> SimulatedRollout:
        """Simulate actions (B, H, A) from B states.

        Raises:
            ValueError: if there is not one action sequence per lane, or a gradient is asked for.
        """
        if getattr(actions, "requires_grad", False):
            raise ValueError(
                "a simulator has no gradient with respect to actions: plan on it with cem, icem, mppi or random, or in "
                "a world with gradient"
            )
        actions = np.asarray(actions)
        if actions.ndim != 3 or len(actions) != state.num_lanes:
            raise ValueError(f"actions must have shape ({state.num_lanes}, H, A), got {actions.shape}")
        if self._workers:
            shares = np.array_split(np.arange(state.num_lanes), min(4 * self._workers, state.num_lanes))
            parts = self._pool.map(_simulate_share, [state.states[s] for s in shares], [actions[s] for s in shares])
            states = np.concatenate(list(parts))
        else:
            states = _simulate(self._env, state.states, actions)
        return SimulatedRollout(self._proprio(states))

    def close(self) -> None:
        if self._workers:
            self._pool.shutdown()

    def __enter__(self) -> "SimulatorDynamics":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _simulate(env, states, actions) -> np.ndarray:
    return np.stack([env.simulate(s, a) for s, a in zip(states, actions, strict=True)])


_worker_env = None  # each worker process keeps one simulator for its life


def _start_worker(make_env) -> None:
    global _worker_env
    _worker_env = make_env()


def _simulate_share(states, actions) -> np.ndarray:
    return _simulate(_worker_env, states, actions)
