"""How fast a world steps as an environment, and how large its state stays."""

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from sana_wm.evaluation.progress import track

if TYPE_CHECKING:
    from sana_wm.evaluation.tasks import SimulatedTask
    from sana_wm.world import WorldModel


# what is asked of an environment: its arguments
ASKED = {
    "latents": {"obs": "latents", "trust": False},
    "pixels": {"obs": "pixels", "trust": False},
    "pixels and trust signals": {"obs": "pixels", "trust": True},
}


def env_speed(world: "WorldModel", num_envs: int, *, seconds: float = 5.0, **asked: Any) -> float:
    """Steps per second, summed over lanes, of `SanaWM-v0` with `num_envs` lanes, warm-up excluded."""
    if num_envs == 1:
        env = gym.make("sana_wm:SanaWM-v0", world=world, disable_env_checker=True, **asked)
    else:
        env = gym.make_vec("sana_wm:SanaWM-v0", num_envs=num_envs, world=world, **asked)
    with closing(env):
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(2):
            env.step(env.action_space.sample())
        steps, start = 0, time.perf_counter()
        while steps < 3 or time.perf_counter() - start < seconds:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if num_envs == 1 and (terminated or truncated):
                env.reset()
            steps += 1
        return steps * num_envs / (time.perf_counter() - start)


def state_bytes(world: "WorldModel", at_steps: tuple[int, ...] = (10, 1000), *, show_progress=False) -> dict[str, int]:
    """Bytes of one lane's state after so many steps of random actions; equal, if memory is bounded."""
    starts = world.starts
    context = world.config.context
    state = world.begin(starts.frames[:1, :context], starts.actions[:1, : context - 1], seeds=np.zeros(1, np.int64))
    space = world.codec.action_space
    space.seed(0)
    sizes = {}
    for step in track(range(1, max(at_steps) + 1), "state size", show_progress):
        state, _ = world.step(state, space.sample()[None])
        if step in at_steps:
            sizes[str(step)] = int(state.nbytes)
    return sizes


def simulator_speed(task: "SimulatedTask", size: int, *, seconds: float = 5.0) -> float:
    """Steps per second of the true simulator in one process, frames drawn: what a world must beat to save time."""
    env = task.make_env(size)
    env.action_space.seed(0)
    env.reset(seed=0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        env.step(env.action_space.sample())
        steps += 1
    return steps / (time.perf_counter() - start)


def speed(
    world: "WorldModel",
    lanes: tuple[int, ...] = (1, 8, 64),
    *,
    task: "SimulatedTask | None" = None,
    quick: bool = False,
    show_progress: bool = False,
) -> dict:
    """Environment steps per second by number of lanes, and state bytes by number of steps.

    Quick looks at the state after 100 steps in place of 1,000.

    Returns:
        {"env_steps_per_second": {"latents" | "pixels" | "pixels and trust signals" (of a calibrated world): {lanes:
        rate}}, "simulator_steps_per_second": rate or None, "state_bytes":
        {step: bytes}, "frame_bytes": bytes of one frame as the world sees it}
    """
    seconds = 1.0 if quick else 5.0
    size = tuple(world.config.resolution)
    asked = {name: how for name, how in ASKED.items() if not how["trust"] or world.signal_names}
    rates: dict[str, dict[str, float]] = {}
    for name, n in track([(name, n) for name in asked for n in lanes], "speed", show_progress):
        rates.setdefault(name, {})[str(n)] = env_speed(world, n, seconds=seconds, **asked[name])
    return {
        "env_steps_per_second": rates,
        "simulator_steps_per_second": None if task is None else simulator_speed(task, size[0], seconds=seconds),
        "state_bytes": state_bytes(world, (10, 100) if quick else (10, 1000), show_progress=show_progress),
        "frame_bytes": size[0] * size[1] * 3,
    }
