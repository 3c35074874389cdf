"""What it costs to fork a world, to keep and restore its state, beside one step of it.

OMP_NUM_THREADS=1 python benchmarks/fork_cost.py --world pusht-64
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from sana_wm.envs.env_state import EnvState
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv

parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--world", default="pusht-64", help="a shipped world, a bundle folder, or a hub id")
parser.add_argument("--lanes", type=int, default=64)
parser.add_argument("--repeats", type=int, default=20)


def milliseconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and largest, after one call to warm up."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times)), max(times)


def main() -> None:
    args = parser.parse_args()
    n = args.lanes
    one = SanaWMEnv(args.world, max_episode_steps=-1)
    one.reset(seed=0)
    vector = SanaWMVectorEnv(1, one.world, max_episode_steps=-1)
    vector.reset(seed=0)
    many = vector.fork(n)
    latents = SanaWMVectorEnv(n, one.world, max_episode_steps=-1, obs="latents")
    latents.reset(seed=0)
    for env in (one, many, latents):
        env.action_space.seed(0)
        env.step(env.action_space.sample())
    state, data = many.get_state(), many.get_state().to_bytes()
    chunk = np.stack([many.action_space.sample() for _ in range(5)], axis=1)
    rows = {
        "step, 1 lane": lambda: one.step(one.action_space.sample()),
        f"step, {n} lanes": lambda: many.step(many.action_space.sample()),
        f"step, {n} lanes, latents": lambda: latents.step(latents.action_space.sample()),
        f"step_chunk of 5, {n} lanes": lambda: many.step_chunk(chunk),
        f"env.fork({n})": lambda: one.fork(n),
        f"envs.fork({n}) of 1 lane": lambda: vector.fork(n),
        f"envs.fork(1) of {n} lanes": lambda: many.fork(1),
        f"state.repeat({n}) of 1 lane": lambda: one.get_state().repeat(n),
        f"get_state, {n} lanes": many.get_state,
        f"set_state, {n} lanes (decodes)": lambda: many.set_state(state),
        f"set_state, {n} lanes, latents": lambda: latents.set_state(state),
        f"to_bytes, {n} lanes": state.to_bytes,
        f"from_bytes, {n} lanes": lambda: EnvState.from_bytes(data),
    }
    print(f"{'':<34} {'median ms':>10} {'largest':>10}")
    for name, call in rows.items():
        median, largest = milliseconds(call, args.repeats)
        print(f"{name:<34} {median:>10.3f} {largest:>10.3f}")
    print(f"bytes of a lane: {one.get_state().nbytes:,}; of {n} lanes: {state.nbytes:,}, as bytes {len(data):,}")


if __name__ == "__main__":
    main()
