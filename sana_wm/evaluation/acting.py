"""Planning agents acting in a true simulator, for many start-goal pairs: what PushT and TwoRoom have in common."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sana_wm.agents.mpc import MPCAgent
from sana_wm.evaluation.progress import track


@dataclass(frozen=True)
class Run:
    """What happened in the real simulator, and what the agents had planned."""

    states: np.ndarray  # (N, steps, D) after each step, of the first N pairs
    seconds_per_plan: float | None = None
    agents: tuple[MPCAgent, ...] = ()  # one per batch of pairs


def play(env: Any, starts: np.ndarray, actions: np.ndarray) -> Run:
    """Play fixed actions (N, steps, A) from states (N, D)."""
    return Run(np.stack([env.simulate(s, a) for s, a in zip(starts, actions, strict=True)]))


def act(
    env: Any,
    pairs: Any,
    make_agent: Callable[[Any, np.ndarray], MPCAgent],
    look: Callable[[np.ndarray], np.ndarray],
    *,
    budget: int,
    at_once: int,
    solved: Callable[[np.ndarray], np.ndarray] | None = None,
    minutes: float | None = None,
    keep_agents: bool = True,
    what: str = "planning",
    show_progress: bool = False,
) -> Run:
    """Act for `budget` steps from every pair's start.

    Args:
        env: a simulator with `simulate(state, actions)`; one is enough, it steps from the state it is given.
        pairs: with `states` (N, C, D), `actions_before` (N, C - 1, A) and slices of itself.
        make_agent: (pairs of a batch, their seeds) -> the agent that acts in all of them.
        look: state (D,) -> what an agent observes.
        at_once: pairs planned for in one batch.
        solved: states (..., D) -> (...). What is solved is planned for no longer, and a batch ends when all of its
            pairs are; without it, when the budget is over.
        minutes: of planning; when they are over, the remaining pairs are left out.
        keep_agents: False frees what the agents remember, every state they planned from.
    """
    visited, agents, plans, planning_seconds = [], [], 0, 0.0
    for first in track(range(0, len(pairs), at_once), what, show_progress):
        if first and minutes is not None and planning_seconds > 60 * minutes:
            break
        batch = pairs[first : first + at_once]
        agent = make_agent(batch, np.arange(first, first + len(batch)))
        if batch.states.shape[1] > 1:
            before = np.stack([[look(s) for s in history[:-1]] for history in batch.states])
            agent.reset(before, batch.actions_before)
        now, states = batch.starts, []
        done = np.zeros(len(batch), bool) if solved is None else solved(now)
        for _ in range(budget):
            if not done.all():  # what happens after the last one has arrived changes nothing
                seen = np.stack([look(s) for s in now])
                began = time.perf_counter()
                actions = agent.act(seen, ~done)
                planning_seconds += time.perf_counter() - began
                now = np.stack([env.simulate(s, a[None])[0] for s, a in zip(now, actions, strict=True)])
                done = done if solved is None else done | solved(now)
            states.append(now)
        visited.append(np.stack(states, axis=1))
        plans += sum(int(np.isfinite(plan.cost).sum()) for plan in agent.plans)
        if keep_agents:
            agents.append(agent)
    return Run(np.concatenate(visited), planning_seconds / max(plans, 1), tuple(agents))


def acts_in(space: spaces.Box, simulator: spaces.Box) -> bool:
    """Whether every action of a world's space is one of the simulator's."""
    if space.shape != simulator.shape:
        return False
    return bool((space.low >= simulator.low).all() and (space.high <= simulator.high).all())
