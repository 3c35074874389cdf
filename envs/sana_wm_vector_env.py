"""Many lanes of a trained world in one forward pass: `gym.make_vec("SanaWM-v0", num_envs=..., world=...)`."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sana_wm.envs.env_state import EnvState
from sana_wm.envs.lanes import Lanes
from sana_wm.envs.observations import of_lane
from sana_wm.envs.seeds import lane_seeds
from sana_wm.envs.window import RENDER_MODES, Window, check_render_mode, tiled

if TYPE_CHECKING:
    from sana_wm.envs.rewards import RewardFunction
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
        image, prompt, intrinsics, fov, goal: as in `SanaWMEnv`, for all lanes, or a list (array) of one for each.
        obs, action_set, reward_fn, state_bytes, trust, truncate_untrusted: as in `SanaWMEnv`. A step may give
            `reward_fn` fewer lanes than there are: those that begin anew are not among them.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 10, "autoreset_mode": AutoresetMode.NEXT_STEP}

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
        self.autoreset_mode = parse_autoreset_mode(autoreset_mode)
        self.lanes = Lanes(
            world, num_envs, max_episode_steps, action_units, threshold, device, actions, obs=obs,
            action_set=action_set, reward_fn=reward_fn, goal=goal, state_bytes=state_bytes, trust=trust,
            truncate_untrusted=truncate_untrusted, image=image, prompt=prompt, intrinsics=intrinsics, fov=fov,
        )  # fmt: skip
        config = self.world.config
        ends = (
            self.lanes.max_episode_steps is not None
            or config.has_terminated
            or config.has_success
            or self.lanes.watch.limits
        )
        if self.autoreset_mode is not AutoresetMode.DISABLED and ends and not self.lanes.can_begin_unasked:
            raise ValueError(
                "finished lanes begin anew by themselves, but this world has no starts of its own: pass image= and "
                'prompt= to begin in, autoreset_mode="disabled", or max_episode_steps=-1'
            )
        self.num_envs = num_envs
        self.metadata = {
            **self.metadata,
            "render_fps": self.lanes.steps_per_second,
            "autoreset_mode": self.autoreset_mode,
        }
        self._make_spaces()
        self._window: Window | None = None
        self._generators: list[tuple[np.random.Generator, int]] = [seeding.np_random() for _ in range(num_envs)]

    @property
    def world(self) -> WorldModel | VideoWorld:
        """The world that this environment steps."""
        return self.lanes.world

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
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"got options of type {type(options).__name__}, expected a dict")
        options = dict(options or {})
        lanes = self._mask(options.pop("reset_mask", None))
        seeds = lane_seeds(seed, self.num_envs)
        start_options = self.lanes.start_options(options)
        if self.lanes.state is None and not lanes.all():
            raise ResetNeeded("some lanes were never reset; call reset() without reset_mask first")
        generators = list(self._generators)
        for lane in np.flatnonzero(lanes):
            if seeds[lane] is not None:
                generators[lane] = seeding.np_random(seeds[lane])
        infos = self._reset(lanes, generators, start_options, {})
        self._generators = generators
        self._show()
        return self.lanes.observe(), infos

    def step(self, actions: np.ndarray):
        """One step of every lane: actions (B, *action shape) in, five values over lanes out, as `SyncVectorEnv` does.

        Raises:
            ResetNeeded: before the first reset, or (DISABLED) with a finished lane.
            ValueError: actions of the wrong shape, with NaN, or out of bounds; no lane has moved.
        """
        return self._step(actions, None)

    def step_chunk(self, actions: np.ndarray):
        """K steps of every lane in one call: actions (B, K, *action shape), K at least 1.

        Each lane stops at its first end; the others go on without it, in one forward pass a step. Finished lanes begin
        anew as in `step`, once a call: NEXT_STEP spends the whole next chunk of such a lane on its reset, SAME_STEP
        resets it after the chunk. Frames are decoded once, after the last step.

        Returns:
            As `step` does, with rewards summed over the steps that a lane took; `infos["steps"]` counts those.

        Raises:
            As `step` does; all actions are checked before the first is taken, and no lane has moved.
        """
        shape = np.shape(actions) if isinstance(actions, np.ndarray) or hasattr(actions, "shape") else None
        try:
            horizon = len(actions[0]) if shape is None else shape[1]
        except (TypeError, IndexError, KeyError) as error:
            raise ValueError(
                f"got a chunk of type {type(actions).__name__}{'' if shape is None else f' and shape {shape}'}, "
                f"expected actions ({self.num_envs}, K, *action shape)"
            ) from error
        if not horizon:
            raise ValueError("got a chunk without actions, expected at least one for every lane")
        return self._step(actions, horizon)

    def _step(self, actions: Any, horizon: int | None):
        """One step (None: actions have no axis of steps), or `horizon` of them."""
        ended = np.zeros(self.num_envs, bool) if self.lanes.state is None else self.lanes.state.ended
        if self.autoreset_mode is AutoresetMode.DISABLED and ended.any():
            raise ResetNeeded(
                f"the episodes of lanes {np.flatnonzero(ended).tolist()} are over; reset them with "
                f'options={{"reset_mask": terminations | truncations}}'
            )
        stepped = ~ended
        lead = (self.num_envs,) if horizon is None else (self.num_envs, horizon)
        actions = self.lanes.check_actions(actions, lead, stepped)
        actions = actions[:, None] if horizon is None else actions
        rewards = np.zeros(self.num_envs)
        terminations, truncations = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        finished = np.zeros(self.num_envs, bool)
        infos: dict[str, Any] = {}
        if stepped.any():
            transition = self.lanes.step(actions, stepped)
            rewards[stepped] = transition.rewards
            terminations[stepped], truncations[stepped] = transition.terminated, transition.truncated
            finished = terminations | truncations
            last = self.lanes.observe() if self.autoreset_mode is AutoresetMode.SAME_STEP and finished.any() else None
            for k, (lane, info) in enumerate(zip(np.flatnonzero(stepped), transition.infos, strict=True)):
                if horizon is not None:
                    info = info | {"steps": int(transition.steps[k])}
                if last is not None and finished[lane]:
                    info = {"final_obs": of_lane(last, lane), "final_info": info}
                infos = self._add_info(infos, info, lane)
        restart = finished if self.autoreset_mode is AutoresetMode.SAME_STEP else ended
        if restart.any():
            infos = self._reset(restart, self._generators, self.lanes.start_options(), infos)
        self._show()
        return self.lanes.observe(), rewards, terminations, truncations, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frame of every lane, enlarged; None with "human" (whose window shows all lanes) or no mode."""
        if self.render_mode == "human":
            self._show()
            return None
        if self.render_mode is None:
            gymnasium.logger.warn('render() needs render_mode="rgb_array" when the environment is made')
            return None
        return self.lanes.render()

    def get_state(self) -> EnvState:
        """The state of all lanes as a value; `.select([i])` of it fits a `SanaWMEnv`."""
        return self.lanes.get_state()

    def set_state(self, state: EnvState | WorldState | bytes) -> np.ndarray:
        """Puts all lanes into `state`; returns the observations there. Raises as `SanaWMEnv.set_state` does."""
        self.lanes.set_state(state)
        self._show()
        return self.lanes.observe()

    def fork(self, n: int) -> SanaWMVectorEnv:
        """A new environment of B·n lanes: each lane `n` times side by side, each with a copy of its generator.

        Nothing is computed: that costs less than a step. A fork has no window, see `SanaWMEnv.fork`.
        """
        if n < 1:
            raise ValueError(f"got n={n} forks, expected at least 1")
        forked = copy.copy(self)
        forked.lanes = self.lanes.repeat(n)
        forked.num_envs = self.num_envs * n
        forked._make_spaces()
        forked._generators = [copy.deepcopy(self._generators[lane]) for lane in range(self.num_envs) for _ in range(n)]
        forked._window = None
        forked.render_mode = "rgb_array" if self.render_mode == "human" else self.render_mode
        return forked

    def close_extras(self, **kwargs: Any) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None

    def _make_spaces(self) -> None:
        self.single_observation_space = self.lanes.observation_space
        self.single_action_space = self.lanes.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _show(self) -> None:
        if self.render_mode == "human":
            picture = tiled(self.lanes.render())
            if self._window is None:
                self._window = Window("SanaWM", self.lanes.steps_per_second)
            self._window.show(picture)

    def _reset(
        self,
        lanes: np.ndarray,
        generators: list[tuple[np.random.Generator, int]],
        options: StartOptions,
        infos: dict[str, Any],
    ) -> dict[str, Any]:
        """Resets the lanes of the mask and adds their infos to `infos`."""
        begun = self.lanes.reset(lanes, [generator for generator, _ in generators], options)
        for lane, info in zip(np.flatnonzero(lanes), begun, strict=True):
            infos = self._add_info(infos, info, lane)
        return infos

    def _mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
            raise TypeError(f"got a reset_mask of {kind}, expected a numpy array of bool")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"got reset_mask={mask}, expected shape ({self.num_envs},) with at least one True")
        return mask


def parse_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """A mode from itself, its name in any case ("next_step") or its value ("NextStep")."""
    if isinstance(mode, AutoresetMode):
        return mode
    for candidate in AutoresetMode:
        if str(mode).lower() in (candidate.name.lower(), candidate.value.lower()):
            return candidate
    names = [candidate.name.lower() for candidate in AutoresetMode]
    raise ValueError(f"got autoreset_mode={mode!r}, expected an AutoresetMode or one of {names}")
