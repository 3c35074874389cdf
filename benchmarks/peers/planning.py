"""Planning with every world by the same search: how many of the same held-out pairs are solved in the real simulator.

The search and the two ways of wanting a goal are those of `sana_wm.evaluation.tworoom_planning`; a JEPA can also want
its own way, the smallest distance to the latent of the goal image.
"""

import time
from dataclasses import replace

import numpy as np

from sana_wm.agents.mpc import MPCAgent
from sana_wm.agents.objectives import LatentGoal, ProprioGoal
from sana_wm.agents.planners import make_planner
from sana_wm.agents.protocols import Objective
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.evaluation.acting import Run
from sana_wm.evaluation.intervals import success_interval
from sana_wm.evaluation.tworoom_pairs import TwoRoomPairs, goal_reached
from sana_wm.evaluation.tworoom_planning import (
    BUDGET,
    Search,
    fixed_actions,
    predicted_reward,
    run_actions,
    run_in_simulator,
)

WANTS = ("reward", "image")


def smaller(search: Search, share: float) -> Search:
    """A search that rolls out about this share of the plans: first fewer iterations (two at least), then fewer samples.

    The horizon and how often it looks again stay as they are.
    """
    cem = search.planner
    rollouts = max(4.0, share * cem.samples * cem.iterations)
    iterations = max(min(cem.iterations, 2), min(cem.iterations, round(rollouts / cem.samples)))
    samples = max(2, min(cem.samples, round(rollouts / iterations)))
    elites = min(max(1, round(cem.elites * samples / cem.samples)), samples)
    return replace(search, planner=replace(cem, samples=samples, iterations=iterations, elites=elites))


def objective_for(world, want: str, images: np.ndarray) -> Objective:
    """What to minimise. images: (N, H, W, 3) goal images; want: "reward", "image" (places) or "latent"."""
    if want == "reward":
        return predicted_reward
    kept = world.encode(images[:, None])[:, 0]
    if want == "latent":
        return LatentGoal(kept[..., None, None], over_horizon="min")
    return ProprioGoal(world.read(kept).proprio, [0, 1], over_horizon="min")


def run_in_world(world, pairs: TwoRoomPairs, want: str, search: Search, *, at_once: int = 10, offset: int = 0) -> Run:
    """Plan from frames in a world or a peer, act in the real simulator, until arrived or `BUDGET` steps are over.

    ``offset``: number of the first pair, from which the seeds count.
    """
    env = TwoRoomEnv(observation_size=world.config.resolution[0])
    planner = make_planner(search.planner, env.action_space)
    visited, plans, planning_seconds = [], 0, 0.0
    for first in range(0, len(pairs), at_once):
        batch = pairs[first : first + at_once]
        seeds = offset + np.arange(first, first + len(batch))
        objective = objective_for(world, want, np.stack([env.set_state(state) for state in batch.at_goal]))
        agent = MPCAgent(
            planner, world, objective, lambda frames, actions, seeds=seeds: world.begin(frames, actions, seeds=seeds),
            seeds=seeds, context=world.config.context, replan_every=search.replan_every,
        )  # fmt: skip
        if batch.states.shape[1] > 1:
            before = np.stack([[env.set_state(s) for s in history[:-1]] for history in batch.states])
            agent.reset(before, batch.actions_before)
        now, states = batch.starts, []
        solved = goal_reached(now)
        for _ in range(BUDGET):
            if not solved.all():
                seen = np.stack([env.set_state(s) for s in now])
                began = time.process_time()
                actions = agent.act(seen)
                planning_seconds += time.process_time() - began
                now = np.stack([env.simulate(s, a[None])[0] for s, a in zip(now, actions, strict=True)])
                solved |= goal_reached(now)
            states.append(now)
        plans += len(agent.plans) * len(batch)
        visited.append(np.stack(states, axis=1))
    return Run(np.concatenate(visited), planning_seconds / plans)


def solved(run: Run) -> np.ndarray:
    """Whether (N,) each pair was solved."""
    return goal_reached(run.states).any(axis=1)


def score(solved: np.ndarray, seconds_per_plan: float | None, pairs: TwoRoomPairs) -> dict:
    """{"all" | "other_room": rate, low, high, trials; "seconds_per_plan": of the processor; "solved": (N,) list}."""
    rows = {"all": success_interval(solved), "other_room": success_interval(solved[pairs.cross])}
    return rows | {"seconds_per_plan": seconds_per_plan, "solved": solved.tolist()}


def floors_and_ceilings(pairs: TwoRoomPairs) -> dict[str, dict]:
    """Rows that need no world: stay, random, and the search on the true simulator for both objectives."""
    runs = {name: run_actions(pairs, actions) for name, actions in fixed_actions(pairs).items()}
    runs |= {f"simulator, {want}": run_in_simulator(pairs, want) for want in WANTS}
    return {name: score(solved(run), run.seconds_per_plan, pairs) for name, run in runs.items()}
