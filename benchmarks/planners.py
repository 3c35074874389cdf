"""All planners at one rollout budget, on the true simulator and in the world, on held-out pairs: docs/planners.md.

OMP_NUM_THREADS=1 python -m benchmarks.planners tworoom --world tworoom-64 --dataset data/tworoom-64 --pairs 100
OMP_NUM_THREADS=1 python -m benchmarks.planners pusht --world pusht-64 --dataset data/pusht-64 --pairs 50

Every finished row is printed, and kept in `--out`: the same command goes on where it was stopped.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.kept import Kept
from sana_wm.agents.planners import PLANNERS
from sana_wm.data import LeRobotDataset
from sana_wm.data.splits import split_episodes
from sana_wm.evaluation.intervals import success_interval
from sana_wm.evaluation.pairs import recorded_trajectories
from sana_wm.world import WorldModel


def tworoom(world: WorldModel, dataset: LeRobotDataset, args: argparse.Namespace) -> dict[str, Callable]:
    from sana_wm.evaluation import tworoom_planning as t
    from sana_wm.evaluation.tworoom_pairs import cut_tworoom_pairs

    episodes = split_episodes(dataset.num_episodes)[args.split]
    trajectories = recorded_trajectories(dataset, episodes)
    pairs = cut_tworoom_pairs(trajectories, args.pairs, context=world.config.context, seed=args.seed)

    def row(run, search=None) -> dict:
        done = t.solved(run)
        result = {"all": success_interval(done), "goal in the other room": success_interval(done[pairs.cross])}
        return result | {"seconds_per_plan": run.seconds_per_plan, "search": asdict(search) if search else None}

    jobs = {
        name: lambda actions=actions: row(t.run_actions(pairs, actions))
        for name, actions in t.fixed_actions(pairs).items()
    }
    for planner in args.planners:
        search = t.SEARCHES[args.want].of(planner)
        if args.replan_every:
            search = replace(search, replan_every=args.replan_every)
        if planner != "gradient":
            jobs[f"{planner}, simulator"] = lambda s=search: row(t.run_in_simulator(pairs, args.want, s), s)
        jobs[f"{planner}, world"] = lambda s=search: row(t.run_in_world(world, pairs, args.want, s), s)
    return jobs


def pusht(world: WorldModel, dataset: LeRobotDataset, args: argparse.Namespace) -> dict[str, Callable]:
    from sana_wm.evaluation import planning as p
    from sana_wm.evaluation.pairs import cut_pairs

    episodes = split_episodes(dataset.num_episodes)[args.split]
    trajectories = recorded_trajectories(dataset, episodes)
    pairs = cut_pairs(trajectories, args.pairs, context=world.config.context, seed=args.seed)
    base = p.PlanningConfig(lanes=512)
    if args.replan_every:
        base = replace(base, replan_every=args.replan_every)

    def row(run, config=None) -> dict:
        done = p.success(run, pairs)
        result = {
            "block": success_interval(done["block"]),
            "block and agent": success_interval(done["block_and_agent"]),
        }
        return result | {"seconds_per_plan": run.seconds_per_plan, "search": asdict(config) if config else None}

    jobs = {
        name: lambda actions=actions: row(p.run_actions(pairs, actions))
        for name, actions in p.fixed_actions(pairs, base.budget).items()
    }
    for planner in args.planners:
        config = base.of(planner)
        if planner != "gradient":
            jobs[f"{planner}, simulator"] = lambda c=config: row(p.run_in_simulator(pairs, c, workers=args.workers), c)
        jobs[f"{planner}, world"] = lambda c=config: row(p.run_in_world(world, pairs, c), c)
    return jobs


def table(rows: dict[str, dict]) -> str:
    """Markdown, one row per planner."""
    kinds = [kind for kind, value in next(iter(rows.values())).items() if isinstance(value, dict) and "rate" in value]
    lines = ["| | " + " | ".join(kinds) + " | s per plan |", "|---" * (len(kinds) + 2) + "|"]
    for name, row in rows.items():
        cells = []
        for kind in kinds:
            low, rate, high = (100 * row[kind][key] for key in ("low", "rate", "high"))
            cells.append(f"{rate:.1f} % ({low:.1f} to {high:.1f}) of {row[kind]['trials']}")
        seconds = row["seconds_per_plan"]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {'' if seconds is None else f'{seconds:.2f}'} |")
    return "\n".join(lines)


def timed(job: Callable[[], dict]) -> dict:
    """What a job gives, and the seconds of the processor that it took."""
    began = time.process_time()
    return job() | {"cpu_seconds": round(time.process_time() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["tworoom", "pusht"])
    parser.add_argument("--world", default=None, help="a shipped world, a bundle folder, or a hub id")
    parser.add_argument("--dataset", default=None, help="gives the held-out pairs")
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--planners", nargs="+", default=list(PLANNERS), choices=list(PLANNERS))
    parser.add_argument("--only", nargs="+", default=["simulator", "world"], choices=["simulator", "world"])
    parser.add_argument("--want", default="image", help="TwoRoom: image, latent, reward or success")
    parser.add_argument("--replan-every", type=int, default=None)
    parser.add_argument("--workers", type=int, default=0, help="processes of PushT's simulator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="JSON; default runs/planners/<task>.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out or Path("runs/planners") / f"{args.task}.json"
    world = WorldModel.from_pretrained(args.world or f"{args.task}-64")
    dataset = LeRobotDataset(args.dataset or f"data/{args.task}-64")
    settings = {
        key: getattr(args, key) for key in ("world", "dataset", "split", "pairs", "want", "replan_every", "seed")
    }
    keep, rows = Kept(out, settings, Console()), {}
    for name, job in {"tworoom": tworoom, "pusht": pusht}[args.task](world, dataset, args).items():
        if "," in name and name.split(", ")[1] not in args.only:
            continue
        rows[name] = keep(name, lambda job=job: timed(job))
        print(table({name: rows[name]}).splitlines()[-1], rows[name]["cpu_seconds"], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
