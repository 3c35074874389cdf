"""B parallel worlds that step in one forward pass: the core that the single and the vector environment share."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from sana_wm.envs.actions import ActionReader
from sana_wm.envs.env_state import EnvState
from sana_wm.envs.observations import check_kind, observation_space, observe
from sana_wm.envs.rewards import Reward, RewardFunction, numbers
from sana_wm.envs.start_options import StartOptions, default_options, raw_frames, repeat_options
from sana_wm.envs.trust_watch import TrustWatch

if TYPE_CHECKING:
    from sana_wm.world import Prediction, VideoWorld, WorldModel, WorldState

RENDER_PIXELS = 256  # the shorter side of a rendered frame is at least this


@dataclass(frozen=True)
class Transition:
    """Steps of the stepped lanes (in lane order), up to the first end of each.

    Attributes:
        rewards: float64 (K,), summed over the steps. terminated, truncated: bool (K,), of the last one.
        infos: of the last one. steps: int (K,), how many there were.
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: list[dict[str, Any]]
    steps: np.ndarray


class Lanes:
    """The worlds of an environment, what they show, and the rules by which an episode ends.

    Args:
        world: a `WorldModel` or `VideoWorld`, or the name, folder or hub repository of one.
        num_lanes: B, how many worlds run side by side.
        max_episode_steps: truncate after this many steps; None takes the world's own limit, -1 sets none.
        action_units, action_set: see `ActionReader`.
        threshold: probability above which the termination and success heads count as true.
        device, actions: where to load the world, and what moves its camera ("delta", "keys" or a key mapping, for a
            SANA-WM release); only with a name, folder or repository.
        obs: what observations are, see `observation_space`.
        reward_fn, goal: see `Reward`.
        state_bytes: whether infos tell the size of a lane's state.
        trust, truncate_untrusted: see `TrustWatch.parse`.
        defaults: image, prompt, intrinsics and fov where `reset` is not told them; only for video worlds.

    Attributes:
        state: `EnvState` of all lanes, None before the first reset.
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
        *,
        obs: str = "pixels",
        action_set: Any = None,
        reward_fn: RewardFunction | None = None,
        goal: Any = None,
        state_bytes: bool = False,
        trust: Any = None,
        truncate_untrusted: Any = None,
        **defaults: Any,
    ):
        if num_lanes < 1:
            raise ValueError(f"got {num_lanes} lanes, expected at least 1")
        if max_episode_steps is not None and max_episode_steps != -1 and max_episode_steps < 1:
            raise ValueError(f"got max_episode_steps={max_episode_steps}, expected 1 or more, -1 for no limit, or None")
        if not 0 < threshold < 1:
            raise ValueError(f"got threshold={threshold}, expected a probability strictly between 0 and 1")
        check_kind(obs)
        self.world = load_world(world, device, actions)
        self.num_lanes, self.obs = num_lanes, obs
        self.actions = ActionReader(self.world.codec, action_units, action_set)
        self.reward = Reward(self.world, num_lanes, reward_fn, goal)
        self.threshold, self.state_bytes = threshold, state_bytes
        self.watch = TrustWatch.parse(self.world, obs, trust, truncate_untrusted)
        limit = self.world.config.max_episode_steps if max_episode_steps is None else max_episode_steps
        self.max_episode_steps = None if limit == -1 else limit
        self.defaults = default_options(self.world, num_lanes, **defaults)
        knows_where = len(self.world.starts) or "image" in self.defaults
        self._default_start = StartOptions.parse({}, self.world, num_lanes, self.defaults) if knows_where else None
        self.state: EnvState | None = None
        self._frames: np.ndarray | None = None  # of the state; None: not decoded yet
        self._proprio: np.ndarray | None = None

    @property
    def observation_space(self) -> spaces.Space:
        """Of one lane."""
        return observation_space(self.obs, self.world)

    @property
    def action_space(self) -> spaces.Space:
        """Of one lane: a Box of float32, the keys of a camera, or a choice out of the action set."""
        return self.actions.space

    @property
    def can_begin_unasked(self) -> bool:
        """Whether an episode can begin without being told where: in a start of the world, or in the default image."""
        return self._default_start is not None

    @property
    def steps_per_second(self) -> int | float:
        """How many steps a second of the world's own time takes; each step gives one observation."""
        rate = self.world.config.fps / raw_frames(self.world)
        return int(rate) if float(rate).is_integer() else rate  # `gymnasium.utils.play` insists on an int

    @property
    def frames(self) -> np.ndarray:
        """uint8 (B, H, W, 3), the current frame of each lane: the last one that its last step made."""
        if self._frames is None:
            self._frames = np.asarray(self.world.frames(self.state.world))[:, -1]
        return self._frames

    @property
    def proprio(self) -> np.ndarray:
        """float32 (B, P), dataset units; only of worlds that read it."""
        if self._proprio is None:
            self._proprio = _rows(self.world.read(self.state.world.latent).proprio)
        return self._proprio

    def observe(self) -> Any:
        """What all lanes see now, the lane axis first; arrays of the caller's own."""
        return observe(self.obs, self)

    def start_options(self, options: Mapping[str, Any] | None = None) -> StartOptions:
        """The options of a `reset` over the defaults. Raises as `StartOptions.parse` does."""
        if self._default_start is not None and (options is None or (isinstance(options, Mapping) and not options)):
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
            state = EnvState.at_start(self._watched(options.begin(self.world, chosen, starts, seeds)))
            prediction = self.world.read(state.world.latent)
            made = np.asarray(self.world.frames(state.world)) if self.watch.drift else None
            found = self._signals(None, prediction, None, made) if self.watch.names else {}
            made = self._put(lanes, state, prediction, made=made)
        except Exception:
            for i, generator_state in zip(chosen, before, strict=True):
                rngs[i].bit_generator.state = generator_state
            raise
        return self._with_frames(self._infos(state, prediction, self.watch.shown(found)), made)

    def check_actions(self, actions: Any, lead: tuple[int, ...], lanes: np.ndarray) -> np.ndarray:
        """The actions (*lead, *shape) of the masked lanes in dataset units, float32 (K, ..., *action shape).

        Raises:
            ResetNeeded: there is nothing to step yet.
            ValueError: see `ActionReader.read`.
        """
        if self.state is None:
            raise ResetNeeded("step() was called before reset(); call reset() or set_state() first")
        return self.actions.read(actions, lead, lanes)

    def step(self, actions: np.ndarray, lanes: np.ndarray) -> Transition:
        """Steps the lanes of the mask `lanes` (B,) with checked actions (K, H, *action shape), each to its first end.

        All lanes that still run share a forward pass, and frames are decoded once, after the last step. What it raises
        (a reward function's complaint) leaves the lanes where they were.
        """
        chosen = np.flatnonzero(lanes)
        state = self.state if lanes.all() else self.state.select(chosen)
        count, horizon = actions.shape[:2]
        rewards, steps = np.zeros(count), np.zeros(count, np.int64)
        terminated, truncated = np.zeros(count, bool), np.zeros(count, bool)
        infos: list[dict[str, Any]] = [{}] * count
        proprio: np.ndarray | None = None
        decoded: np.ndarray | None = None
        live = np.arange(count)
        for k in range(horizon):
            before = state if len(live) == count else state.select(live)
            world, prediction = self.world.step(before.world, actions[live, k])
            rewards[live] += self.reward(prediction, chosen[live])
            steps[live] += 1
            elapsed = before.elapsed + 1
            terminated[live] = self._terminated(prediction)
            if self.max_episode_steps is not None:
                truncated[live] = elapsed >= self.max_episode_steps
            ended = terminated[live] | truncated[live]
            if k == horizon - 1 or ended.any() or self.watch.limits:
                frames = np.asarray(self.world.frames(world)) if self.watch.drift else None
                found = self._signals(before, prediction, actions[live, k], frames)
                broken = self.watch.broken(found, len(live))
                truncated[live] |= [name is not None for name in broken]
                ended = terminated[live] | truncated[live]
                made = self._infos(EnvState(world, elapsed, ended), prediction, self.watch.shown(found))
                for lane, info, name in zip(live, made, broken, strict=True):
                    infos[lane] = info if name is None else info | {"truncated_by": name}
                if frames is not None:
                    decoded = np.zeros((count, *frames.shape[1:]), np.uint8) if decoded is None else decoded
                    decoded[live] = frames
            after = EnvState(world, elapsed, ended)
            if prediction.proprio is not None:
                rows = _rows(prediction.proprio)
                proprio = rows if proprio is None else proprio
                proprio[live] = rows
            state = state.replace(live, after)
            live = live[~ended]
            if not len(live):
                break
        made = self._put(lanes, state, proprio=proprio, made=decoded)
        return Transition(rewards, terminated, truncated, self._with_frames(infos, made), steps)

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
        world = self._watched(self.world.adopt(state.world))
        self._put(np.ones(self.num_lanes, bool), EnvState(world, state.elapsed, state.ended))

    def get_state(self) -> EnvState:
        """The state of all lanes.

        Raises:
            ResetNeeded: there is none yet.
        """
        if self.state is None:
            raise ResetNeeded("there is no state before the first reset(); call reset() first")
        return self.state

    def repeat(self, n: int) -> Lanes:
        """Other lanes that stand where these stand, each `n` times side by side. Nothing is computed, only copied."""
        state = self.get_state()
        other = copy.copy(self)
        if n == 1:  # states, frames and options are never written to
            return other
        other.num_lanes = self.num_lanes * n
        other.state = state.repeat(n)
        other.reward = self.reward.repeat(n)
        other.defaults = repeat_options(self.defaults, n)
        other._default_start = None if self._default_start is None else self._default_start.repeat(n)
        other._frames = None if self._frames is None else self._frames.repeat(n, axis=0)
        other._proprio = None if self._proprio is None else self._proprio.repeat(n, axis=0)
        return other

    def render(self) -> tuple[np.ndarray, ...]:
        """The current frames, each pixel enlarged to a square so that the shorter side has >= 256 pixels."""
        if self.state is None:
            raise ResetNeeded("there is nothing to render before the first reset(); call reset() first")
        scale = -(-RENDER_PIXELS // min(self.frames.shape[1:3]))
        return tuple(self.frames.repeat(scale, axis=1).repeat(scale, axis=2))

    def _put(
        self,
        lanes: np.ndarray,
        state: EnvState,
        prediction: Prediction | None = None,
        proprio: np.ndarray | None = None,
        made: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """Replaces the state of the lanes of the mask `lanes` (B,) and, where observations show them, their frames.

        Args:
            prediction, proprio (K, P), made: whatever is known of these lanes, so that it need not be computed again.
        Returns:
            All raw frames that the last step of these K lanes made, uint8 (K, n, H, W, 3), if they were decoded.
        """
        if made is None and self.obs != "latents":
            made = np.asarray(self.world.frames(state.world))
        frames = None if made is None else made[:, -1]
        if prediction is not None and prediction.proprio is not None:
            proprio = _rows(prediction.proprio)
        if lanes.all():
            self.state, self._frames, self._proprio = state, frames, proprio
            return made
        index = np.flatnonzero(lanes)
        merged = self.state.replace(index, state)
        frames, proprio = _replaced(self._frames, index, frames), _replaced(self._proprio, index, proprio)
        self.state, self._frames, self._proprio = merged, frames, proprio
        return made

    def _terminated(self, prediction: Prediction) -> np.ndarray:
        """Whether the episode ends here: as the data's own flag says, or at success where the data has no flag."""
        config = self.world.config
        if config.has_terminated:
            return numbers(prediction.terminated) > self.threshold
        if config.has_success:
            return numbers(prediction.success) > self.threshold
        return np.zeros(len(prediction.latents), bool)

    def _watched(self, world: WorldState) -> WorldState:
        """The state as the environment's trust options want it: counting its doubts, or not."""
        return self.world.watch(world, self.watch.uncertainty) if hasattr(self.world, "watch") else world

    def _signals(
        self, before: EnvState | None, prediction: Prediction, actions: np.ndarray | None, frames: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """What a world that can tell says of how far a step (K lanes) is to be trusted: name -> (K,).

        Such a world has `signals(state, prediction, actions)`: the state before the step (None: there was none), the
        actions in dataset units; and takes the `frames` it made where `drift` is watched.
        """
        unwatched = hasattr(self.world, "signal_names") and not self.watch.names
        if unwatched or not hasattr(self.world, "signals"):
            return {}
        extra = {"frames": frames} if self.watch.drift else {}
        found = self.world.signals(None if before is None else before.world, prediction, actions, **extra)
        return {
            name: np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
            for name, value in found.items()
        }

    def _infos(
        self, state: EnvState, prediction: Prediction, signals: Mapping[str, np.ndarray] | None = None
    ) -> list[dict[str, Any]]:
        """One info per lane of a state and the prediction that led to it; the keys depend on the world."""
        columns: dict[str, Any] = {"frame": state.world.frame.tolist()}
        if self.state_bytes:
            columns["state_bytes"] = [state.nbytes // state.num_lanes] * state.num_lanes
        if self.world.config.has_success:
            probability = numbers(prediction.success)
            columns["is_success"] = (probability > self.threshold).tolist()
            columns["success_probability"] = probability.tolist()
        if self.world.config.has_terminated:
            columns["terminated_probability"] = numbers(prediction.terminated).tolist()
        if prediction.proprio is not None:
            columns["proprio"] = [row.copy() for row in _rows(prediction.proprio)]  # infos share nothing
        if prediction.uncertainty is not None and "model_uncertainty" not in (signals or {}):
            columns["uncertainty"] = numbers(prediction.uncertainty).tolist()
        for name, values in (signals or {}).items():
            columns[name] = values.tolist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _with_frames(self, infos: list[dict[str, Any]], made: np.ndarray | None) -> list[dict[str, Any]]:
        """Infos with the raw frames (K, n, H, W, 3) of worlds that make several in a step."""
        if made is not None and made.shape[1] > 1:
            for info, frames in zip(infos, made, strict=True):
                info["frames"] = frames.copy()  # the state may own these
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


def _rows(proprio: Any) -> np.ndarray:
    """A tensor (K, P) as a float32 array of its own."""
    return proprio.detach().cpu().float().numpy().copy()


def _replaced(values: np.ndarray | None, index: np.ndarray, rows: np.ndarray | None) -> np.ndarray | None:
    """Values (B, ...) with these rows; None where either is unknown."""
    if values is None or rows is None:
        return None
    values = values.copy()
    values[index] = rows
    return values
