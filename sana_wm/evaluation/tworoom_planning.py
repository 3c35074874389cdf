"""Planning in TwoRoom: how often a planner that imagines reaches a held-out goal in the real simulator.

Every row acts in the real simulator from exactly the recorded state; a pair counts as solved when at some step within
the budget the agent's centre is inside the goal. Four ways of wanting it:

* `reward`: the world's own predicted reward, averaged over the planned steps. The goal is the disc in the frames that
  the agent sees. The ceiling plans with the simulator's true reward.
* `image`: the straight distance between the agent's place at some planned step and its place in a goal *image*, both as
  the world reads them. The straight distance has a trap at the wall, so the search must look far enough to see a way
  round. The ceiling has the exact places.
* `latent`: the distance of imagined latents to those of the goal image; no ceiling, a simulator has no latents.
* `success`: the world's own predicted probability of success, on a logarithmic scale. The ceiling is as for `reward`.

The searches were chosen with pairs of the validation split, not with those that are reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.agents.cem import CEMConfig
from sana_wm.agents.icem import ICEMConfig
from sana_wm.agents.mpc import MPCAgent
from sana_wm.agents.objectives import LatentGoal, PredictedReward, ProprioGoal, SuccessProbability
from sana_wm.agents.planners import at_budget_of, make_planner, planner_name
from sana_wm.agents.protocols import Objective
from sana_wm.agents.shooting import ShootingConfig, bounded
from sana_wm.agents.simulator_dynamics import SimulatorDynamics, SimulatorState
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_physics import SIDE, path_length
from sana_wm.evaluation.acting import Run, act, acts_in, play
from sana_wm.evaluation.intervals import success_interval
from sana_wm.evaluation.tworoom_pairs import TwoRoomPairs, goal_reached

if TYPE_CHECKING:
    from sana_wm.world import WorldModel

PROPRIO_NAMES = ("agent_x", "agent_y", "door_y", "goal_x", "goal_y")
BUDGET = 50  # environment steps


@dataclass(frozen=True)
class Search:
    """A planner, and after how many steps it looks again."""

    planner: ShootingConfig
    replan_every: int
    lanes: int = 640  # candidates rolled out at once; bounds memory

    def of(self, name: str, settings: Mapping[str, Any] | None = None) -> "Search":
        """This search by another planner with no more rollouts per plan, and with settings changed."""
        given = {key: value for key, value in (settings or {}).items() if value is not None}
        if name == planner_name(self.planner):
            return replace(self, planner=replace(self.planner, **given))
        # what the backward pass needs is kept for every step of every lane
        return replace(
            self,
            planner=at_budget_of(name, self.planner, **given),
            lanes=min(self.lanes, 64) if name == "gradient" else self.lanes,
        )


_NEAR = CEMConfig(knots=3, block=5, samples=48, iterations=3, elites=6, initial_std=0.7, min_std=0.1)
# A way round the wall and one into it are two valleys of the cost: CEM soon agrees on one of them, coloured noise and
# kept elites go on looking. Looking again after ten steps corrects what the world does not know.
_FAR = ICEMConfig(knots=5, block=5, samples=78, iterations=3, elites=5, initial_std=1.0, min_std=0.1)
SEARCHES = {
    "reward": Search(_NEAR, 5),
    "image": Search(_FAR, 10),
    "latent": Search(_FAR, 10),
    "success": Search(_FAR, 10),
}

predicted_reward = PredictedReward(until_terminated=False, over_horizon="mean")


def true_reward(prediction) -> np.ndarray:
    """The same in the simulator, whose rollouts carry states as proprioception."""
    return path_length(prediction.proprio).mean(axis=-1) / SIDE


def run_actions(pairs: TwoRoomPairs, actions: np.ndarray) -> Run:
    """Play fixed actions (N, budget, 2)."""
    return play(TwoRoomEnv(), pairs.starts, actions)


def fixed_actions(pairs: TwoRoomPairs, budget: int = BUDGET, seed: int = 0) -> dict[str, np.ndarray]:
    """The baselines that do not plan, each (N, budget, 2): stay, and uniform random velocities."""
    shape = (len(pairs), budget, 2)
    return {"zero_action": np.zeros(shape), "random": np.random.default_rng(seed).uniform(-1, 1, shape)}


def run_in_simulator(
    pairs: TwoRoomPairs, want: str, search: Search | None = None, *, show_progress: bool = False
) -> Run:
    """Plan on the true simulator: the ceiling of every world with this search (`SEARCHES[want]` by default)."""
    if want == "latent":
        raise ValueError("want: the true simulator has no latents; plan by 'image'")
    search = search or SEARCHES[want]
    with SimulatorDynamics(TwoRoomEnv, lambda states: states) as dynamics:

        def make_agent(batch: TwoRoomPairs, seeds: np.ndarray) -> MPCAgent:
            objective = ProprioGoal(batch.at_goal, [0, 1], over_horizon="min") if want == "image" else true_reward
            begin = lambda states, _: SimulatorState(states[:, -1])  # noqa: E731
            return _agent(dynamics, objective, begin, search, seeds, TwoRoomEnv().action_space)

        return _run(pairs, make_agent, lambda state: state, search, f"true simulator, {want}", show_progress)


def run_in_world(
    world: "WorldModel",
    pairs: TwoRoomPairs,
    want: str,
    search: Search | None = None,
    *,
    keep_agents: bool = False,
    show_progress: bool = False,
) -> Run:
    """Plan in a world from frames, act in the real simulator.

    Raises:
        ValueError: a world that does not act in TwoRoom's action space, or does not read what the objective wants.
    """
    check_world(world, want)
    search = search or SEARCHES[want]
    env = TwoRoomEnv(observation_size=world.config.resolution[0])

    def make_agent(batch: TwoRoomPairs, seeds: np.ndarray) -> MPCAgent:
        return _agent(
            world,
            world_objective(world, batch, want),
            lambda frames, actions: world.begin(frames, actions, seeds=seeds),
            search,
            seeds,
            world.codec.action_space,
            world.config.context,
        )

    return _run(pairs, make_agent, env.set_state, search, f"world, {want}", show_progress, keep_agents)


def world_objective(world: "WorldModel", pairs: TwoRoomPairs, want: str) -> Objective:
    """What is wanted of the world's predictions; goals come from goal images."""
    if want == "reward":
        return predicted_reward
    if want == "success":
        return SuccessProbability(log=True)
    env = TwoRoomEnv(observation_size=world.config.resolution[0])
    images = np.stack([env.set_state(state) for state in pairs.at_goal])
    goals = world.encode(images[:, None])[:, 0]
    if want == "latent":
        return LatentGoal(goals, over_horizon="min")
    return ProprioGoal(world.read(goals).proprio, [0, 1], over_horizon="min")


