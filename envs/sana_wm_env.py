"""A trained world as a Gymnasium environment: `gym.make("SanaWM-v0", world=...)`."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from sana_wm.envs.env_state import EnvState
from sana_wm.envs.lanes import Lanes
from sana_wm.envs.observations import of_lane
from sana_wm.envs.seeds import check_seed
from sana_wm.envs.window import RENDER_MODES, Window, check_render_mode

if TYPE_CHECKING:
    from sana_wm.envs.rewards import RewardFunction
    from sana_wm.world import VideoWorld, WorldModel, WorldState

ALL = np.ones(1, bool)


class SanaWMEnv(gymnasium.Env):
    """One lane of a world model.

    Observations are decoded frames, uint8 (H, W, 3), or what `obs` asks for. Actions are float32 (A,) in the units of
    the dataset the world was fitted to. The reward is the world's reward head (0 where it has none), `terminated` its
    termination head (its success head where the data has no termination), `truncated` the length of the episode. `info`
    has `frame` (index since the first context frame) and, as far as the world has the heads, `is_success`,
    `success_probability`, `terminated_probability` and `proprio` (float32, dataset units), and where it was calibrated
    how far to trust it: `model_uncertainty`, `ood_action`, `ood_state`, `drift` and `trusted` (after `reset` only what
    a state alone can tell).

    A SANA-WM release is a world of video: a step is one latent frame, n = 8 raw frames, of which the observation is the
    last and `info["frames"]`, uint8 (n, H, W, 3), has all (after `reset` n times the image; none with latents). Its
    actions move the camera. It has no starts of its own; it begins in an image with a prompt, given to `reset` or here.
    `metadata["render_fps"]` counts steps, each of which renders one frame.

    All randomness comes from `np_random`: `reset` draws the start and the seed of the world's noise from it, so the
    same seed and actions give the same frames. Stepping on after the end of an episode is allowed; the world goes on.

    Args:
        world: name of a shipped world, folder or hub repository of a bundle or of a SANA-WM release, or a loaded
            `WorldModel` or `VideoWorld`.
        render_mode: None, "rgb_array" (`render` gives the current frame, enlarged to at least 256 pixels) or "human" (a
            window shows it after every call that changes it; needs pygame).
        max_episode_steps: truncate after this many steps; None takes the world's own limit, -1 sets none. (`gym.make`
            keeps its argument of this name to itself: it adds a `TimeLimit`, which can only shorten this limit.)
        action_units: "dataset", or "normalized" for actions in [-1, 1] mapped linearly onto the dataset range, as most
            RL libraries like them (`check_env` warns about every action space that goes beyond [-1, 1]).
        threshold: probability above which termination and success count as true.
        device: where to load the world.
        actions: what moves the camera of a SANA-WM release: "delta" (what None takes: three shifts and three turns),
            "keys" (w a s d i j k l, held or not) or the name of a key mapping.
        image, prompt, intrinsics, fov: where `reset` begins when it is not told (see there); only for video worlds.
        obs: "pixels"; "dict" (`pixels`, and `proprio`, float32 (P,), where the world reads it); or "latents" (float32
            (C, h, w)): then a step decodes nothing, which is up to four times as fast; `render` decodes on demand.
        action_set: (n, *action shape) in `action_units`: actions to choose from, the action space is `Discrete(n)`.
        reward_fn: `Prediction` of K lanes (here 1) -> K rewards, in place of the reward head.
        goal: a picture; the reward is minus the mean squared distance of latents to it. Neither ends an episode.
        state_bytes: whether `info["state_bytes"]` tells the size of the state.
        trust: which of the world's trust signals infos tell (docs/trust.md): None or True for all (without `drift`
            where `obs` is "latents", which decodes nothing), False for none, which is faster, or a list of names. Each
            is 1 where 99 % of held-out steps are below; `info["trusted"]` is whether none exceeds 1.
        truncate_untrusted: True truncates an episode where a signal exceeds 1, a number x where one exceeds x, a dict
            {signal: x} looks at these alone. `info["truncated_by"]` then names the signal.

    >>> import gymnasium as gym
    >>> env = gym.make("sana_wm:SanaWM-v0", world="pusht-64")  # doctest: +SKIP
    >>> observation, info = env.reset(seed=0)  # doctest: +SKIP
    >>> undo = env.get_wrapper_attr("get_state")()  # doctest: +SKIP
    >>> env = gym.make("SanaWM-v0", obs="latents", action_set=[[0, 0], [0, 512], [512, 0]])  # doctest: +SKIP
    >>> env = gym.make("SanaWM-v0", world="sana-wm-streaming", actions="keys")  # doctest: +SKIP
    >>> observation, info = env.reset(options={"image": "room.png", "prompt": "A room."})  # doctest: +SKIP
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 10}

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
        obs: str = "pixels",
        action_set: Any = None,
        reward_fn: RewardFunction | None = None,
        goal: Any = None,
        state_bytes: bool = False,
        trust: bool | Sequence[str] | None = None,
        truncate_untrusted: bool | float | Mapping[str, float] | None = None,
    ):
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.lanes = Lanes(
            world, 1, max_episode_steps, action_units, threshold, device, actions, obs=obs, action_set=action_set,
            reward_fn=reward_fn, goal=goal, state_bytes=state_bytes, trust=trust,
            truncate_untrusted=truncate_untrusted, image=image, prompt=prompt, intrinsics=intrinsics, fov=fov,
        )  # fmt: skip
        self.metadata = {**self.metadata, "render_fps": self.lanes.steps_per_second}
        self.observation_space = self.lanes.observation_space
        self.action_space = self.lanes.action_space
        self._window: Window | None = None

    @property
    def world(self) -> WorldModel | VideoWorld:
        """The world that this environment steps."""
        return self.lanes.world

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
        start_options = self.lanes.start_options(options)
        seed = check_seed(seed)
        # As super().reset(seed=seed) does, but only once the world has begun.
        seeded = seeding.np_random(seed) if seed is not None else (self.np_random, self.np_random_seed)
        [info] = self.lanes.reset(ALL, [seeded[0]], start_options)
        self._np_random, self._np_random_seed = seeded
        self._show()
        return self._observation(), info

    def step(self, action: np.ndarray):
        """One step of the world.

        Raises:
            ResetNeeded: before the first `reset` or `set_state`.
            ValueError: an action of the wrong shape, with NaN, or out of bounds; the environment is unchanged.
        """
        return self._step(self.lanes.check_actions([action], (1,), ALL)[:, None])[:5]

    def step_chunk(self, actions: np.ndarray):
        """K steps in one call, as `step` takes them one by one; it stops at the first that ends the episode.

        Only the last frame is decoded. A `TimeLimit` around this environment does not count these steps: give the
        limit to the environment itself.

        Args:
            actions: (K, *action shape), K at least 1; all are checked before the first is taken.

        Returns:
            As `step` does: the observation after the last step taken, the sum of the rewards, the flags and the info of
            that step; `info["steps"]` says how many were taken.

        Raises:
            As `step` does; the environment is unchanged.
        """
        count = _length(actions)
        observation, reward, terminated, truncated, info, steps = self._step(
            self.lanes.check_actions([actions], (1, count), ALL)
        )
        return observation, reward, terminated, truncated, info | {"steps": steps}

    def _step(self, actions: np.ndarray):
        transition = self.lanes.step(actions, ALL)
        self._show()
        return (
            self._observation(),
            float(transition.rewards[0]),
            bool(transition.terminated[0]),
            bool(transition.truncated[0]),
            transition.infos[0],
            int(transition.steps[0]),
        )

    def render(self) -> np.ndarray | None:
        """The current frame, enlarged; None with "human" and (with a warning) where no render mode was chosen."""
        if self.render_mode == "human":
            self._show()
            return None
        if self.render_mode is None:
            gymnasium.logger.warn('render() needs render_mode="rgb_array" when the environment is made')
            return None
        return self.lanes.render()[0]

    def get_state(self) -> EnvState:
        """The state as a value: set it again, here or in another environment of this world, and the future is the same.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        return self.lanes.get_state()

    def set_state(self, state: EnvState | WorldState | bytes) -> np.ndarray:
        """Puts the world into `state`, in the middle of an episode; returns the observation there.

        Raises:
            ValueError, TypeError: something that is not a state of one lane; the environment is unchanged.
        """
        self.lanes.set_state(state)
        self._show()
        return self._observation()

    def fork(self, n: int) -> list[SanaWMEnv]:
        """`n` independent environments that stand where this one stands and share its weights.

        Each carries a copy of `np_random`, so it goes on exactly as this one would; `reset(seed=...)` parts their ways.
        Nothing is computed: that costs less than a step. Forks have no window: where this environment has one, theirs
        give "rgb_array".
        """
        if n < 1:
            raise ValueError(f"got n={n} forks, expected at least 1")
        return [self._fork() for _ in range(n)]

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None

    def _fork(self) -> SanaWMEnv:
        env = copy.copy(self)
        env.lanes = self.lanes.repeat(1)
        env.observation_space, env.action_space = self.lanes.observation_space, self.lanes.action_space
        env._np_random = copy.deepcopy(self._np_random)
        env._window = None
        env.render_mode = "rgb_array" if self.render_mode == "human" else self.render_mode
        return env

    def _show(self) -> None:
        if self.render_mode == "human":
            picture = self.lanes.render()[0]
            if self._window is None:
                self._window = Window("SanaWM", self.lanes.steps_per_second)
            self._window.show(picture)

    def _observation(self) -> Any:
        return of_lane(self.lanes.observe(), 0)


def _length(actions: Any) -> int:
    """K of a chunk of actions (K, ...)."""
    try:
        count = len(actions)
    except TypeError as error:
        raise ValueError(
            f"got a chunk of type {type(actions).__name__}, expected actions (K, *action shape)"
        ) from error
    if not count:
        raise ValueError("got a chunk without actions, expected at least one")
    return count
