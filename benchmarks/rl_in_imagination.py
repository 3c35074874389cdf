"""Does a policy that learns only inside a world get better in the real simulator? TwoRoom, mean over seeds.

OMP_NUM_THREADS=1 python -m benchmarks.rl_in_imagination --processes 2

All rows of a seed have the same recorded steps, and are judged by the same held-out episodes of the real simulator:

* clone: behaviour cloning of the recorded steps that led to the goal (the start of the other two from it);
* imagined: PPO inside `SanaWM-v0` from the clone; not one real step more than the recording;
* scratch: PPO in the real simulator, with as many real steps as the recording has: those that the world has cost;
* random, expert: uniform velocities, and the shortest path from the exact state;

and where they are asked for (--rows real long):

* real: as `scratch`, but from the clone, which is twice the real steps of `imagined`;
* long: the same with as many real steps as `imagined` imagined.

All PPO is `examples/ppo_latents.py` over the same latents; simulator frames go through `world.encode`. What is finished
is kept in the folder --out and not done again.
"""

import argparse
import copy
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from benchmarks.kept import Kept
from examples.ppo_latents import Agent, Args, SimulatorLatents, clone, demonstrations, evaluate, held_out_states, ppo
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_policies import Expert
from sana_wm.world import Starts, open_world

LEARNED = ("clone", "imagined", "real", "scratch", "long")
ROWS = ("random", "expert", *LEARNED)
ASKED = ("real", "long")  # rows that have to be asked for
LABELS = {
    "random": "random", "expert": "shortest path from the exact state", "clone": "clone of the recording",
    "imagined": "PPO in imagination, from the clone", "real": "PPO in the simulator, from the clone",
    "scratch": "PPO in the simulator, from scratch", "long": "PPO in the simulator, from the clone, for as long",
}  # fmt: skip
IMAGINED = Args(episodes=2700, steps=160_000)
# As many steps as the recording has, 3000 episodes of 40; fewer lanes make more updates of them.
REAL = replace(IMAGINED, steps=120_000, lanes=64)


def recorded(args: Args, cache: Path) -> tuple[torch.Tensor, torch.Tensor, Starts]:
    """`demonstrations`, encoded once for all seeds."""
    if not cache.exists():
        latents, actions, starts = demonstrations(open_world(args.world), args.data, args.episodes, seed=0)
        parts = {"latents": latents.half(), "actions": actions, "frames": torch.as_tensor(starts.frames)}
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: part.contiguous() for name, part in parts.items()}, cache)
    parts = load_file(cache)
    no_actions = np.zeros((len(parts["frames"]), 0, parts["actions"].shape[-1]), np.float32)
    return parts["latents"].float(), parts["actions"], Starts(parts["frames"].numpy(), no_actions)


def run_seed(seed: int, rows: list[str], out: Path, episodes: int, imagined: Args, real: Args, threads: int) -> None:
    """Learns and judges the rows of a seed; each leaves `seed-<seed>/<row>.json`."""
    torch.set_num_threads(threads)
    folder = out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    states = held_out_states(episodes, 10_000 + seed)
    imagined, real = replace(imagined, seed=seed), replace(real, seed=seed)
    for row in (row for row in ROWS if row in rows and not (folder / f"{row}.json").exists()):
        began, cpu = time.perf_counter(), time.process_time()
        torch.manual_seed(seed)  # of every row: it is the same whichever rows came before
        if row not in LEARNED:
            save(folder / f"{row}.json", {"real": scripted(row, states, imagined.limit, seed)})
            continue
        world = open_world(imagined.world)
        latents, actions, starts = recorded(imagined, out / "recorded.safetensors")
        agent = Agent(latents[0].numel(), actions.shape[1], imagined.width)
        history: list[dict] = []
        if row == "clone":
            history.append({"loss": clone(agent, latents, actions, imagined)})
        elif row == "scratch":  # standardised as the others
            clone(agent, latents, actions, replace(imagined, clone_epochs=0))
        else:
            agent.load_state_dict(load_file(folder / "clone.safetensors"))
        if row == "imagined":
            world.starts = starts
            envs = gym.make_vec(
                "SanaWM-v0", num_envs=imagined.lanes, world=world, obs="latents", autoreset_mode="same_step",
                max_episode_steps=imagined.limit, trust=False,
            )  # fmt: skip
            ppo(agent, envs, imagined, history.append)
        elif row != "clone":
            args = {
                "real": real,
                "scratch": replace(real, kl=0.0, warmup=0),
                "long": imagined,
            }[row]
            ppo(agent, SimulatorLatents(world, args.lanes, args.limit), args, history.append)
        learning = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        save_file(agent.state_dict(), folder / f"{row}.safetensors")
        result = {
            "real": evaluate(agent, world, states, imagined.limit),  # actions are drawn, as while learning
            "real_greedy": evaluate(agent, world, states, imagined.limit, greedy=True),
        }
        judging = {"seconds": time.perf_counter() - began - learning["seconds"],
                   "cpu_seconds": time.process_time() - cpu - learning["cpu_seconds"]}  # fmt: skip
        save(folder / f"{row}.json", result | {"history": history, "learning": learning, "judging": judging})
        reached, got = result["real"]["success"].mean(), result["real"]["return"].mean()
        minutes = learning["cpu_seconds"] / 60
        print(f"seed {seed} {row}: return {got:.2f}, success {reached:.3f}, {minutes:.1f} CPU minutes", flush=True)


