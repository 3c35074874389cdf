"""Steps per second and memory of several worlds side by side, in turns, at the start and after 1,000 steps.

Seconds are the processor's, of one thread: on an idle machine they are those of the clock, and on a busy one other work
takes nothing from anyone.
"""

import resource
import time
from statistics import median

import numpy as np

from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.evaluation.windows import Windows


def moved(world, state, actions: np.ndarray, frames: bool):
    """One step of every lane with its reward and, where asked and made, its frame."""
    state, said = world.step(state, actions)
    if frames and getattr(world, "makes_frames", True):
        world.frames(state)
    return state, said


def begin(world, windows: Windows, lanes: int):
    """``lanes`` lanes from the first windows, over and over."""
    which = np.arange(lanes) % len(windows)
    context = windows.context
    return world.begin(windows.frames[which, :context], windows.actions[which, : context - 1], seeds=np.arange(lanes))


def steps_per_second(
    worlds: dict[str, tuple], windows: Windows, lanes: int, *, steps: int = 200, turn: int = 10
) -> dict[str, float]:
    """Of all lanes together: the median over turns of ``turn`` steps, in which the worlds take their turns.

    Args:
        worlds: name -> (world, whether a step also makes its frame).
    """
    rng = np.random.default_rng(0)
    states = {name: begin(world, windows, lanes) for name, (world, _) in worlds.items()}
    for name, (world, frames) in worlds.items():  # the first call of each is not counted
        moved(world, states[name], rng.uniform(-1, 1, (lanes, 2)).astype(np.float32), frames)
    times: dict[str, list[float]] = {name: [] for name in worlds}
    for k in range(steps // turn):
        order = list(worlds)
        for name in order[k % len(order) :] + order[: k % len(order)]:
            world, frames = worlds[name]
            actions = rng.uniform(-1, 1, (turn, lanes, 2)).astype(np.float32)
            began = time.process_time()
            for action in actions:
                states[name], _ = moved(world, states[name], action, frames)
            times[name].append(time.process_time() - began)
    return {name: turn * lanes / median(spent) for name, spent in times.items()}


def long_run(worlds: dict[str, tuple], windows: Windows, *, lanes: int = 16, steps: int = 1000, turn: int = 10) -> dict:
    """The same random actions for ``steps`` steps in every world, in turns.

    Returns:
        name -> {"state_bytes": of a lane, {"10", "1000"}, "ms_per_step": of all lanes, medians of the first and the
        last hundred steps, "agent": distance in dataset units from the simulator at the end, median and mean,
        "agent_at": {step: median distance}}; peak_rss_mb of the whole process.
    """
    rng, env = np.random.default_rng(1), TwoRoomEnv()
    actions = rng.uniform(-1, 1, (steps, lanes, 2)).astype(np.float32)
    starts = windows.sim_states[np.arange(lanes) % len(windows), windows.context - 1]
    truth = np.stack([env.simulate(state, actions[:, k]) for k, state in enumerate(starts)], axis=1)  # steps lanes 5
    states = {name: begin(world, windows, lanes) for name, (world, _) in worlds.items()}
    result = {name: {"state_bytes": {}, "agent_at": {}} for name in worlds}
    times: dict[str, list[float]] = {name: [] for name in worlds}
    for first in range(0, steps, turn):
        order = list(worlds)
        shift = first // turn % len(order)
        for name in order[shift:] + order[:shift]:
            world, frames = worlds[name]
            began = time.process_time()
            for action in actions[first : first + turn]:
                states[name], said = moved(world, states[name], action, frames)
            times[name].append(time.process_time() - began)
            done = first + turn
            if done in (10, 100, 300, steps):
                away = np.linalg.norm(said.proprio[:, :2].float().cpu().numpy() - truth[done - 1, :, :2], axis=-1)
                result[name]["agent_at"][str(done)] = float(np.median(away))
            if done in (10, steps):
                result[name]["state_bytes"][str(done)] = states[name].nbytes // lanes
    part = max(1, 100 // turn)
    for name, spent in times.items():
        early, late = (1000 * median(some) / turn for some in (spent[:part], spent[-part:]))
        result[name]["ms_per_step"] = {"first": early, "last": late}
        result[name]["steps_per_second"] = {"first": 1000 * lanes / early, "last": 1000 * lanes / late}
    return result | {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}
