"""A world as LeRobot's EnvHub expects an environment: what the `env.py` that `sana_wm.export_env` writes calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorWrapper
from gymnasium.vector.utils import batch_space

from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv


def make_hub_env(
    world: Any, n_envs: int = 1, *, suite: str = "sana_wm", agent_pos: Sequence[str] | None = None, **settings: Any
) -> dict[str, dict[int, HubVectorEnv]]:
    """`{suite: {0: vector environment of n_envs lanes}}`, as `lerobot-eval` runs it.

    Args:
        agent_pos: see `HubVectorEnv`. settings: of it and of `SanaWMVectorEnv`.
    """
    task = settings.pop("task", None)
    settings = {"render_mode": "rgb_array", "autoreset_mode": AutoresetMode.SAME_STEP, **settings}
    return {suite: {0: HubVectorEnv(SanaWMVectorEnv(n_envs, world, obs="dict", **settings), task, agent_pos)}}


class HubVectorEnv(VectorWrapper):
    """Lanes of a world under the names that LeRobot policies know.

    Observations are `pixels`, uint8 (B, H, W, 3), and where the world reads proprioception `agent_pos` and
    `environment_state`, float32. Actions are the dataset's own, clipped to its bounds (a policy's are rarely within
    them exactly), and may be flat; keys are held where a number passes 0.5. Every info has `is_success`. Lanes step in
    one forward pass, so there is nothing to gain from worker processes.

    Args:
        env: made with `obs="dict"`; its episodes have a length.
        task: what the policy is told; None: the world's own.
        agent_pos: names of the proprioceptive columns that are `agent_pos`, the others are `environment_state`; None:
            all of them are `agent_pos`.

    Raises:
        ValueError: episodes without end, or columns that the world does not have.
    """

    def __init__(self, env: SanaWMVectorEnv, task: str | None = None, agent_pos: Sequence[str] | None = None):
        super().__init__(env)
        config = env.world.config
        names = tuple(config.proprio_names)
        chosen = names if agent_pos is None else tuple(agent_pos)
        if unknown := [name for name in chosen if name not in names]:
            raise ValueError(f"got agent_pos={unknown}, this world has the columns {names}")
        if env.lanes.max_episode_steps is None:
            raise ValueError(
                "LeRobot counts on episodes with a length, which this world's have not: max_episode_steps="
            )
        self._max_episode_steps = env.lanes.max_episode_steps
        self.task = self.task_description = task or config.task
        rest = [name for name in names if name not in chosen]
        self._columns = {"agent_pos": list(chosen), "environment_state": rest}
        self._columns = {key: [names.index(name) for name in held] for key, held in self._columns.items() if held}
        parts = {"pixels": env.single_observation_space["pixels"]}
        for key, columns in self._columns.items():
            parts[key] = spaces.Box(-np.inf, np.inf, (len(columns),), np.float32)
        self.single_observation_space = spaces.Dict(parts)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None):
        """Options that are LeRobot's own business (`lerobot_...`) are left to it."""
        options = {key: value for key, value in (options or {}).items() if not str(key).startswith("lerobot_")}
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._renamed(observations), self._told(infos)

    def step(self, actions: Any):
        space = self.env.single_action_space
        actions = np.asarray(actions)
        if actions.shape == (self.num_envs, int(np.prod(space.shape))):
            actions = actions.reshape(self.num_envs, *space.shape)
        if isinstance(space, spaces.Box):
            actions = np.clip(actions, space.low, space.high).astype(np.float32)  # NaN stays, and is refused
        elif isinstance(space, spaces.MultiBinary):
            actions = (actions > 0.5).astype(np.int8)
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        if "final_obs" in infos:
            for lane in np.flatnonzero(infos["_final_obs"]):
                infos["final_obs"][lane] = self._renamed(infos["final_obs"][lane])
            infos["final_info"] = self._told(infos["final_info"])
        return self._renamed(observations), rewards, terminations, truncations, self._told(infos)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """An attribute of every lane, or what a method gives for every lane, as `SyncVectorEnv.call` does."""
        value = getattr(self, name)
        if callable(value):
            value = value(*args, **kwargs)
            if isinstance(value, tuple) and len(value) == self.num_envs:
                return value
        return (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of every lane."""
        return (getattr(self, name),) * self.num_envs

    def _renamed(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        named = {"pixels": observations["pixels"]}
        for key, columns in self._columns.items():
            named[key] = observations["proprio"][..., columns]
        return named

    def _told(self, infos: dict[str, Any]) -> dict[str, Any]:
        if "is_success" in infos:
            return infos
        return infos | {"is_success": np.zeros(self.num_envs, bool), "_is_success": np.ones(self.num_envs, bool)}