def scripted(row: str, states: np.ndarray, limit: int, seed: int) -> dict[str, np.ndarray]:
    """The floor and the ceiling, from the same states."""
    env, rng = TwoRoomEnv(), np.random.default_rng(seed)
    returns, success = np.zeros(len(states)), np.zeros(len(states), bool)
    for i, state in enumerate(states):
        env.reset(options={"state": state})
        expert = Expert(rng, noise=0.02, pace=1.0, settles=True)
        for _ in range(limit):
            action = rng.uniform(-1, 1, 2) if row == "random" else expert(env.get_state())
            _, reward, success[i], _, _ = env.step(action)
            returns[i] += reward
            if success[i]:
                break
    return {"return": returns, "success": success}


def save(path: Path, result: dict) -> None:
    """Arrays as lists; a killed run leaves no half of a file."""
    plain = json.dumps(result, default=lambda value: value.tolist())
    path.with_suffix(".partial").write_text(plain)
    path.with_suffix(".partial").replace(path)


def t_interval(values: np.ndarray, bounds: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float, float]:
    """Mean over seeds, and the ends of its 95 % interval by Student's t; of shares (``bounds``), inside them."""
    # 97.5 % quantiles of t for 1, 2, ... degrees of freedom; beyond ten seeds the last one is a little too wide
    quantiles = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), -math.inf, math.inf
    quantile = quantiles[min(len(values) - 1, len(quantiles)) - 1]
    half = quantile * values.std(ddof=1) / math.sqrt(len(values))
    low, high = np.clip([values.mean() - half, values.mean() + half], *bounds)
    return float(values.mean()), float(low), float(high)


def summary(out: Path, seeds: list[int]) -> dict:
    """What all seeds have finished: means over seeds, paired differences to `imagined`, minutes."""
    found: dict[str, list[dict]] = {}
    for row in ROWS:
        paths = [out / f"seed-{seed}" / f"{row}.json" for seed in seeds]
        if all(path.exists() for path in paths):
            found[row] = [json.loads(path.read_text()) for path in paths]
    measures = {
        "return": "real",
        "success": "real",
        "return, greedy": "real_greedy",
        "success, greedy": "real_greedy",
    }
    result: dict = {"seeds": seeds, "rows": {}, "imagined minus": {}}

    def means(row: str, measure: str) -> np.ndarray:
        return np.array([np.mean(run[measures[measure]][measure.split(",")[0]]) for run in found[row]])

    for row, runs in found.items():
        result["rows"][row] = {
            m: t_interval(means(row, m), *([(0.0, 1.0)] if "success" in m else []))
            for m in measures
            if measures[m] in runs[0]
        }
        if "learning" in runs[0]:
            for part in ("learning", "judging"):
                result["rows"][row][f"{part}, CPU minutes"] = np.mean([run[part]["cpu_seconds"] for run in runs]) / 60
    for row in found if "imagined" in found else ():
        if row in ("clone", "real", "scratch", "long"):
            result["imagined minus"][row] = {m: t_interval(means("imagined", m) - means(row, m)) for m in measures}
    return result


def table(result: dict) -> str:
    """Markdown."""

    def cell(entry: tuple[float, float, float] | None, percent: bool) -> str:
        if entry is None:
            return ""
        scale, digits = (100, 1) if percent else (1, 2)
        return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*(scale * value for value in entry), d=digits)

    measures = ["return", "success", "return, greedy", "success, greedy"]
    titles = [f"{m} %" if "success" in m else m for m in measures]
    lines = [f"| {' | '.join(['in the real simulator', *titles, 'CPU minutes'])} |", "|---" * 6 + "|"]
    for row, entry in result["rows"].items():
        cells = [cell(entry.get(m), "success" in m) for m in measures]
        minutes = f"{entry['learning, CPU minutes']:.1f}" if "learning, CPU minutes" in entry else ""
        lines.append(f"| {' | '.join([LABELS[row], *cells, minutes])} |")
    lines += ["", f"| {' | '.join(['imagined minus', *titles])} |", "|---" * 5 + "|"]
    for row, entry in result["imagined minus"].items():
        lines.append(f"| {' | '.join([LABELS[row], *(cell(entry[m], 'success' in m) for m in measures)])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[row for row in ROWS if row not in ASKED])
    parser.add_argument("--episodes", type=int, default=200, help="held-out real episodes of each seed")
    parser.add_argument("--processes", type=int, default=1, help="seeds at once")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--world", default=IMAGINED.world)
    parser.add_argument("--data", default=IMAGINED.data)
    parser.add_argument("--steps", type=int, default=IMAGINED.steps, help="imagined")
    parser.add_argument("--real-steps", type=int, default=REAL.steps, help="of the rows real and scratch")
    parser.add_argument("--out", type=Path, default=Path("runs/rl-in-imagination"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    imagined = replace(IMAGINED, world=args.world, data=args.data, steps=args.steps)
    real = replace(REAL, world=args.world, data=args.data, steps=args.real_steps)
    Kept(args.out / "settings.json", {"episodes": args.episodes, "imagined": asdict(imagined), "real": asdict(real)},
         Console()).write()  # fmt: skip
    recorded(imagined, args.out / "recorded.safetensors")
    print(f"recorded steps are encoded, {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)
    settings = (args.rows, args.out, args.episodes, imagined, real, args.threads)
    if args.processes > 1:
        with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
            for job in [pool.submit(run_seed, seed, *settings) for seed in args.seeds]:
                job.result()
    else:
        for seed in args.seeds:
            run_seed(seed, *copy.deepcopy(settings))
    result = summary(args.out, args.seeds) | {"imagined": asdict(imagined), "real": asdict(real)}
    result["minutes"] = (time.perf_counter() - began) / 60
    save(args.out / "summary.json", result)
    print(f"\n{table(result)}\n\n{result['minutes']:.1f} minutes in all, {args.processes} process(es)")


if __name__ == "__main__":
    main()
