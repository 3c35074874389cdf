"""B parallel worlds that step in one forward pass: the core that the single and the vector environment share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from sana_wm.envs.env_state import EnvState
from sana_wm.envs.start_options import StartOptions, default_options, raw_frames

if TYPE_CHECKING:
    from sana_wm.world import Prediction, VideoWorld, WorldModel

ACTION_UNITS = ("dataset", "normalized")
RENDER_PIXELS = 256  # the shorter side of a rendered frame is at least this


@dataclass(frozen=True)
class Transition:
    """One step of the stepped lanes (in lane order): float64, bool, bool, and one info each."""

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: list[dict[str, Any]]


class Lanes:
    """The worlds of an environment, their current frames, and the rules by which an episode ends.

    Args:
        world: a `WorldModel` or `VideoWorld`, or the name, folder or hub repository of one.
        num_lanes: B, how many worlds run side by side.
        max_episode_steps: truncate after this many steps; None takes the world's own limit, -1 sets none.
        action_units: "dataset" (the units of the data the world was fitted to) or "normalized" ([-1, 1] per column,
            mapped linearly onto the dataset range).
        threshold: probability above which the termination and success heads count as true.
        device, actions: where to load the world, and what moves its camera ("delta", "keys" or a key mapping, for a
            SANA-WM release); only with a name, folder or repository.
        defaults: image, prompt, intrinsics and fov where `reset` is not told them; only for video worlds.

    Attributes:
        state: `EnvState` of all lanes, None before the first reset.
        frames: uint8 (B, H, W, 3), the current frame of each lane: the last one that its last step made.
        defaults: the given ones, checked, one value per lane each.
    """

    def __init__(
        self,
        world: WorldModel | VideoWorld | str | os.PathLike,
        num_lanes: int,
        max_episode_steps: int | None = None,
        action_units: str = "dataset",
        threshold: float = 0.5,
        device: Any = None,
        actions: str | None = None,
        **defaults: Any,
    ):
        if num_lanes < 1:
            raise ValueError(f"got {num_lanes} lanes, expected at least 1")
        if action_units not in ACTION_UNITS:
            raise ValueError(f"got action_units={action_units!r}, expected one of {ACTION_UNITS}")
        if max_episode_steps is not None and max_episode_steps != -1 and max_episode_steps < 1:
            raise ValueError(f"got max_episode_steps={max_episode_steps}, expected 1 or more, -1 for no limit, or None")
        if not 0 < threshold < 1:
            raise ValueError(f"got threshold={threshold}, expected a probability strictly between 0 and 1")
        self.world = load_world(world, device, actions)
        space = self.world.codec.action_space
        if action_units == "normalized" and not isinstance(space, spaces.Box):
            raise ValueError(
                f'got action_units="normalized" for a world whose actions are {space}: a key is held or it is not; '
                f'leave action_units out, or take actions that have a range (actions="delta" for a SANA-WM release)'
            )
        self.num_lanes = num_lanes
        self.action_units = action_units
        self.threshold = threshold
        limit = self.world.config.max_episode_steps if max_episode_steps is None else max_episode_steps
        self.max_episode_steps = None if limit == -1 else limit
        self.defaults = default_options(self.world, num_lanes, **defaults)
        knows_where = len(self.world.starts) or "image" in self.defaults
        self._default_start = StartOptions.parse({}, self.world, num_lanes, self.defaults) if knows_where else None
        self.state: EnvState | None = None
        self.frames = np.zeros((num_lanes, *self.observation_space.shape), np.uint8)

    @property
    def observation_space(self) -> spaces.Box:
        """Of one lane: uint8 (H, W, 3)."""
        return spaces.Box(0, 255, (*self.world.config.resolution, 3), np.uint8)

    @property
    def action_space(self) -> spaces.Space:
        """Of one lane: a Box of float32 in `action_units`, or the keys of a camera."""
        if self.action_units == "normalized":
            return spaces.Box(-1.0, 1.0, self.world.codec.action_space.shape, np.float32)
        return deepcopy(self.world.codec.action_space)  # each environment samples from its own generator

    @property
    def can_begin_unasked(self) -> bool:
        """Whether an episode can begin without being told where: in a start of the world, or in the default image."""
        return self._default_start is not None

    @property
    def steps_per_second(self) -> float:
        """How many steps a second of the world's own time takes; each step gives one observation."""
        return self.world.config.fps / raw_frames(self.world)

    def start_options(self, options: Mapping[str, Any] | None = None) -> StartOptions:
        """The options of a `reset` over the defaults. Raises as `StartOptions.parse` does."""
        if self._default_start is not None and (options is None or options == {}):
            return self._default_start
        return StartOptions.parse(options, self.world, self.num_lanes, self.defaults)

    def reset(self, lanes: np.ndarray, rngs: Sequence[np.random.Generator], options: StartOptions) -> list[dict]:
        """Begins an episode in the lanes of the mask `lanes` (B,), drawing only from their own generators.

        Each lane draws its start and then its noise seed, whether or not the options give the start; so neither the
        other lanes nor the options change what a generator yields next. Where the world cannot begin there, the
        generators are as they were before.

        Returns:
            The infos of these lanes, in order.
        """
        chosen = np.flatnonzero(lanes)
        before = [rngs[i].bit_generator.state for i in chosen]
        num_starts = max(1, len(self.world.starts))  # a world without starts draws too
        draws = [(rngs[i].integers(num_starts), rngs[i].integers(2**63 - 1)) for i in chosen]
        starts = np.array([start for start, _ in draws])
        seeds = np.array([seed for _, seed in draws], np.int64)
        try:
            state = options.begin(self.world, chosen, starts, seeds)
        except Exception:
            for i, generator_state in zip(chosen, before, strict=True):
                rngs[i].bit_generator.state = generator_state
            raise
        made = self.put(lanes, EnvState.at_start(state))
        return self._infos(state.frame, self.world.read(state.latent), made)

    def check_actions(self, actions: Any, lanes: np.ndarray) -> np.ndarray:
        """The actions of the masked lanes in dataset units, float32 (K, *action shape).

        Raises:
            ResetNeeded: there is nothing to step yet.
            ValueError: wrong shape, not a number, or out of bounds.
        """
        if self.state is None:
            raise ResetNeeded("step() was called before reset(); call reset() or set_state() first")
        columns, space = self.world.codec.names, self.world.codec.action_space
        try:
            actions = np.asarray(actions, np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"got an action that is no array of numbers ({error}), expected {columns}") from error
        if actions.shape != (self.num_lanes, *space.shape):
            got = actions.shape[1:] if self.num_lanes == 1 else actions.shape
            expected = space.shape if self.num_lanes == 1 else (self.num_lanes, *space.shape)
            raise ValueError(f"got an action of shape {got}, expected {expected}: {', '.join(columns)}")
        actions = actions[lanes]
        if self.action_units == "normalized":
            outside = ~(np.abs(actions) <= 1)  # also true for NaN
            if outside.any():
                column = columns[np.argwhere(outside)[0][-1]]
                raise ValueError(f"got {column}={actions[outside][0]}, expected a normalized action in [-1, 1]")
            low, high = space.low, space.high
            actions = np.clip(low + (actions + 1) / 2 * (high - low), low, high).astype(np.float32)
        self.world.codec.check(actions)
        return actions

    def step(self, actions: np.ndarray, lanes: np.ndarray) -> Transition:
        """Steps the lanes of the mask `lanes` (B,) with checked actions (K, *action shape) in one forward pass."""
        before = self.state if lanes.all() else self.state.select(np.flatnonzero(lanes))
        world, prediction = self.world.step(before.world, actions)
        elapsed = before.elapsed + 1
        terminated = self._terminated(prediction)
        truncated = np.zeros_like(terminated) if self.max_episode_steps is None else elapsed >= self.max_episode_steps
        rewards = _numbers(prediction.reward) if self.world.config.has_reward else np.zeros(len(elapsed))
        made = self.put(lanes, EnvState(world, elapsed, terminated | truncated))
        return Transition(rewards, terminated, truncated, self._infos(world.frame, prediction, made))

    def put(self, lanes: np.ndarray, state: EnvState) -> np.ndarray:
        """Replaces the state of the lanes of the mask `lanes` (B,) and decodes their frames.

        Returns:
            All raw frames that the last step of these K lanes made, uint8 (K, n, H, W, 3).
        """
        made = np.asarray(self.world.frames(state.world))
        frames = made[:, -1]
        if lanes.all():
            self.state, self.frames = state, frames
        else:
            order = np.arange(self.num_lanes)
            order[lanes] = self.num_lanes + np.arange(state.num_lanes)
            self.state = EnvState.cat([self.state, state]).select(order)
            self.frames = np.concatenate([self.frames, frames])[order]
        return made

    def set_state(self, state: Any) -> None:
        """Puts all lanes into `state` (see `EnvState.of`).

        Raises:
            ValueError: `state` has another number of lanes or belongs to another world.
        """
        state = EnvState.of(state)
        if state.num_lanes != self.num_lanes:
            raise ValueError(
                f"got a state of {state.num_lanes} lanes, this environment has {self.num_lanes}; "
                f"cut it with state.select(lanes)"
            )
        self.world.adopt(state.world)
        self.put(np.ones(self.num_lanes, bool), state)

    def get_state(self) -> EnvState:
        """The state of all lanes.

        Raises:
            ResetNeeded: there is none yet.
        """
        if self.state is None:
            raise ResetNeeded("there is no state before the first reset(); call reset() first")
        return self.state

    def render(self) -> tuple[np.ndarray, ...]:
        """The current frames, each pixel enlarged to a square so that the shorter side has >= 256 pixels."""
        if self.state is None:
            raise ResetNeeded("there is nothing to render before the first reset(); call reset() first")
        scale = -(-RENDER_PIXELS // min(self.frames.shape[1:3]))
        return tuple(self.frames.repeat(scale, axis=1).repeat(scale, axis=2))

    def _terminated(self, prediction: Prediction) -> np.ndarray:
        """Whether the episode ends here: as the data's own flag says, or at success where the data has no flag."""
        config = self.world.config
        if config.has_terminated:
            return _numbers(prediction.terminated) > self.threshold
        if config.has_success:
            return _numbers(prediction.success) > self.threshold
        return np.zeros(len(prediction.latents), bool)

    def _infos(self, frame, prediction: Prediction, made: np.ndarray) -> list[dict[str, Any]]:
        """One info per lane of a prediction and the raw frames made (K, n, H, W, 3); the keys depend on the world."""
        infos: list[dict[str, Any]] = [{"frame": int(index)} for index in frame]
        if made.shape[1] > 1:
            for info, frames in zip(infos, made, strict=True):
                info["frames"] = frames.copy()  # the state may own these
        if self.world.config.has_success:
            for info, probability in zip(infos, _numbers(prediction.success), strict=True):
                info |= {"is_success": bool(probability > self.threshold), "success_probability": float(probability)}
        if self.world.config.has_terminated:
            for info, probability in zip(infos, _numbers(prediction.terminated), strict=True):
                info["terminated_probability"] = float(probability)
        if prediction.proprio is not None:
            for info, row in zip(infos, prediction.proprio.detach().cpu().numpy(), strict=True):
                info["proprio"] = row.astype(np.float32)  # a copy: infos share nothing
        if prediction.uncertainty is not None:
            for info, value in zip(infos, _numbers(prediction.uncertainty), strict=True):
                info["uncertainty"] = float(value)
        return infos


def load_world(
    world: WorldModel | VideoWorld | str | os.PathLike, device: Any = None, actions: str | None = None
) -> WorldModel | VideoWorld:
    """A world from its name, folder or hub repository; a world that is loaded already is returned as it is."""
    if isinstance(world, str | os.PathLike):
        from sana_wm.world import open_world  # loads torch

        return open_world(world, device or "cpu", actions=actions)
    if isinstance(world, Mapping) or not hasattr(world, "begin"):
        raise TypeError(
            f"got world={world!r} of type {type(world).__name__}, expected a WorldModel or VideoWorld, or the name, "
            f"folder or hub repository of one"
        )
    if device is not None:
        raise ValueError(f"got device={device!r} beside a loaded world; move the world itself or pass its name")
    if actions is not None:
        raise ValueError(f"got actions={actions!r} beside a loaded world, which has its actions; pass its name instead")
    return world


def check_render_mode(mode: str | None, modes: Sequence[str]) -> None:
    """Raises ValueError for a render mode that the environments do not have."""
    if mode is not None and mode not in modes:
        raise ValueError(f"got render_mode={mode!r}, expected None or one of {list(modes)}")


def _numbers(tensor) -> np.ndarray:
    """A tensor (B,) as float64, the precision in which Gymnasium keeps rewards."""
    return tensor.detach().cpu().numpy().astype(np.float64)
