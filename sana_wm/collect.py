"""`python -m sana_wm.collect`: record a simulator under a mix of policies as a LeRobot v3.0 dataset.

Episode `i` of a collection is a pure function of `(seed, i)`: the number of workers does not matter, and a run that was
stopped, by Ctrl-C or by force, goes on where the written episodes end when the same command is given again.

An episode has a fixed number of steps. Row t holds the observation at t, the action applied at t, and the reward,
success and done of the transition that follows. The simulator's termination is recorded (`next.done`) and not obeyed,
so that what happens after reaching the goal is in the data too; `next.done` is not the end of the recording.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sana_wm.data import LeRobotWriter
from sana_wm.envs.simulators import Recording, recording
from sana_wm.job import plain_errors


def record_episode(
    seed: int, index: int, steps: int, mix: Mapping[str, float], near_goal: float, simulator: str = "pusht"
) -> tuple[dict, dict]:
    """Record episode `index` of the collection `seed`.

    Args:
        mix: share of each policy of the simulator; must add up to 1.
        near_goal: share of episodes that start near the goal.
        simulator: one of `sana_wm.envs.simulators.SIMULATORS`.

    Returns:
        The episode, `steps` rows of every key of the recording's features; and its metadata: seed, policy, attempt.
        Episodes that are not whole are drawn again (`attempt` counts them).
    """
    how = recording(simulator)
    rng = np.random.default_rng([seed, index])
    # drawn once: were they drawn again with the episode, policies that lose the block more often would be rarer
    policy, starts_near = str(rng.choice(list(mix), p=list(mix.values()))), rng.random() < near_goal
    for attempt in range(100):
        env = how.make_env()
        observation, info = env.reset(seed=seed, options={"state": how.start(rng, starts_near)})
        episode = _roll_out(how, env, how.policies[policy](rng), observation, info, steps)
        if how.whole(episode):
            return episode, {"seed": seed, "policy": policy, "attempt": attempt}
    raise RuntimeError(f"episode {index} of seed {seed}: none of 100 attempts stayed inside the simulator's walls")


def _roll_out(how: Recording, env, policy, observation: np.ndarray, info: dict, steps: int) -> dict[str, np.ndarray]:
    rows = []
    for _ in range(steps):
        state = env.get_state()
        action = policy(state)
        following, reward, terminated, _, following_info = env.step(action)
        observed = [read(info, state) for _, read in how.observed.values()]
        rows.append((observation, *observed, action, [reward], [terminated], [following_info["is_success"]]))
        observation, info = following, following_info
    columns = zip(*rows, strict=True)
    dtypes = [np.uint8 if spec["dtype"] == "video" else np.dtype(spec["dtype"]) for spec in how.features.values()]
    return {key: np.array(rows, dtype) for key, rows, dtype in zip(how.features, columns, dtypes, strict=True)}


def record_episodes(first: int, last: int, workers: int, **settings) -> Iterator[tuple[dict, dict]]:
    """Episodes `first ... last - 1` in order, each as `record_episode(index=i, **settings)` gives it.

    `workers` processes record ahead of the consumer, a few episodes each; 0 records in this process.
    """
    if workers == 0:
        yield from (record_episode(index=index, **settings) for index in range(first, last))
        return
    # spawn: the caller may have threads (torch, cv2) that a fork would not survive
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker)
    try:
        ahead, index = deque(), first
        while index < last or ahead:
            while index < last and len(ahead) < 4 * workers:
                ahead.append(pool.submit(record_episode, index=index, **settings))
                index += 1
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what happens
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        import cv2  # where it is installed, simulators may draw with it
    except ImportError:
        return
    cv2.setNumThreads(1)


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()  # a killed parent cannot tell its workers to stop
    os._exit(1)


def collect(
    out: str | Path,
    episodes: int,
    steps: int,
    seed: int,
    mix: Mapping[str, float],
    near_goal: float,
    simulator: str = "pusht",
    workers: int | str = "auto",
    flush_every: int = 50,
) -> Path:
    """Record `episodes` episodes of `steps` steps into the dataset `out`, going on after those it already holds.

    Args:
        mix, near_goal, simulator: see `record_episode`.
        workers: processes; "auto" takes one per CPU core this process may use, 0 none beside this one.
        flush_every: episodes between two flushes to disk, the most that a kill can lose.

    Returns:
        The dataset's folder.

    Raises:
        ValueError: settings that make no sense, or `out` holds a collection made with other settings.
    """
    out = Path(out)
    workers = _cores() if workers == "auto" else int(workers)
    settings = {"seed": seed, "steps": steps, "mix": dict(mix), "near_goal": near_goal, "simulator": simulator}
    _check(settings)
    _claim(out, settings)
    how = recording(simulator)
    fps = how.make_env().metadata["render_fps"]
    writer = LeRobotWriter(out, fps, how.features, robot_type=how.robot_type, flush_every=flush_every)
    done = writer.num_episodes
    if done >= episodes:
        writer.close()
        return out
    progress = Progress(
        TextColumn("collect"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        speed_estimate_period=120,
    )  # fmt: skip
    recorder = record_episodes(done, episodes, workers, **settings)
    try:
        with progress:
            bar = progress.add_task("collect", total=episodes, completed=done, rate="")
            for index, (episode, metadata) in enumerate(recorder, start=done):
                writer.add_episode(episode, how.task, metadata)
                speed = progress.tasks[bar].speed
                progress.update(bar, advance=1, rate=f"{speed * steps:.0f} steps/s" if speed else "")
                if not progress.console.is_terminal and (index + 1 - done) % flush_every == 0:  # a log shows no bar
                    progress.console.print(progress.get_renderable())
    finally:
        recorder.close()
        writer.close()
    return out


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(settings: Mapping) -> None:
    mix, policies = settings["mix"], recording(settings["simulator"]).policies
    unknown = sorted(set(mix) - set(policies))
    if unknown or min(mix.values(), default=-1) < 0 or abs(sum(mix.values()) - 1) > 1e-9:
        raise ValueError(f"mix: got {mix}, expected shares adding up to 1 of the policies {sorted(policies)}")
    if settings["steps"] < 1 or not 0 <= settings["near_goal"] <= 1:
        raise ValueError(f"got {settings}; expected steps >= 1 and near_goal in [0, 1]")


def _claim(out: Path, settings: Mapping) -> None:
    """Note the settings beside the dataset, or hold them against those it was begun with."""
    note = out / "meta" / "collect.json"
    if not note.exists():
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(settings, indent=2))
        return
    begun_with = {"simulator": "pusht"} | json.loads(note.read_text())  # once the only one, and not noted
    if begun_with != settings:
        raise ValueError(
            f"{out} was begun with {begun_with}, but now {settings} is asked for: "
            "give the same settings to go on with it, or another folder (out=...)"
        )


@hydra.main(config_path="pkg://sana_wm.configs", config_name="collect", version_base="1.3")
def main(config: DictConfig) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a Ctrl-C
    settings = OmegaConf.to_container(config, resolve=True)
    settings |= settings.pop("sim")
    with plain_errors("the episodes flushed to disk are kept, and the same command goes on from there"):
        out = collect(**settings)
    print(f"{settings['episodes']} episodes in {out}")


if __name__ == "__main__":
    main()
