"""Any Gymnasium vector environment as a Stable-Baselines3 `VecEnv`: PPO, SAC and the rest on many lanes at once.

Stable-Baselines3 is the extra `rl` (`pip install "sana-wm[rl]"`); nothing else imports this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.vec_env import VecEnv


class SB3VecEnv(VecEnv):
    """The lanes of a vector environment, stepped in one call, with Stable-Baselines3's conventions.

    Where an episode ends, the observation is already the first one of the next; the last one stands in
    `infos[i]["terminal_observation"]`, beside the infos of the step that ended it. `infos[i]["TimeLimit.truncated"]`
    says whether it was cut off (then Stable-Baselines3 goes on with the value of that observation). Infos of resets
    stand in `reset_infos[i]`.

    Lanes share one environment: `get_attr` repeats a value for every lane (a list or tuple of one per lane is dealt
    out), and `set_attr` and `env_method` concern all lanes at once.

    Args:
        env: a `VectorEnv` with the autoreset mode SAME_STEP, or DISABLED (finished lanes are then reset from here).

    Raises:
        TypeError: not a `VectorEnv`. ValueError: the autoreset mode NEXT_STEP, whose step after an end is no step.

    Example:
        envs = gym.make_vec("SanaWM-v0", num_envs=64, world="tworoom-64", obs="latents", autoreset_mode="same_step")
        PPO("MlpPolicy", VecMonitor(SB3VecEnv(envs))).learn(100_000)
    """

    def __init__(self, env: VectorEnv):
        if not isinstance(env, VectorEnv):
            raise TypeError(
                f"got an environment of type {type(env).__name__}, expected a gymnasium VectorEnv: gym.make_vec makes "
                f"one (Stable-Baselines3 takes a single gymnasium.Env as it is)"
            )
        mode = env.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            raise ValueError(
                f"got a vector environment with autoreset mode {mode}, expected SAME_STEP or DISABLED: make it with "
                f'gym.make_vec("SanaWM-v0", ..., autoreset_mode="same_step"), or for Gymnasium\'s own vector '
                f'environments with vector_kwargs={{"autoreset_mode": AutoresetMode.SAME_STEP}}'
            )
        self.env, self._mode = env, mode
        self._actions: np.ndarray | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Begins an episode in every lane, with the seeds and options that `seed` and `set_options` left for it."""
        seed = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        obs, infos = self.env.reset(seed=seed, options=shared_options(self._options))
        self.reset_infos = lane_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observations, rewards float32 (B,), dones bool (B,), one dict of infos per lane."""
        if self._actions is None:
            raise RuntimeError("got step_wait() without step_async(actions) before it; call step(actions)")
        actions, self._actions = self._actions, None
        if isinstance(self.action_space, spaces.Box):  # rescaled actions may miss the bounds by a rounding
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
        obs, rewards, terminations, truncations, vector_infos = self.env.step(actions)
        dones = terminations | truncations
        infos = lane_infos(vector_infos, self.num_envs)
        ended = np.flatnonzero(dones)
        if len(ended) and self._mode is AutoresetMode.DISABLED:
            last = {lane: _of_lane(obs, lane) for lane in ended}
            obs, begun = self.env.reset(options={"reset_mask": dones})
            begun = lane_infos(begun, self.num_envs)
            for lane in ended:
                self.reset_infos[lane], infos[lane]["terminal_observation"] = begun[lane], last[lane]
        elif len(ended):
            for lane in ended:  # what stands beside final_obs and final_info is of the reset
                begun = infos[lane]
                last = begun.pop("final_obs")
                self.reset_infos[lane], infos[lane] = begun, dict(begun.pop("final_info", {}))
                infos[lane]["terminal_observation"] = last
                if "episode" in begun:  # of RecordEpisodeStatistics: what has ended, not what begins
                    infos[lane]["episode"] = begun.pop("episode")
        for lane, info in enumerate(infos):
            info["TimeLimit.truncated"] = bool(truncations[lane] and not terminations[lane])
        return obs, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        images = self.env.render()
        return [None] * self.num_envs if images is None else list(images)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return self._deal(self._find(attr_name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of the vector environment itself, under all wrappers.

        Raises:
            ValueError: indices of some lanes; they share their attributes.
        """
        self._check_all(indices, f"set {attr_name}")
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls a method of the vector environment once, for all lanes.

        Raises:
            ValueError: indices of some lanes.
        """
        self._check_all(indices, f"call {method_name}")
        return self._deal(self._find(method_name)(*method_args, **method_kwargs), indices)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether a wrapper of that class is around the vector environment, or (where it has them) its single ones."""
        wrapped, env = False, self.env
        while isinstance(env, VectorWrapper):
            wrapped |= isinstance(env, wrapper_class)
            env = env.env
        inner = getattr(env, "envs", None) or [None] * self.num_envs
        return [wrapped or _wrapped(inner[lane], wrapper_class) for lane in self._get_indices(indices)]

    def _find(self, name: str) -> Any:
        """An attribute of the environment or of one of its wrappers, the outermost first."""
        env = self.env
        while isinstance(env, VectorWrapper):
            if name in vars(env) or hasattr(type(env), name):
                return getattr(env, name)
            env = env.env
        return getattr(env, name)

    def _deal(self, value: Any, indices: Any) -> list[Any]:
        per_lane = isinstance(value, list | tuple) and len(value) == self.num_envs
        return [value[lane] if per_lane else value for lane in self._get_indices(indices)]

    def _check_all(self, indices: Any, what: str) -> None:
        chosen = list(self._get_indices(indices))
        if sorted(chosen) != list(range(self.num_envs)):
            raise ValueError(
                f"got indices={chosen} to {what}, expected none or all {self.num_envs}: the lanes are one environment"
            )


def lane_infos(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Gymnasium's vector infos, a dict of arrays with masks `_key`, as one dict per lane."""
    lanes: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}", np.ones(num_envs, bool))
        nested = lane_infos(values, num_envs) if isinstance(values, dict) else None
        for lane in np.flatnonzero(mask):
            lanes[lane][key] = values[lane] if nested is None else nested[lane]
    return lanes


def shared_options(options: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """One dict per lane -> one for all of them, a list of B values under each key; None where they are empty.

    Raises:
        ValueError: lanes that have other keys than the first.
    """
    keys = set(options[0])
    if any(set(each) != keys for each in options):
        got = [sorted(each) for each in options]
        raise ValueError(f"got options with the keys {got}, expected the same everywhere")
    return {key: [each[key] for each in options] for key in options[0]} if keys else None


def _wrapped(env: Any, wrapper_class: type) -> bool:
    """Whether a single environment has a wrapper of that class around it."""
    while env is not None:
        if isinstance(env, wrapper_class):
            return True
        env = getattr(env, "env", None)
    return False


def _of_lane(obs: Any, lane: int) -> Any:
    """One lane of an observation of all: of arrays, or of dicts and tuples of them."""
    if isinstance(obs, dict):
        return {name: _of_lane(part, lane) for name, part in obs.items()}
    return tuple(_of_lane(part, lane) for part in obs) if isinstance(obs, tuple) else obs[lane].copy()
