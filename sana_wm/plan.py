"""`python -m sana_wm.plan`: plan in a world, act in the real simulator, and watch both.

    python -m sana_wm.plan planner=mppi world=tworoom-64 env=sana_wm/TwoRoom-v0 objective=reward

Start-goal pairs come from episodes that no world was trained on: the test split of `dataset`, or, without one, fresh
ones recorded on the spot. Writes `plan.mp4` (goal, real, imagined) and `plan.json` into `out`; prints the success rate
with its 95 % interval, and what acting without a plan achieves on the same pairs.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sana_wm.collect import record_episode
from sana_wm.data import LeRobotDataset
from sana_wm.data.splits import split_episodes
from sana_wm.evaluation.drawing import write_mp4
from sana_wm.evaluation.intervals import success_interval
from sana_wm.evaluation.pairs import recorded_trajectories
from sana_wm.evaluation.plan_video import imagined_frames, plan_video
from sana_wm.evaluation.planning_tasks import PlanningTask, planning_task
from sana_wm.evaluation.windows import SIM_STATE
from sana_wm.job import check_device, plain_errors
from sana_wm.world import WorldModel

FRESH_SEED = 1_000_000  # added to the seed; collections for training use small seeds
DRAWN = 6  # pairs in the video


def fresh_trajectories(task: PlanningTask, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Record episodes of the scripted policies, states (T, D) and actions (T, A), that are in no dataset."""
    for index in range(count):
        rows, _ = record_episode(seed=FRESH_SEED + seed, index=index, **task.recording)
        yield rows[SIM_STATE], rows["action"]


def held_out_pairs(cfg: DictConfig, task: PlanningTask, context: int) -> Any:
    if cfg.dataset is None:
        # a few more than pairs: in some nothing that is wanted happens
        trajectories = fresh_trajectories(task, cfg.episodes + 4, cfg.seed)
    else:
        dataset = LeRobotDataset(cfg.dataset)
        trajectories = recorded_trajectories(dataset, split_episodes(dataset.num_episodes)["test"])
    return task.cut_pairs(trajectories, cfg.episodes, context=context, seed=cfg.seed)


def run(cfg: DictConfig, console: Console) -> dict:
    """Plan as configured in configs/plan.yaml; returns what is written as JSON."""
    task = planning_task(cfg.env)
    objective = task.check_objective(cfg.objective)
    config = task.config(OmegaConf.to_container(cfg.planner, resolve=True), objective)
    world = WorldModel.from_pretrained(cfg.world, device=cfg.device)
    pairs = held_out_pairs(cfg, task, world.config.context)
    acted = task.run(world, pairs, config, objective)
    runs = {"planned": acted, **task.baselines(pairs, config, cfg.seed)}

    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    with console.status("drawing the video"):
        name = world.config.extra.get("data", {}).get("name", Path(str(cfg.world)).name)
        title = f"Planned in {name}, acted in {task.name}"
        count, size = min(DRAWN, len(acted.states)), world.config.resolution[0]
        imagined = imagined_frames(world, acted, task.budget(config))[:count]
        goals, real, reached = task.drawn(acted, pairs, count, size)
        write_mp4(out / "plan.mp4", plan_video(goals, real, imagined, reached, title), world.config.fps)
    result = {
        "env": cfg.env,
        "objective": objective,
        "planner": cfg.planner.name,
        "success": {
            name: {kind: success_interval(which) for kind, which in task.success(run_, pairs).items()}
            for name, run_ in runs.items()
        },
        "seconds_per_plan": acted.seconds_per_plan,
        "rollouts_per_plan": getattr(config, "search", getattr(config, "planner", None)).rollouts,
        "config": asdict(config),
    }
    (out / "plan.json").write_text(json.dumps(result, indent=1))
    return result


@hydra.main(config_path="pkg://sana_wm.configs", config_name="plan", version_base="1.3")
def main(cfg: DictConfig) -> None:
    console = Console()
    with plain_errors("nothing was written"):
        check_device(cfg.device)
        result = run(cfg, console)
    console.print(f"{cfg.env}, planner {result['planner']}, objective {result['objective']}")
    for name, kinds in result["success"].items():
        for kind, rate in kinds.items():
            solved = round(rate["rate"] * rate["trials"])
            interval = f"[{rate['low']:.0%}, {rate['high']:.0%}]"
            line = f"{name}: {kind}: {solved} of {rate['trials']}, {rate['rate']:.0%} (95 % interval {interval})"
            console.print(line, soft_wrap=True)
    seconds, rollouts = result["seconds_per_plan"], result["rollouts_per_plan"]
    console.print(f"{seconds:.1f} s per plan of {rollouts} rollouts; {Path(cfg.out) / 'plan.mp4'}")


if __name__ == "__main__":
    main()
