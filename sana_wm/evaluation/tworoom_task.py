"""How to plan for TwoRoom (see `sana_wm.evaluation.planning_tasks`)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.evaluation.acting import Run
from sana_wm.evaluation.planning_tasks import PlanningTask, in_states
from sana_wm.evaluation.tworoom_pairs import TwoRoomPairs, cut_tworoom_pairs, goal_reached
from sana_wm.evaluation.tworoom_planning import (
    BUDGET,
    SEARCHES,
    Search,
    fixed_actions,
    run_actions,
    run_in_world,
    solved,
)

WANTS = {"goal": "image", "goal_image": "latent", "reward": "reward", "success": "success"}
ELSEWHERE = ("agent_weight", "over_horizon", "budget", "minutes")  # settings of other tasks


def _config(settings: Mapping[str, Any], objective: str) -> Search:
    given = {key: value for key, value in settings.items() if value is not None}
    if wrong := [key for key in ELSEWHERE if key in given]:
        raise ValueError(f"planner.{wrong[0]}: TwoRoom has no such setting, leave it null")
    search = SEARCHES[WANTS[objective]].of(given.get("name", "cem"), given.get("search"))
    horizon = search.planner.horizon
    changes = {key: given[key] for key in ("replan_every", "lanes") if key in given}
    return replace(search, **{"replan_every": min(search.replan_every, horizon)} | changes)


def _baselines(pairs: TwoRoomPairs, config: Search, seed: int) -> dict[str, Run]:
    actions = fixed_actions(pairs, seed=seed)
    return {"stay": run_actions(pairs, actions["zero_action"]), "random": run_actions(pairs, actions["random"])}


def _drawn(run: Run, pairs: TwoRoomPairs, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = TwoRoomEnv(observation_size=size).set_state
    states = np.concatenate([pairs.starts[:count, None], run.states[:count]], axis=1)  # (count, BUDGET + 1, 5)
    return np.stack([draw(state) for state in pairs.at_goal[:count]]), in_states(states, draw), goal_reached(states)


TASK = PlanningTask(
    name="TwoRoom",
    recording={"simulator": "tworoom", "steps": 30, "mix": {"expert": 0.5, "mixed": 0.5}, "near_goal": 0.0},
    objectives={
        "goal": "the agent's place as the world reads it from a goal image",
        "goal_image": "the latents of the goal image",
        "reward": "the world's predicted reward",
        "success": "the world's predicted success",
    },
    cut_pairs=cut_tworoom_pairs,
    config=_config,
    run=lambda world, pairs, config, objective: run_in_world(
        world, pairs, WANTS[objective], config, keep_agents=True, show_progress=True
    ),
    baselines=_baselines,
    success=lambda run, pairs: {"agent in the goal": solved(run)},
    drawn=_drawn,
    budget=lambda config: BUDGET,
)
