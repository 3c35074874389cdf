"""What the simulators used as ground truth share: pixels out, and a state that is exactly readable and settable."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sana_wm.envs.seeds import check_seed


class SimulatedEnv(gym.Env, ABC):
    """A simulator whose whole state is one float64 vector (D,) and whose step is a function of state and action.

    A simulator says which numbers its state has (`state_names`), what an action is (`action_words`), and defines the
    abstract methods below; everything else, errors included, is here. Nothing changes where an error is raised.

    Args:
        action_space: Box (A,) float32.
        make_renderer: makes what draws a state (D,) as uint8 (height, width, 3).
        state: (D,) to stand in before the first `reset`.
        render_mode: None or "rgb_array" (`render` then gives `render_size` px frames).
        observation_size: side of the observation, px. render_size: side of rendered frames, px.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    state_names: ClassVar[tuple[str, ...]]
    action_words: ClassVar[str]

    def __init__(
        self,
        action_space: spaces.Box,
        make_renderer: Callable[[], Callable[[np.ndarray, int, int], np.ndarray]],
        state: np.ndarray,
        render_mode: str | None,
        observation_size: int,
        render_size: int,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode: got {render_mode!r}, expected None or one of {self.metadata['render_modes']}"
            )
        self.render_mode, self.render_size = render_mode, render_size
        self.observation_space = spaces.Box(0, 255, (observation_size, observation_size, 3), dtype=np.uint8)
        self.action_space = action_space
        self._make_renderer, self._draw = make_renderer, make_renderer()
        self._state = state

    @abstractmethod
    def _random_state(self, rng: np.random.Generator) -> np.ndarray:
        """A state (D,) to begin an episode in."""

    @abstractmethod
    def _advance(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The state (D,) 0.1 s after a state (D,) and an action (A,), a new array."""

    @abstractmethod
    def _reward_and_info(self, state: np.ndarray) -> tuple[float, dict[str, Any]]:
        """What a state (D,) is worth, and what infos tell of it; `is_success` ends the episode."""

    def _check_place(self, state: np.ndarray) -> None:
        """Raise ValueError for finite numbers (D,) that are no state; by default all are one."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start from `options["state"]` (D,), or its bytes, or from a random state.

        Raises:
            ValueError, TypeError: other options, states and seeds.
        """
        seed = check_seed(seed)
        given = self._checked_options(options)
        super().reset(seed=seed)
        self._state = self._random_state(self.np_random) if given is None else given
        return self._observe(), self._reward_and_info(self._state)[1]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Act for 0.1 s.

        Raises:
            ValueError: an action (A,) of a wrong shape, with NaN, or outside the action space.
        """
        self._state = self._advance(self._state, self._checked_actions(action, ndim=1))
        reward, info = self._reward_and_info(self._state)
        return self._observe(), reward, info["is_success"], False, info

    def get_state(self) -> np.ndarray:
        """The exact simulator state, float64 (D,), columns `state_names`; a copy.

        It can be pickled, has `nbytes`, and its `tobytes()` is taken back by `set_state` and `reset`.
        """
        return self._state.copy()

    def set_state(self, state: np.ndarray | bytes) -> np.ndarray:
        """Put the simulator into a state (D,) or its bytes; returns its observation. What follows is exactly the same.

        Raises:
            ValueError: anything else.
        """
        self._state = self._checked_state(state)
        return self._observe()

    def fork(self, n: int) -> list[Self]:
        """`n` independent environments that stand where this one stands, each with a copy of `np_random`."""
        if n < 1:
            raise ValueError(f"got n={n} forks, expected at least 1")
        return [self._fork() for _ in range(n)]

    def _fork(self) -> Self:
        env = copy.copy(self)  # states are replaced, never written to
        env._draw = self._make_renderer()
        env._np_random = copy.deepcopy(self._np_random)
        env.action_space = copy.deepcopy(self.action_space)
        env.observation_space = copy.deepcopy(self.observation_space)
        return env

    def simulate(self, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """States (H, D) after each action (H, A) from `state` (D,); the environment itself stays where it is.

        Raises:
            ValueError: as `set_state` and `step`.
        """
        state, actions = self._checked_state(state), self._checked_actions(actions, ndim=2)
        states = np.empty((len(actions), len(self.state_names)))
        for t, action in enumerate(actions):
            states[t] = state = self._advance(state, action)
        return states

    def render(self) -> np.ndarray | None:
        """The current state as uint8 (render_size, render_size, 3)."""
        if self.render_mode is None:
            gym.logger.warn(f"render() needs a render mode: {type(self).__name__}(render_mode='rgb_array')")
            return None
        return self._draw(self._state, self.render_size, self.render_size)

    def _observe(self) -> np.ndarray:
        height, width, _ = self.observation_space.shape
        return self._draw(self._state, height, width)

    def _checked_options(self, options: dict | None) -> np.ndarray | None:
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"options: got {type(options).__name__}, expected a dict with the key 'state'")
        if unknown := sorted(str(key) for key in options or {} if key != "state"):
            raise ValueError(f"options: got the unknown keys {unknown}, expected 'state'")
        state = (options or {}).get("state")
        return None if state is None else self._checked_state(state)

    def _checked_state(self, state: np.ndarray | bytes) -> np.ndarray:
        expected = f"{len(self.state_names)} finite numbers {self.state_names}, as get_state() returns"
        try:
            state = np.frombuffer(state) if isinstance(state, bytes | bytearray) else state
            values = np.array(state, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"state: got {type(state).__name__} ({error}); expected {expected}") from error
        finite = bool(np.isfinite(values).all())
        if values.shape != (len(self.state_names),) or not finite:
            raise ValueError(f"state: got shape {values.shape}, finite: {finite}; expected {expected}")
        self._check_place(values)
        return values

    def _checked_actions(self, actions: np.ndarray, ndim: int) -> np.ndarray:
        try:
            actions = np.asarray(actions)
            if actions.dtype.kind not in "biuf":
                raise TypeError(f"numbers of type {actions.dtype}")
            actions = actions.astype(np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"action: got {error}, expected {self.action_words}") from error
        width = self.action_space.shape[0]
        if actions.ndim != ndim or actions.shape[-1] != width:
            expected = f"({width},)" if ndim == 1 else f"(H, {width})"
            raise ValueError(f"action: got shape {actions.shape}, expected {expected}: {self.action_words}")
        low, high = self.action_space.low, self.action_space.high
        if not ((actions >= low) & (actions <= high)).all():  # NaN fails too
            raise ValueError(
                f"action: got values in [{actions.min():g}, {actions.max():g}], expected {self.action_words}; "
                "clip with np.clip(action, env.action_space.low, env.action_space.high)"
            )
        return actions
