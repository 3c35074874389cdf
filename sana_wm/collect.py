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

import cv2
import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sana_wm.data import LeRobotWriter
from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.pusht_physics import GOAL_POSE, STATE_NAMES, random_state
from sana_wm.envs.pusht_policies import POLICIES
from sana_wm.job import plain_errors

TASK = "Push the T-shaped block onto the T-shaped target."
_KEYPOINTS = [f"keypoint_{k}_{axis}" for k in range(8) for axis in "xy"]


def _vector(dtype: str, names: list[str]) -> dict:
    return {"dtype": dtype, "shape": (len(names),), "names": names}


FEATURES = {
    "observation.image": {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
    "observation.state": _vector("float32", ["agent_x", "agent_y"]),  # px
    "observation.environment_state": _vector("float32", _KEYPOINTS),  # px
    "observation.sim_state": _vector("float64", list(STATE_NAMES)),  # px, px/s, rad, rad/s
    "action": _vector("float32", ["target_x", "target_y"]),  # px
    "next.reward": _vector("float32", ["reward"]),
    "next.done": _vector("bool", ["done"]),
    "next.success": _vector("bool", ["success"]),
}


def record_episode(seed: int, index: int, steps: int, mix: Mapping[str, float], near_goal: float) -> tuple[dict, dict]:
    """Record episode `index` of the collection `seed`.

    Args:
        mix: share of each policy of `sana_wm.envs.pusht_policies.POLICIES`; must add up to 1.
        near_goal: share of episodes that start with the block 1 to 50 px from the goal pose.

    Returns:
        The episode, `steps` rows of every key of `FEATURES`; and its metadata: seed, policy, attempt. Episodes in which
        the block is squeezed through a wall are drawn again (`attempt` counts them).
    """
    rng = np.random.default_rng([seed, index])
    # drawn once: were they drawn again with the episode, policies that lose the block more often would be rarer
    policy, starts_near = str(rng.choice(list(mix), p=list(mix.values()))), rng.random() < near_goal
    for attempt in range(100):
        pose = _near_goal(rng) if starts_near else None
        env = PushTEnv()
        observation, info = env.reset(seed=seed, options={"state": random_state(rng, pose)})
        episode = _roll_out(env, POLICIES[policy](rng), observation, info, steps)
        corners = episode["observation.environment_state"]
        if corners.min() > -5 and corners.max() < 517:  # the walls stand at 5 and 506
            return episode, {"seed": seed, "policy": policy, "attempt": attempt}
    raise RuntimeError(f"episode {index} of seed {seed}: the block left the table in each of 100 attempts")


def _near_goal(rng: np.random.Generator) -> np.ndarray:
    scale = 10 ** rng.uniform(0, 1.7)  # px; all scales alike, from solved already to a few pushes away
    return GOAL_POSE + rng.normal(0, [scale, scale, scale / 60])


def _roll_out(env: PushTEnv, policy, observation: np.ndarray, info: dict, steps: int) -> dict[str, np.ndarray]:
    rows = []
    for _ in range(steps):
        state = env.get_state()
        action = policy(state)
        following, reward, terminated, _, following_info = env.step(action)
        success = following_info["is_success"]
        rows.append(
            (observation, info["pos_agent"], info["keypoints"], state, action, [reward], [terminated], [success])
        )
        observation, info = following, following_info
    columns = zip(*rows, strict=True)
    dtypes = [np.uint8 if spec["dtype"] == "video" else np.dtype(spec["dtype"]) for spec in FEATURES.values()]
    return {key: np.array(rows, dtype) for key, rows, dtype in zip(FEATURES, columns, dtypes, strict=True)}


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
    workers: int | str = "auto",
    flush_every: int = 50,
) -> Path:
    """Record `episodes` episodes of `steps` steps into the dataset `out`, going on after those it already holds.

    Args:
        mix, near_goal: see `record_episode`.
        workers: processes; "auto" takes one per CPU core this process may use, 0 none beside this one.
        flush_every: episodes between two flushes to disk, the most that a kill can lose.

    Returns:
        The dataset's folder.

    Raises:
        ValueError: settings that make no sense, or `out` holds a collection made with other settings.
    """
    out = Path(out)
    workers = _cores() if workers == "auto" else int(workers)
    settings = {"seed": seed, "steps": steps, "mix": dict(mix), "near_goal": near_goal}
    _check(settings)
    _claim(out, settings)
    fps = PushTEnv.metadata["render_fps"]
    writer = LeRobotWriter(out, fps, FEATURES, robot_type="pusht", flush_every=flush_every)
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
                writer.add_episode(episode, TASK, metadata)
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
    mix = settings["mix"]
    unknown = sorted(set(mix) - set(POLICIES))
    if unknown or min(mix.values(), default=-1) < 0 or abs(sum(mix.values()) - 1) > 1e-9:
        raise ValueError(f"mix: got {mix}, expected shares adding up to 1 of the policies {sorted(POLICIES)}")
    if settings["steps"] < 1 or not 0 <= settings["near_goal"] <= 1:
        raise ValueError(f"got {settings}; expected steps >= 1 and near_goal in [0, 1]")


def _claim(out: Path, settings: Mapping) -> None:
    """Note the settings beside the dataset, or hold them against those it was begun with."""
    note = out / "meta" / "collect.json"
    if not note.exists():
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(settings, indent=2))
        return
    begun_with = json.loads(note.read_text())
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
