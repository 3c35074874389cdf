"""How to plan for PushT (see `sana_wm.evaluation.planning_tasks`)."""

import numpy as np

from sana_wm.evaluation.acting import Run
from sana_wm.evaluation.pairs import Pairs, block_reached, cut_pairs
from sana_wm.evaluation.planning import (
    fixed_actions,
    frames_of_states,
    planning_config,
    run_actions,
    run_in_world,
    success,
)
from sana_wm.evaluation.planning_tasks import PlanningTask, in_states


def _baselines(pairs: Pairs, config, seed: int) -> dict[str, Run]:
    actions = fixed_actions(pairs, config.budget, seed)
    return {name: run_actions(pairs, actions[name]) for name in ("random", "replay")}


def _success(run: Run, pairs: Pairs) -> dict[str, np.ndarray]:
    solved = success(run, pairs)
    return {"block at its goal": solved["block"], "block and agent at their goals": solved["block_and_agent"]}


def _drawn(run: Run, pairs: Pairs, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    states = np.concatenate([pairs.starts[:count, None], run.states[:count]], axis=1)  # (count, budget + 1, 10)
    real = in_states(states, lambda state: frames_of_states(state[None], size)[0])
    return frames_of_states(pairs.goals[:count], size), real, block_reached(states, pairs.goals[:count, None])


TASK = PlanningTask(
    name="PushT",
    recording={"simulator": "pusht", "steps": 60, "mix": {"scripted": 0.6, "noisy": 0.4}, "near_goal": 0.0},
    objectives={
        "goal": "the poses that the world reads from a goal image",
        "goal_image": "the latents of the goal image",
    },
    cut_pairs=cut_pairs,
    config=lambda settings, objective: planning_config(settings),
    run=lambda world, pairs, config, objective: run_in_world(
        world, pairs, config, by_latents=True if objective == "goal_image" else None, show_progress=True
    ),
    baselines=_baselines,
    success=_success,
    drawn=_drawn,
    budget=lambda config: config.budget,
)
