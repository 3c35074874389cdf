"""`python -m sana_wm.plan`: plan in a world, act in the real simulator, and watch both.

Start-goal pairs come from episodes that no world was trained on: the test split of `dataset`, or, without one, fresh
ones recorded on the spot. Writes `plan.mp4` (goal, real, imagined) and `plan.json` into `out`; prints the success rate.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sana_wm.collect import record_episode
from sana_wm.data import LeRobotDataset
from sana_wm.data.splits import split_episodes
from sana_wm.evaluation.drawing import write_mp4
from sana_wm.evaluation.intervals import success_interval
from sana_wm.evaluation.pairs import Pairs, cut_pairs, recorded_trajectories
from sana_wm.evaluation.plan_video import imagined_frames, plan_video
from sana_wm.evaluation.planning import planning_config, run_in_world, success
from sana_wm.evaluation.windows import SIM_STATE
from sana_wm.job import check_device, plain_errors
from sana_wm.world import WorldModel

ENV = "sana_wm/PushT-v0"
FRESH_SEED = 1_000_000  # added to the seed; collections for training use small seeds


def fresh_trajectories(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Record episodes of the scripted policies, states (T, 10) and actions (T, 2), that are in no dataset."""
    for index in range(count):
        mix = {"scripted": 0.6, "noisy": 0.4}
        rows, _ = record_episode(seed=FRESH_SEED + seed, index=index, steps=60, mix=mix, near_goal=0.0)
        yield rows[SIM_STATE], rows["action"]


def held_out_pairs(cfg: DictConfig, context: int) -> Pairs:
    if cfg.dataset is None:
        trajectories = fresh_trajectories(cfg.episodes + 4, cfg.seed)  # a few more: in some the block hardly moves
    else:
        dataset = LeRobotDataset(cfg.dataset)
        trajectories = recorded_trajectories(dataset, split_episodes(dataset.num_episodes)["test"])
    return cut_pairs(trajectories, cfg.episodes, context=context, seed=cfg.seed)


def run(cfg: DictConfig, console: Console) -> dict:
    """Plan as configured in configs/plan.yaml; returns what is written as JSON."""
    if cfg.env != ENV:
        raise ValueError(f"env: planning acts in a simulator with settable state, {ENV}; got {cfg.env!r}")
    world = WorldModel.from_pretrained(cfg.world, device=cfg.device)
    planning = planning_config(OmegaConf.to_container(cfg.planner, resolve=True))
    pairs = held_out_pairs(cfg, world.config.context)
    acted = run_in_world(world, pairs, planning, show_progress=True)
    solved = success(acted, pairs)

    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    with console.status("drawing the video"):
        name = world.config.extra.get("data", {}).get("name", Path(str(cfg.world)).name)
        title = f"Planned in {name}, acted in PushT"
        imagined = imagined_frames(world, acted, planning.budget)
        write_mp4(out / "plan.mp4", plan_video(pairs, acted, imagined, title), world.config.fps)
    result = {
        **{kind: success_interval(which) for kind, which in solved.items()},
        "seconds_per_plan": acted.seconds_per_plan,
        "config": asdict(planning),
    }
    (out / "plan.json").write_text(json.dumps(result, indent=1))
    return result


@hydra.main(config_path="pkg://sana_wm.configs", config_name="plan", version_base="1.3")
def main(cfg: DictConfig) -> None:
    console = Console()
    with plain_errors("nothing was written"):
        check_device(cfg.device)
        result = run(cfg, console)
    for kind, words in (("block", "block at its goal"), ("block_and_agent", "block and agent at their goals")):
        rate = result[kind]
        solved = round(rate["rate"] * rate["trials"])
        interval = f"[{rate['low']:.0%}, {rate['high']:.0%}]"
        console.print(f"{words}: {solved} of {rate['trials']}, {rate['rate']:.0%} (95 % interval {interval})")
    console.print(f"{result['seconds_per_plan']:.1f} s per plan; {Path(cfg.out) / 'plan.mp4'}")


if __name__ == "__main__":
    main()
