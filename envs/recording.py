"""Record what a policy lives through in a world as a LeRobot v3.0 dataset, the form the world was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.vector import AutoresetMode, VectorEnv

from sana_wm.data import LeRobotWriter
from sana_wm.envs.lanes import Lanes


def record_episodes(
    env: Env | VectorEnv,
    policy: Callable[[Any], Any],
    root: str | Path,
    episodes: int,
    *,
    seed: int = 0,
    max_steps: int | None = None,
    task: str | None = None,
) -> Path:
    """Imagined episodes as a LeRobot v3.0 dataset; an existing one is continued.

    Row t holds the frame (`observation.image`) and proprioception (`observation.state`) at t, the action applied at t
    in dataset units, and the reward, termination (`next.done`), truncation and success of the transition that follows.
    Each step of the environment is a row, at its `render_fps`; the last frame is not recorded, as no action follows it.

    Episode number i of the dataset begins with seed `seed + i`, so that neither the number of lanes nor where a
    recording was broken off changes what is recorded (a policy of equal answers provided).

    Args:
        env: `SanaWM-v0`, single or vector, with any kind of observation; wrappers may change observations and rewards,
            but not actions. A vector environment records its lanes side by side.
        policy: observation -> action, of a vector environment observations (B, ...) -> actions (B, ...). Its `reset()`,
            where it has one, is called when episodes begin.
        root: the dataset's folder. episodes: how many to add.
        max_steps: ends episodes that are longer; must be given where nothing else ends them.
        task: what is written as the instruction; None: the world's own.

    Returns:
        The dataset's folder.

    Raises:
        ValueError: another environment, nothing that ends an episode, or a dataset of other features.
    """
    base = env.unwrapped
    lanes = getattr(base, "lanes", None)
    if not isinstance(lanes, Lanes):
        raise ValueError(f"got the environment {base}, expected SanaWM-v0, single or vector")
    if env.action_space != base.action_space:
        raise ValueError(
            f"got a wrapped environment with actions {env.action_space} in place of {base.action_space}, expected "
            f"wrappers that leave actions alone: the world's own are recorded"
        )
    config = lanes.world.config
    if max_steps is None and lanes.max_episode_steps is None and not (config.has_terminated or config.has_success):
        raise ValueError("nothing ends an episode in this world: pass max_steps")
    task = task or config.task or "Imagined."
    with LeRobotWriter(root, lanes.steps_per_second, features(lanes)) as writer:
        first = writer.num_episodes
        while (recorded := writer.num_episodes + writer.num_pending) < first + episodes:
            rows = _record(env, lanes, policy, seed + recorded, max_steps)
            for lane, episode in enumerate(rows[: first + episodes - recorded]):
                columns = {name: np.stack([row[name] for row in episode]) for name in episode[0]}
                writer.add_episode(columns, task, {"seed": seed + recorded + lane, "imagined": True})
    return Path(root)


def features(lanes: Lanes) -> dict[str, dict[str, Any]]:
    """The columns that a world's episodes have, as `LeRobotWriter` takes them."""
    world = lanes.world
    shape, names = world.codec.action_space.shape, list(world.codec.names)
    columns = {
        "observation.image": {"dtype": "video", "shape": (*world.config.resolution, 3)},
        "action": {"dtype": "float32", "shape": shape} | ({"names": names} if len(shape) == 1 else {}),
        "next.reward": {"dtype": "float32", "shape": (1,)},
        "next.done": {"dtype": "bool", "shape": (1,)},
        "next.truncated": {"dtype": "bool", "shape": (1,)},
    }
    if world.config.proprio_names:
        known = list(world.config.proprio_names)
        columns["observation.state"] = {"dtype": "float32", "shape": (len(known),), "names": known}
    if world.config.has_success:
        columns["next.success"] = {"dtype": "bool", "shape": (1,)}
    return columns


def _record(
    env: Env | VectorEnv, lanes: Lanes, policy: Callable[[Any], Any], seed: int, max_steps: int | None
) -> list[list[dict[str, Any]]]:
    """One episode of every lane: its rows."""
    vector = isinstance(env.unwrapped, VectorEnv)
    disabled = vector and env.unwrapped.autoreset_mode is AutoresetMode.DISABLED
    observation, _ = env.reset(seed=seed)
    if hasattr(policy, "reset"):
        policy.reset()
    rows: list[list[dict[str, Any]]] = [[] for _ in range(lanes.num_lanes)]
    running = np.ones(lanes.num_lanes, bool)
    while running.any() and (max_steps is None or max(map(len, rows)) < max_steps):
        seen: dict[str, np.ndarray] = {"observation.image": lanes.frames}
        if lanes.world.config.proprio_names:
            seen["observation.state"] = lanes.proprio
        action = policy(observation)
        seen["action"] = lanes.actions.read(action if vector else [action], (lanes.num_lanes,))
        observation, reward, terminated, truncated, info = env.step(action)
        seen |= {"next.reward": np.float32(reward), "next.done": terminated, "next.truncated": truncated}
        ended = np.atleast_1d(terminated) | np.atleast_1d(truncated)
        if lanes.world.config.has_success:
            success = np.atleast_1d(info.get("is_success", False)) & np.ones(lanes.num_lanes, bool)
            if "final_info" in info:  # SAME_STEP: what is outside of it tells of the next episode
                success = np.where(info["_final_info"], info["final_info"]["is_success"], success)
            seen["next.success"] = success
        for lane in np.flatnonzero(running):
            rows[lane].append({name: np.atleast_1d(values)[lane] for name, values in seen.items()})
        running &= ~ended
        if disabled and ended.any():
            observation, _ = env.reset(options={"reset_mask": ended})
    return rows
