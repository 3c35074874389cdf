"""A trained world as a Gymnasium environment: `gym.make("SanaWM-v0", world=...)`."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from sana_wm.envs.env_state import EnvState
from sana_wm.envs.lanes import Lanes, check_render_mode

if TYPE_CHECKING:
    from sana_wm.world import VideoWorld, WorldModel, WorldState

ALL = np.ones(1, bool)


class SanaWMEnv(gymnasium.Env):
    """One lane of a world model.

    Observations are decoded frames, uint8 (H, W, 3). Actions are float32 (A,) in the units of the dataset the world
    was fitted to. The reward is the world's reward head (0 where it has none), `terminated` its termination head (its
    success head where the data has no termination), `truncated` the length of the episode. `info` has `frame` (index
    since the first context frame) and, as far as the world has the heads, `is_success`, `success_probability`,
    `terminated_probability`, `proprio` (float32, dataset units) and `uncertainty`.

    A SANA-WM release is a world of video: a step is one latent frame, n = 8 raw frames, of which the observation is the
    last and `info["frames"]`, uint8 (n, H, W, 3), has all (after `reset` n times the image). Its actions move the
    camera. It has no starts of its own; it begins in an image with a prompt, given to `reset` or here.
    `metadata["render_fps"]` counts steps, each of which renders one frame.

    All randomness comes from `np_random`: `reset` draws the start and the seed of the world's noise from it, so the
    same seed and actions give the same frames. Stepping on after the end of an episode is allowed; the world goes on.

    Args:
        world: name of a shipped world, folder or hub repository of a bundle or of a SANA-WM release, or a loaded
            `WorldModel` or `VideoWorld`.
        render_mode: None or "rgb_array" (the current frame enlarged to at least 256 pixels).
        max_episode_steps: truncate after this many steps; None takes the world's own limit, -1 sets none. (`gym.make`
            keeps its argument of this name to itself: it adds a `TimeLimit`, which can only shorten this limit.)
        action_units: "dataset", or "normalized" for actions in [-1, 1] mapped linearly onto the dataset range, as most
            RL libraries like them (`check_env` warns about every action space that goes beyond [-1, 1]).
        threshold: probability above which termination and success count as true.
        device: where to load the world.
        actions: what moves the camera of a SANA-WM release: "delta" (what None takes: three shifts and three turns),
            "keys" (w a s d i j k l, held or not) or the name of a key mapping.
        image, prompt, intrinsics, fov: where `reset` begins when it is not told (see there); only for video worlds.

    >>> import gymnasium as gym
    >>> env = gym.make("sana_wm:SanaWM-v0", world="pusht-64")  # doctest: +SKIP
    >>> observation, info = env.reset(seed=0)  # doctest: +SKIP
    >>> undo = env.get_wrapper_attr("get_state")()  # doctest: +SKIP
    >>> env = gym.make("SanaWM-v0", world="sana-wm-streaming", actions="keys")  # doctest: +SKIP
    >>> observation, info = env.reset(options={"image": "room.png", "prompt": "A room."})  # doctest: +SKIP
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        world: WorldModel | VideoWorld | str | os.PathLike = "pusht-64",
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        action_units: str = "dataset",
        threshold: float = 0.5,
        device: Any = None,
        actions: str | None = None,
        image: Any = None,
        prompt: str | None = None,
        intrinsics: Any = None,
        fov: float | None = None,
    ):
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        start = {"image": image, "prompt": prompt, "intrinsics": intrinsics, "fov": fov}
        self._lanes = Lanes(world, 1, max_episode_steps, action_units, threshold, device, actions, **start)
        self._settings = {
            "render_mode": render_mode,
            "max_episode_steps": max_episode_steps,
            "action_units": action_units,
            "threshold": threshold,
        }
        self.metadata = {**self.metadata, "render_fps": self._lanes.steps_per_second}
        self.observation_space = self._lanes.observation_space
        self.action_space = self._lanes.action_space

    @property
    def world(self) -> WorldModel | VideoWorld:
        """The world that this environment steps."""
        return self._lanes.world

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begins an episode.

        Args:
            seed: seeds `np_random`.
            options: at most one of `start` (index into the world's starts), `state` (an `EnvState`, its bytes or a
                `WorldState`; its own noise goes on), `frames` (uint8 (T, H, W, 3) context frames, with the `actions` of
                the steps between them) and, for a video world, `image` (a path, a PIL image or uint8 of any size, cut
                to the world's resolution). Without any, the episode begins in the environment's image or, where it has
                none, in a start that is drawn. For a video world also `prompt`, and `intrinsics` (fx, fy, cx, cy or
                3 x 3, in pixels of the image or frames as given) or `fov` (their horizontal field of view in degrees);
                a state has its own.

        Raises:
            ValueError, TypeError: options that are unknown, contradict each other or do not fit the world; the
                environment is unchanged.
        """
        start_options = self._lanes.start_options(options)
        # As super().reset(seed=seed) does, but only once the world has begun.
        seeded = seeding.np_random(seed) if seed is not None else (self.np_random, self.np_random_seed)
        [info] = self._lanes.reset(ALL, [seeded[0]], start_options)
        self._np_random, self._np_random_seed = seeded
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
        forks = [SanaWMEnv(self.world, **self._settings, **self._lanes.defaults) for _ in range(n)]
        for env in forks:
            env.spec = self.spec
            env._np_random, env._np_random_seed = deepcopy(self._np_random), self._np_random_seed
            env.set_state(state)
        return forks

    def _observation(self) -> np.ndarray:
        return self._lanes.frames[0].copy()
