"""Planning in PushT: how often a planner that imagines reaches a held-out goal in the real simulator.

Every row of the table acts in the real simulator from exactly the recorded state. A pair counts as solved when at some
step within the budget the block is within 20 px and 20 degrees of its goal (`block`), or the block and the agent
(within 20 px) at the same step (`block_and_agent`).

The cost is the same in the world and in the true simulator: root mean squared distance of the block's eight keypoints
to those of the goal, plus a small weight times the agent's distance to its goal. The simulator row reads both from
exact states (the privileged ceiling); the world row reads imagined ones from imagined latents, and the goal from the
encoded goal *image*, never from its state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.agents.cem import CEMConfig
from sana_wm.agents.mpc import MPCAgent
from sana_wm.agents.objectives import LatentGoal, ProprioGoal, WeightedSum
from sana_wm.agents.planners import at_budget_of, make_planner, planner_name
from sana_wm.agents.protocols import Objective
from sana_wm.agents.shooting import ShootingConfig, bounded
from sana_wm.agents.simulator_dynamics import SimulatorDynamics, SimulatorState
from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.pusht_pose import proprio_of_states
from sana_wm.evaluation.acting import Run, act, acts_in, play
from sana_wm.evaluation.intervals import success_interval
from sana_wm.evaluation.pairs import Pairs, agent_reached, block_reached

if TYPE_CHECKING:
    from sana_wm.world import WorldModel

AGENT_COLUMNS, BLOCK_COLUMNS = [0, 1], list(range(2, 18))  # of a PushT world's proprioception


@dataclass(frozen=True)
class PlanningConfig:
    """One planner and one cost for every row; tuned with validation pairs."""

    search: ShootingConfig = field(default_factory=CEMConfig)
    agent_weight: float = 0.2  # of the agent's distance beside the block's
    over_horizon: str = "last"  # when the cost looks: "last", "min" or "mean" over the planned steps
    replan_every: int = 25
    budget: int = 50  # environment steps
    lanes: int = 1024  # rolled out at once; bounds memory
    minutes: float | None = None  # of planning in the world; when they are over, the remaining pairs are left out

    @property
    def pairs_at_once(self) -> int:
        return max(1, self.lanes // self.search.samples)

    def of(self, name: str) -> "PlanningConfig":
        """The same by another planner with no more rollouts per plan."""
        if name == planner_name(self.search):
            return self
        # what the backward pass needs is kept for every step of every lane
        lanes = min(self.lanes, 64) if name == "gradient" else self.lanes
        return replace(self, search=at_budget_of(name, self.search), lanes=lanes)


def planning_config(settings: Mapping[str, Any]) -> PlanningConfig:
    """Build it from the nested settings of configs/planner/*.yaml; what is null there is as `PlanningConfig` has it.

    Raises:
        ValueError: unknown planner or settings.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    name, search = given.pop("name", "cem"), given.pop("search", {})
    search = {key: value for key, value in search.items() if value is not None}
    return PlanningConfig(**given, search=at_budget_of(name, CEMConfig(), **search))


def pose_objective(goal_proprio: np.ndarray, config: PlanningConfig) -> Objective:
    """The planning cost for goals (N, 18) in proprioceptive columns."""
    return WeightedSum(
        (1.0, ProprioGoal(goal_proprio, BLOCK_COLUMNS, over_horizon=config.over_horizon)),
        (config.agent_weight, ProprioGoal(goal_proprio, AGENT_COLUMNS, over_horizon=config.over_horizon)),
    )


def run_actions(pairs: Pairs, actions: np.ndarray) -> Run:
    """Play fixed actions (N, budget, 2)."""
    return play(PushTEnv(), pairs.starts, actions)


def fixed_actions(pairs: Pairs, budget: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The baselines that do not plan, each (N, budget, 2): stay, uniform random targets, and the recorded actions."""
    space = PushTEnv().action_space
    stay = np.clip(pairs.starts[:, :2], space.low, space.high)
    replay = np.concatenate([pairs.recorded, np.repeat(pairs.recorded[:, -1:], budget, axis=1)], axis=1)
    random = np.random.default_rng(seed).uniform(space.low, space.high, (len(pairs), budget, 2))
    return {"zero_action": np.repeat(stay[:, None], budget, axis=1), "random": random, "replay": replay[:, :budget]}


def run_in_simulator(pairs: Pairs, config: PlanningConfig, *, workers: int = 0, show_progress: bool = False) -> Run:
    """Plan on the true simulator: the ceiling of every world at this budget."""
    with SimulatorDynamics(PushTEnv, proprio_of_states, workers) as dynamics:

        def make_agent(batch: Pairs, seeds: np.ndarray) -> MPCAgent:
            return MPCAgent(
                make_planner(bounded(config.search, config.lanes), PushTEnv().action_space),
                dynamics,
                pose_objective(proprio_of_states(batch.goals), config),
                begin=lambda states, _: SimulatorState(states[:, -1]),
                origin=lambda state: state.states[:, :2],
                replan_every=config.replan_every,
                seeds=seeds,
            )

        # The ceiling is cheap: only planning in the world is cut short.
        whole = replace(config, minutes=None)
        return _run(pairs, whole, make_agent, lambda state: state, "true simulator", show_progress)


def run_in_world(
    world: "WorldModel",
    pairs: Pairs,
    config: PlanningConfig,
    *,
    by_latents: bool | None = None,
    show_progress: bool = False,
) -> Run:
    """Plan in a world from frames towards a goal frame, act in the real simulator.

    Args:
        by_latents: plan by distance of latents instead of poses; by default where a world has no proprioception.

    Raises:
        ValueError: if the world does not act in PushT's action space or has other proprioception than PushT's.
    """
    check_world(world)
    context, size = world.config.context, world.config.resolution[0]
    if pairs.states.shape[1] < context:
        raise ValueError(f"the world needs {context} context frames; cut pairs with context={context}")
    has_pose = bool(world.config.proprio_names)
    if by_latents is False and not has_pose:
        raise ValueError("this world reads no poses; plan by distance of latents")

    def make_agent(batch: Pairs, seeds: np.ndarray) -> MPCAgent:
        goals = world.encode(frames_of_states(batch.goals, size)[:, None])[:, 0]
        objective = (
            LatentGoal(goals, over_horizon=config.over_horizon)
            if by_latents or not has_pose
            else pose_objective(_numpy(world.read(goals).proprio), config)
        )
        return MPCAgent(
            make_planner(bounded(config.search, config.lanes), world.codec.action_space),
            world,
            objective,
            begin=lambda frames, actions: world.begin(frames, actions, seeds=seeds),
            context=context,
            # Where the agent stands is read from the frame, like everything else.
            origin=(lambda state: _numpy(world.read(state.latent).proprio)[:, AGENT_COLUMNS]) if has_pose else None,
            replan_every=config.replan_every,
            seeds=seeds,
        )

    camera = PushTEnv(observation_size=size)
    return _run(pairs, config, make_agent, camera.set_state, "world", show_progress)


def _run(pairs: Pairs, config: PlanningConfig, make_agent, look, what: str, show_progress: bool) -> Run:
    return act(
        PushTEnv(),
        pairs,
        make_agent,
        look,
        budget=config.budget,
        at_once=config.pairs_at_once,
        minutes=config.minutes,
        what=f"{planner_name(config.search).upper()}, {what}",
        show_progress=show_progress,
    )


def success(run: Run, pairs: Pairs) -> dict[str, np.ndarray]:
    """Which pairs (N,) a run solved, of those that it tried."""
    goals = pairs.goals[: len(run.states), None]
    block = block_reached(run.states, goals)
    both = block & agent_reached(run.states, goals)
    return {"block": block.any(axis=1), "block_and_agent": both.any(axis=1)}


def planning_table(
    world: "WorldModel | None",
    pairs: Pairs,
    config: PlanningConfig,
    *,
    planners: Sequence[str] | None = None,
    workers: int = 0,
    show_progress: bool = False,
) -> dict:
    """Success rates with 95 % Wilson intervals of every row; `world=None` leaves the world's row out.

    Args:
        planners: by name, all at the rollouts of `config.search`; by default the planner that it is of.

    Returns:
        {"config": ..., "rows": {name: {"block": rate, low, high, trials, "block_and_agent": ..., "seconds_per_plan"}}}
    """
    runs = {name: run_actions(pairs, actions) for name, actions in fixed_actions(pairs, config.budget).items()}
    for name in [planner_name(config.search)] if planners is None else planners:
        settings = config.of(name)
        if name != "gradient":  # a simulator has none
            runs[f"{name}_simulator"] = run_in_simulator(pairs, settings, workers=workers, show_progress=show_progress)
        if world is not None:
            runs[f"{name}_world"] = run_in_world(world, pairs, settings, show_progress=show_progress)
    rows = {}
    for name, run in runs.items():
        rows[name] = {kind: success_interval(solved) for kind, solved in success(run, pairs).items()}
        rows[name]["seconds_per_plan"] = run.seconds_per_plan
    return {"config": asdict(config), "rows": rows}


def check_world(world: "WorldModel") -> None:
    """Raise ValueError unless the world can be compared with PushT."""
    space = PushTEnv().action_space
    if not acts_in(world.codec.action_space, space):
        raise ValueError(f"planning acts in PushT ({space}), but this world takes {world.codec.action_space}")
    names = list(world.config.proprio_names or [])
    expected = ["agent_x", "agent_y"] + [f"keypoint_{k}_{axis}" for k in range(8) for axis in "xy"]
    if names and names != expected:
        raise ValueError(f"planning in PushT needs the proprioception {expected}, this world has {names}")


def frames_of_states(states: np.ndarray, size: int = 64) -> np.ndarray:
    """Draw simulator states (N, 10) as the frames (N, size, size, 3) an agent sees."""
    env = PushTEnv(observation_size=size)
    return np.stack([env.set_state(state) for state in states])


def _numpy(tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
