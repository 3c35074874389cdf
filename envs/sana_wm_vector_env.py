"""Many lanes of a trained world in one forward pass: `gym.make_vec("SanaWM-v0", num_envs=..., world=...)`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sana_wm.envs.env_state import EnvState
from sana_wm.envs.lanes import Lanes, check_render_mode

if TYPE_CHECKING:
    from sana_wm.envs.start_options import StartOptions
    from sana_wm.world import VideoWorld, WorldModel, WorldState


class SanaWMVectorEnv(VectorEnv):
    """`num_envs` lanes of `SanaWMEnv` (which see for observations, actions, rewards and infos) that step together.

    Every lane has its own generator, and what happens in a lane does not depend on how many others there are. Finished
    lanes begin anew as Gymnasium's autoreset modes say: NEXT_STEP (the step after the end ignores the action and
    returns the first observation), SAME_STEP (the first observation comes at once, the last one in
    `info["final_obs"]` and `info["final_info"]`) or DISABLED (`reset(options={"reset_mask": bool (B,)})`).

    Args:
        num_envs: B.
        autoreset_mode: an `AutoresetMode`, its name or its value ("next_step", "same_step", "disabled").
        world, render_mode, max_episode_steps, action_units, threshold, device, actions: as in `SanaWMEnv`.
        image, prompt, intrinsics, fov: as in `SanaWMEnv`, for all lanes, or a list (array) of one for each.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10, "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        world: WorldModel | VideoWorld | str | os.PathLike = "pusht-64",
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        action_units: str = "dataset",
        threshold: float = 0.5,
        device: Any = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        actions: str | None = None,
        image: Any = None,
        prompt: str | Sequence[str] | None = None,
        intrinsics: Any = None,
        fov: float | Sequence[float] | None = None,
    ):
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.autoreset_mode = parse_autoreset_mode(autoreset_mode)
        start = {"image": image, "prompt": prompt, "intrinsics": intrinsics, "fov": fov}
        self._lanes = Lanes(world, num_envs, max_episode_steps, action_units, threshold, device, actions, **start)
        config = self.world.config
        ends = self._lanes.max_episode_steps is not None or config.has_terminated or config.has_success
        if self.autoreset_mode is not AutoresetMode.DISABLED and ends and not self._lanes.can_begin_unasked:
            raise ValueError(
                "finished lanes begin anew by themselves, but this world has no starts of its own: pass image= and "
                'prompt= to begin in, autoreset_mode="disabled", or max_episode_steps=-1'
            )
        self._settings = {
            "render_mode": render_mode,
            "max_episode_steps": max_episode_steps,
            "action_units": action_units,
            "threshold": threshold,
            "autoreset_mode": self.autoreset_mode,
        }
        self.num_envs = num_envs
        self.metadata = {
            **self.metadata,
            "render_fps": self._lanes.steps_per_second,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_observation_space = self._lanes.observation_space
        self.single_action_space = self._lanes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[tuple[np.random.Generator, int]] = [seeding.np_random() for _ in range(num_envs)]

    @property
    def world(self) -> WorldModel | VideoWorld:
        """The world that this environment steps."""
        return self._lanes.world

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """The generator of each lane."""
        return tuple(generator for generator, _ in self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """The seed that each lane's generator started from."""
        return tuple(seed for _, seed in self._generators)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None):
        """Begins an episode in all lanes, or in those of `options["reset_mask"]` (bool (B,)).

        Args:
            seed: one seed s (lane i gets s + i), one for each lane (None leaves a lane's generator as it is), or None.
            options: `reset_mask`, and those of `SanaWMEnv.reset` for one lane (all begin there) or for B lanes, as a
                list or array of them.

        Returns:
            Observations (B, H, W, 3), of the lanes that were not reset too, and the infos of the lanes that were.

        Raises:
            ValueError, TypeError: as `SanaWMEnv.reset` does; no lane has changed.
        """
        options = dict(options or {})
        lanes = self._mask(options.pop("reset_mask", None))
        seeds = self._seeds(seed)
        start_options = self._lanes.start_options(options)
        if self._lanes.state is None and not lanes.all():
            raise ResetNeeded("some lanes were never reset; call reset() without reset_mask first")
        generators = list(self._generators)
        for lane in np.flatnonzero(lanes):
            if seeds[lane] is not None:
                generators[lane] = seeding.np_random(seeds[lane])
        infos = self._reset(lanes, generators, start_options, {})
        self._generators = generators
        return self._observations(), infos

    def step(self, actions: np.ndarray):
        """One step of every lane: actions (B, *action shape) in, five values over lanes out, as `SyncVectorEnv` does.

        Raises:
            ResetNeeded: before the first reset, or (DISABLED) with a finished lane.
            ValueError: actions of the wrong shape, with NaN, or out of bounds; no lane has moved.
        """
        ended = np.zeros(self.num_envs, bool) if self._lanes.state is None else self._lanes.state.ended
        if self.autoreset_mode is AutoresetMode.DISABLED and ended.any():
            raise ResetNeeded(
                f"the episodes of lanes {np.flatnonzero(ended).tolist()} are over; reset them with "
                f'options={{"reset_mask": terminations | truncations}}'
            )
        stepped = ~ended
        actions = self._lanes.check_actions(actions, stepped)
        rewards = np.zeros(self.num_envs)
        terminations, truncations = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        finished = np.zeros(self.num_envs, bool)
        infos: dict[str, Any] = {}
        if stepped.any():
            transition = self._lanes.step(actions, stepped)
            rewards[stepped] = transition.rewards
            terminations[stepped], truncations[stepped] = transition.terminated, transition.truncated
            finished = terminations | truncations
            for lane, info in zip(np.flatnonzero(stepped), transition.infos, strict=True):
                if finished[lane] and self.autoreset_mode is AutoresetMode.SAME_STEP:
                    info = {"final_obs": self._lanes.frames[lane].copy(), "final_info": info}
                infos = self._add_info(infos, info, lane)
        restart = finished if self.autoreset_mode is AutoresetMode.SAME_STEP else ended
        if restart.any():
            infos = self._reset(restart, self._generators, self._lanes.start_options(), infos)
        return self._observations(), rewards, terminations, truncations, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frame of every lane, enlarged; None (with a warning) where no render mode was chosen."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() needs render_mode="rgb_array" when the environment is made')
            return None
        return self._lanes.render()

    def get_state(self) -> EnvState:
        """The state of all lanes as a value; `.select([i])` of it fits a `SanaWMEnv`."""
        return self._lanes.get_state()

    def set_state(self, state: EnvState | WorldState | bytes) -> np.ndarray:
        """Puts all lanes into `state`; returns the observations there. Raises as `SanaWMEnv.set_state` does."""
        self._lanes.set_state(state)
        return self._observations()

    def fork(self, n: int) -> SanaWMVectorEnv:
        """A new environment of B·n lanes: each lane `n` times side by side, each with a copy of its generator."""
        if n < 1:
            raise ValueError(f"got n={n} forks, expected at least 1")
        state = self.get_state().repeat(n)
        start = {name: [each for each in values for _ in range(n)] for name, values in self._lanes.defaults.items()}
        forked = SanaWMVectorEnv(self.num_envs * n, self.world, **self._settings, **start)
        forked.spec = self.spec
        forked._generators = [deepcopy(self._generators[lane]) for lane in range(self.num_envs) for _ in range(n)]
        forked.set_state(state)
        return forked

    def _reset(
        self,
        lanes: np.ndarray,
        generators: list[tuple[np.random.Generator, int]],
        options: StartOptions,
        infos: dict[str, Any],
    ) -> dict[str, Any]:
        """Resets the lanes of the mask and adds their infos to `infos`."""
        begun = self._lanes.reset(lanes, [generator for generator, _ in generators], options)
        for lane, info in zip(np.flatnonzero(lanes), begun, strict=True):
            infos = self._add_info(infos, info, lane)
        return infos

    def _observations(self) -> np.ndarray:
        return self._lanes.frames.copy()

    def _mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
            raise TypeError(f"got a reset_mask of {kind}, expected a numpy array of bool")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"got reset_mask={mask}, expected shape ({self.num_envs},) with at least one True")
        return mask

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + lane for lane in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"got {len(seed)} seeds, expected one for each of {self.num_envs} lanes")
        return [None if lane_seed is None else int(lane_seed) for lane_seed in seed]


def parse_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """A mode from itself, its name in any case ("next_step") or its value ("NextStep")."""
    if isinstance(mode, AutoresetMode):
        return mode
    for candidate in AutoresetMode:
        if str(mode).lower() in (candidate.name.lower(), candidate.value.lower()):
            return candidate
    names = [candidate.name.lower() for candidate in AutoresetMode]
    raise ValueError(f"got autoreset_mode={mode!r}, expected an AutoresetMode or one of {names}")
