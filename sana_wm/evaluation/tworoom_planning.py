"""Planning in TwoRoom: how often a planner that imagines reaches a held-out goal in the real simulator.

Every row acts in the real simulator from exactly the recorded state; a pair counts as solved when at some step within
the budget the agent's centre is inside the goal. Two ways of wanting it, each with its ceiling in the true simulator:

* `reward`: the world's own predicted reward, averaged over the planned steps. The goal is the disc in the frames that
  the agent sees. The ceiling plans with the simulator's true reward.
* `image`: the straight distance between the agent's place at some planned step and its place in a goal *image*, both as
  the world reads them. The straight distance has a trap at the wall, so the search must look far enough to see a way
  round. The ceiling has the exact places.

The searches were chosen on the true simulator with random states, not with held-out pairs.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from sana_wm.agents.cem import CEM, CEMConfig
from sana_wm.agents.mpc import MPCAgent
from sana_wm.agents.objectives import ProprioGoal
from sana_wm.agents.protocols import Objective
from sana_wm.agents.simulator_dynamics import SimulatorDynamics, SimulatorState
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_physics import SIDE, path_length
from sana_wm.evaluation.intervals import success_interval
from sana_wm.evaluation.progress import track
from sana_wm.evaluation.tworoom_pairs import TwoRoomPairs, goal_reached

if TYPE_CHECKING:
    from sana_wm.world import WorldModel

PROPRIO_NAMES = ("agent_x", "agent_y", "door_y", "goal_x", "goal_y")
BUDGET = 50  # environment steps


@dataclass(frozen=True)
class Search:
    """A planner, and after how many steps it looks again."""

    cem: CEMConfig
    replan_every: int


SEARCHES = {
    "reward": Search(CEMConfig(knots=3, block=5, samples=48, iterations=3, elites=6, initial_std=0.7, min_std=0.1), 5),
    "image": Search(CEMConfig(knots=5, block=5, samples=64, iterations=6, elites=5, initial_std=1.0, min_std=0.1), 25),
}


@dataclass(frozen=True)
class Run:
    """What happened in the real simulator."""

    states: np.ndarray  # (N, steps, 5) after each step
    seconds_per_plan: float | None = None


def predicted_reward(prediction) -> np.ndarray:
    """The cost of a prediction: minus the mean of its reward over the horizon."""
    return -_numpy(prediction.reward).mean(axis=-1)


def true_reward(prediction) -> np.ndarray:
    """The same in the simulator, whose rollouts carry states as proprioception."""
    return path_length(prediction.proprio).mean(axis=-1) / SIDE


def run_actions(pairs: TwoRoomPairs, actions: np.ndarray) -> Run:
    """Play fixed actions (N, budget, 2)."""
    env = TwoRoomEnv()
    return Run(np.stack([env.simulate(s, a) for s, a in zip(pairs.starts, actions, strict=True)]))


def fixed_actions(pairs: TwoRoomPairs, budget: int = BUDGET, seed: int = 0) -> dict[str, np.ndarray]:
    """The baselines that do not plan, each (N, budget, 2): stay, and uniform random velocities."""
    shape = (len(pairs), budget, 2)
    return {"zero_action": np.zeros(shape), "random": np.random.default_rng(seed).uniform(-1, 1, shape)}


def run_in_simulator(pairs: TwoRoomPairs, want: str, *, show_progress: bool = False) -> Run:
    """CEM on the true simulator: the ceiling of every world with this search."""
    with SimulatorDynamics(TwoRoomEnv, lambda states: states) as dynamics:

        def make_agent(batch: TwoRoomPairs, seeds: np.ndarray) -> MPCAgent:
            objective = true_reward if want == "reward" else ProprioGoal(batch.at_goal, [0, 1], over_horizon="min")
            return _agent(dynamics, objective, lambda states, _: SimulatorState(states[:, -1]), want, seeds)

        return _run(pairs, make_agent, lambda state: state, f"CEM, true simulator, {want}", 25, show_progress)


def run_in_world(world: "WorldModel", pairs: TwoRoomPairs, want: str, *, show_progress: bool = False) -> Run:
    """CEM in a world: plans from frames, acts in the real simulator.

    Raises:
        ValueError: a world that does not act in TwoRoom's action space, or does not read what the objective wants.
    """
    check_world(world, want)
    env = TwoRoomEnv(observation_size=world.config.resolution[0])

    def make_agent(batch: TwoRoomPairs, seeds: np.ndarray) -> MPCAgent:
        objective: Objective = predicted_reward
        if want == "image":
            images = np.stack([env.set_state(state) for state in batch.at_goal])
            places = _numpy(world.read(world.encode(images[:, None])[:, 0]).proprio)
            objective = ProprioGoal(places, [0, 1], over_horizon="min")
        return _agent(
            world, objective, lambda frames, actions: world.begin(frames, actions, seeds=seeds), want, seeds,
            world.config.context,
        )  # fmt: skip

    return _run(pairs, make_agent, env.set_state, f"CEM, world, {want}", 10, show_progress)


def _agent(dynamics, objective: Objective, begin, want: str, seeds: np.ndarray, context: int = 1) -> MPCAgent:
    search = SEARCHES[want]
    planner = CEM(search.cem, TwoRoomEnv().action_space)
    return MPCAgent(planner, dynamics, objective, begin, seeds=seeds, context=context, replan_every=search.replan_every)


def _run(
    pairs: TwoRoomPairs,
    make_agent: Callable[[TwoRoomPairs, np.ndarray], MPCAgent],
    look: Callable[[np.ndarray], np.ndarray],
    what: str,
    at_once: int,
    show_progress: bool,
) -> Run:
    env = TwoRoomEnv()  # one is enough: it steps from the state it is given
    visited, plans, planning_seconds = [], 0, 0.0
    for first in track(range(0, len(pairs), at_once), what, show_progress):
        batch = pairs[first : first + at_once]
        agent = make_agent(batch, np.arange(first, first + len(batch)))
        if batch.states.shape[1] > 1:
            before = np.stack([[look(s) for s in history[:-1]] for history in batch.states])
            agent.reset(before, batch.actions_before)
        now, states = batch.starts, []
        solved = goal_reached(now)
        for _ in range(BUDGET):
            if not solved.all():  # what happens after the last one has arrived changes nothing
                seen = np.stack([look(s) for s in now])
                began = time.perf_counter()
                actions = agent.act(seen)
                planning_seconds += time.perf_counter() - began
                now = np.stack([env.simulate(s, a[None])[0] for s, a in zip(now, actions, strict=True)])
                solved |= goal_reached(now)
            states.append(now)
        plans += len(agent.plans) * len(batch)
        visited.append(np.stack(states, axis=1))
    return Run(np.concatenate(visited), planning_seconds / plans)


def planning_table(
    world: "WorldModel | None", pairs: TwoRoomPairs, wants: tuple[str, ...] = ("reward", "image"), *,
    show_progress: bool = False,
) -> dict:  # fmt: skip
    """Success rates with 95 % Wilson intervals of every row, of all pairs and of those with the goal in the other room.

    Returns:
        {"config": ..., "rows": {name: {"all" | "other_room": rate, low, high, trials, "seconds_per_plan"}}}
    """
    runs = {name: run_actions(pairs, actions) for name, actions in fixed_actions(pairs).items()}
    for want in wants:
        runs[f"cem_simulator_{want}"] = run_in_simulator(pairs, want, show_progress=show_progress)
        if world is not None:
            runs[f"cem_world_{want}"] = run_in_world(world, pairs, want, show_progress=show_progress)
    rows = {}
    for name, run in runs.items():
        solved = goal_reached(run.states).any(axis=1)
        rows[name] = {"all": success_interval(solved), "other_room": success_interval(solved[pairs.cross])}
        rows[name]["seconds_per_plan"] = run.seconds_per_plan
    return {"config": {want: asdict(SEARCHES[want]) for want in wants} | {"budget": BUDGET}, "rows": rows}


def check_world(world: "WorldModel", want: str) -> None:
    """Raise ValueError unless the world can plan in TwoRoom for that objective."""
    space = TwoRoomEnv().action_space
    if world.codec.action_space.shape != space.shape:
        raise ValueError(f"planning acts in TwoRoom ({space}), but this world takes {world.codec.action_space}")
    if want == "reward" and not world.config.heads.reward:
        raise ValueError("planning by predicted reward needs a world with a reward head; plan with 'image'")
    if want == "image" and tuple(world.config.proprio_names[:2]) != PROPRIO_NAMES[:2]:
        raise ValueError(
            f"planning in TwoRoom needs the proprioception {PROPRIO_NAMES}, this world has {world.config.proprio_names}"
        )


def _numpy(tensor) -> np.ndarray:
    return tensor if isinstance(tensor, np.ndarray) else tensor.detach().float().cpu().numpy()
