"""A trained world as a Gymnasium environment: `gym.make("SanaWM-v0", world=...)`."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from sana_wm.envs.env_state import EnvState
from sana_wm.envs.lanes import Lanes, check_render_mode
from sana_wm.envs.start_options import StartOptions

if TYPE_CHECKING:
    from sana_wm.world import WorldModel, WorldState

ALL = np.ones(1, bool)


class SanaWMEnv(gymnasium.Env):
    """One lane of a world model.

    Observations are decoded frames, uint8 (H, W, 3). Actions are float32 (A,) in the units of the dataset the world
    was fitted to. The reward is the world's reward head (0 where it has none), `terminated` its termination head (its
    success head where the data has no termination), `truncated` the length of the episode. `info` has `frame` (index
    since the first context frame) and, as far as the world has the heads, `is_success`, `success_probability`,
    `terminated_probability`, `proprio` (float32, dataset units) and `uncertainty`.

    All randomness comes from `np_random`: `reset` draws the start and the seed of the world's noise from it, so the
    same seed and actions give the same frames. Stepping on after the end of an episode is allowed; the world goes on.

    Args:
        world: name of a shipped world, folder or hub repository of a bundle, or a loaded `WorldModel`.
        render_mode: None or "rgb_array" (the current frame enlarged to at least 256 pixels).
        max_episode_steps: truncate after this many steps; None takes the world's own limit, -1 sets none. (`gym.make`
            keeps its argument of this name to itself: it adds a `TimeLimit`, which can only shorten this limit.)
        action_units: "dataset", or "normalized" for actions in [-1, 1] mapped linearly onto the dataset range, as most
            RL libraries like them (`check_env` warns about every action space that goes beyond [-1, 1]).
        threshold: probability above which termination and success count as true.
        device: where to load the world.

    >>> import gymnasium as gym
    >>> env = gym.make("sana_wm:SanaWM-v0", world="pusht-64")  # doctest: +SKIP
    >>> observation, info = env.reset(seed=0)  # doctest: +SKIP
    >>> undo = env.get_wrapper_attr("get_state")()  # doctest: +SKIP
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        world: WorldModel | str | os.PathLike = "pusht-64",
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        action_units: str = "dataset",
        threshold: float = 0.5,
        device: Any = None,
    ):
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self._lanes = Lanes(world, 1, max_episode_steps, action_units, threshold, device)
        self._settings = {
            "render_mode": render_mode,
            "max_episode_steps": max_episode_steps,
            "action_units": action_units,
            "threshold": threshold,
        }
        self.metadata = {**self.metadata, "render_fps": self.world.config.fps}
        self.observation_space = self._lanes.observation_space
        self.action_space = self._lanes.action_space

    @property
    def world(self) -> WorldModel:
        """The world that this environment steps."""
        return self._lanes.world

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begins an episode.

        Args:
            seed: seeds `np_random`.
            options: at most one of `start` (index into the world's starts), `state` (an `EnvState`, its bytes or a
                `WorldState`; its own noise goes on) and `frames` (uint8 (T, H, W, 3) context frames, with `actions`
                (T-1, A) between them); without any, a start is drawn.

        Raises:
            ValueError, TypeError: options that are unknown, contradict each other or do not fit the world.
        """
        start_options = StartOptions.parse(options, self.world, 1)
        super().reset(seed=seed)
        [info] = self._lanes.reset(ALL, [self.np_random], start_options)
        return self._observation(), info

    def step(self, action: np.ndarray):
        """One step of the world.

        Raises:
            ResetNeeded: before the first `reset` or `set_state`.
            ValueError: an action of the wrong shape, with NaN, or out of bounds; the environment is unchanged.
        """
        actions = self._lanes.check_actions([action], ALL)
        transition = self._lanes.step(actions, ALL)
        return (
            self._observation(),
            float(transition.rewards[0]),
            bool(transition.terminated[0]),
            bool(transition.truncated[0]),
            transition.infos[0],
        )

    def render(self) -> np.ndarray | None:
        """The current frame, enlarged; None (with a warning) where no render mode was chosen."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() needs render_mode="rgb_array" when the environment is made')
            return None
        return self._lanes.render()[0]

    def get_state(self) -> EnvState:
        """The state as a value: set it again, here or in another environment of this world, and the future is the same.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        return self._lanes.get_state()

    def set_state(self, state: EnvState | WorldState | bytes) -> np.ndarray:
        """Puts the world into `state`, in the middle of an episode; returns the observation there.

        Raises:
            ValueError, TypeError: something that is not a state of one lane; the environment is unchanged.
        """
        self._lanes.set_state(state)
        return self._observation()

    def fork(self, n: int) -> list[SanaWMEnv]:
        """`n` independent environments that stand where this one stands and share its weights.

        Each carries a copy of `np_random`, so it goes on exactly as this one would; `reset(seed=...)` parts their ways.
        """
        if n < 1:
            raise ValueError(f"got n={n} forks, expected at least 1")
        state = self.get_state()
        forks = [SanaWMEnv(self.world, **self._settings) for _ in range(n)]
        for env in forks:
            env.spec = self.spec
            env._np_random, env._np_random_seed = deepcopy(self._np_random), self._np_random_seed
            env.set_state(state)
        return forks

    def _observation(self) -> np.ndarray:
        return self._lanes.frames[0].copy()
