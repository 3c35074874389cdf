"""Step a world for very long: no NaN, no growing memory, no slowing down.

OMP_NUM_THREADS=1 python benchmarks/soak.py --world pusht-64 --lanes 8 --steps 100000 --obs latents
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import gymnasium as gym
import numpy as np

import sana_wm  # noqa: F401  registers SanaWM-v0

parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--world", default="pusht-64", help="a shipped world, a bundle folder, or a hub id")
parser.add_argument("--lanes", type=int, default=8)
parser.add_argument("--steps", type=int, default=100_000, help="calls of step(), each of which moves every lane")
parser.add_argument("--obs", default="latents", choices=["pixels", "dict", "latents"])
parser.add_argument(
    "--decode-every", type=int, default=100, help="with latents: decode and look at all frames so often"
)
parser.add_argument("--rows", type=int, default=20, help="lines of the table")
parser.add_argument("--episode", type=int, default=None, help="length of an episode; -1: never ends by length")
parser.add_argument("--out", type=Path, default=None, help="write the table here too, as JSON")
parser.add_argument("--seed", type=int, default=0)


def resident_megabytes() -> float:
    """What the process holds now, not its peak (which is all that systems without /proc tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def arrays(observation):
    return observation.values() if isinstance(observation, dict) else [observation]


def main() -> None:
    args = parser.parse_args()
    envs = gym.make_vec(
        "SanaWM-v0", num_envs=args.lanes, world=args.world, obs=args.obs, max_episode_steps=args.episode,
        render_mode="rgb_array",
    )  # fmt: skip
    envs.action_space.seed(args.seed)
    envs.reset(seed=args.seed)
    every, rows, episodes, largest = max(1, args.steps // args.rows), [], 0, 0.0
    print(f"{'step':>8} {'RSS MB':>8} {'lane bytes':>10} {'steps/s':>8} {'episodes':>8} {'largest |obs|':>13}")
    began = time.perf_counter()
    for step in range(1, args.steps + 1):
        observation, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
        episodes += int((terminated | truncated).sum())
        if not np.isfinite(reward).all() or not all(np.isfinite(array).all() for array in arrays(observation)):
            raise SystemExit(f"step {step}: an observation or reward is not finite")
        if args.obs == "latents":
            largest = max(largest, float(np.abs(observation).max()))
            if step % args.decode_every == 0:
                frames = envs.render()
                assert all(frame.std() > 0 for frame in frames), f"step {step}: a frame of one colour"
        if step % every == 0 or step == 1:
            seconds = time.perf_counter() - began
            state = envs.unwrapped.get_state()
            rows.append(
                {
                    "step": step,
                    "rss_mb": round(resident_megabytes(), 1),
                    "lane_bytes": state.nbytes // args.lanes,
                    "steps_per_second": round((step - (rows[-1]["step"] if rows else 0)) * args.lanes / seconds, 1),
                    "episodes": episodes,
                    "largest": round(largest, 2),
                }
            )
            row = rows[-1]
            print(
                f"{row['step']:>8} {row['rss_mb']:>8.1f} {row['lane_bytes']:>10} {row['steps_per_second']:>8.1f} "
                f"{row['episodes']:>8} {row['largest']:>13.2f}",
                flush=True,
            )
            began = time.perf_counter()
            if args.out:
                args.out.write_text(json.dumps({"settings": vars(args) | {"out": None}, "rows": rows}, indent=1))
    state, actions = envs.unwrapped.get_state(), envs.action_space.sample()
    first = envs.step(actions)[0]
    envs.unwrapped.set_state(state)
    again = envs.step(actions)[0]
    same = all(np.array_equal(a, b) for a, b in zip(arrays(first), arrays(again), strict=True))
    print(f"replay of the last step from its state: {'bit-exact' if same else 'DIFFERENT'}")
    steady = rows[2:] or rows
    print(f"RSS after the first tenth and at the end: {steady[0]['rss_mb']} MB, {steady[-1]['rss_mb']} MB")


if __name__ == "__main__":
    main()