def _agent(dynamics, objective: Objective, begin, search: Search, seeds, action_space, context: int = 1) -> MPCAgent:
    planner = make_planner(bounded(search.planner, search.lanes), action_space)
    return MPCAgent(planner, dynamics, objective, begin, seeds=seeds, context=context, replan_every=search.replan_every)


def _run(pairs, make_agent, look, search: Search, what: str, show_progress: bool, keep_agents: bool = False) -> Run:
    return act(
        TwoRoomEnv(),
        pairs,
        make_agent,
        look,
        budget=BUDGET,
        at_once=max(1, search.lanes // search.planner.samples),
        solved=goal_reached,
        keep_agents=keep_agents,
        what=f"{planner_name(search.planner).upper()}, {what}",
        show_progress=show_progress,
    )


def planning_table(
    world: "WorldModel | None",
    pairs: TwoRoomPairs,
    wants: tuple[str, ...] = ("reward", "image"),
    *,
    planners: Sequence[str] | None = None,
    searches: Mapping[str, Search] = SEARCHES,
    show_progress: bool = False,
) -> dict:
    """Success rates with 95 % Wilson intervals of every row, of all pairs and of those with the goal in the other room.

    Args:
        planners: by name, at the rollouts of `searches[want]`; by default the planner that each of those is of.
        searches: for each of the wants.

    Returns:
        {"config": ..., "rows": {name: {"all" | "other_room": rate, low, high, trials, "seconds_per_plan"}}}, names as
        "cem_world_reward".
    """
    runs = {name: run_actions(pairs, actions) for name, actions in fixed_actions(pairs).items()}
    for want in wants:
        names = [planner_name(searches[want].planner)] if planners is None else planners
        for name, search in ((name, searches[want].of(name)) for name in names):
            if want != "latent" and name != "gradient":  # a simulator has neither latents nor a gradient
                runs[f"{name}_simulator_{want}"] = run_in_simulator(pairs, want, search, show_progress=show_progress)
            if world is not None:
                runs[f"{name}_world_{want}"] = run_in_world(world, pairs, want, search, show_progress=show_progress)
    rows = {}
    for name, run in runs.items():
        done = solved(run)
        rows[name] = {"all": success_interval(done), "other_room": success_interval(done[pairs.cross])}
        rows[name]["seconds_per_plan"] = run.seconds_per_plan
    return {"config": {want: asdict(searches[want]) for want in wants} | {"budget": BUDGET}, "rows": rows}


def solved(run: Run) -> np.ndarray:
    """Which pairs (N,) a run solved."""
    return goal_reached(run.states).any(axis=1)


def check_world(world: "WorldModel", want: str) -> None:
    """Raise ValueError unless the world can plan in TwoRoom for that objective."""
    if want not in SEARCHES:
        raise ValueError(f"want: got {want!r}, expected one of {sorted(SEARCHES)}")
    space = TwoRoomEnv().action_space
    if not acts_in(world.codec.action_space, space):
        raise ValueError(f"planning acts in TwoRoom ({space}), but this world takes {world.codec.action_space}")
    if want == "reward" and not world.config.heads.reward:
        raise ValueError("planning by predicted reward needs a world with a reward head; plan with 'image'")
    if want == "success" and not world.config.heads.success:
        raise ValueError("planning by predicted success needs a world with a success head; plan with 'image'")
    if want == "image" and tuple(world.config.proprio_names[:2]) != PROPRIO_NAMES[:2]:
        raise ValueError(
            f"planning in TwoRoom needs the proprioception {PROPRIO_NAMES}, this world has {world.config.proprio_names}"
        )
