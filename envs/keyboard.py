"""Keys for `gymnasium.utils.play.play`: steer a point in the plane, or hold the keys of a camera.

>>> from gymnasium.utils.play import play
>>> env = gym.make("SanaWM-v0", world="pusht-64", render_mode="rgb_array")  # doctest: +SKIP
>>> play(DirectionKeys(env))  # doctest: +SKIP
>>> env = gym.make("SanaWM-v0", world="sana-wm-streaming", actions="keys", image="room.png")  # doctest: +SKIP
>>> play(env, keys_to_action=held_keys(env), noop=np.zeros(8, np.int8), fps=2)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

MOVES = {
    "": (0, 0), "w": (0, -1), "a": (-1, 0), "s": (0, 1), "d": (1, 0),
    "wa": (-1, -1), "wd": (1, -1), "sa": (-1, 1), "sd": (1, 1),
}  # fmt: skip


class DirectionKeys(gymnasium.Wrapper):
    """Nine moves in place of a point (2,): stay, up, left, down, right and the diagonals; y points down.

    The point that the agent is told to head for begins where the agent is and stays where it was moved to. Serves
    worlds and simulators alike, `SanaWM-v0` of PushT and `sana_wm/PushT-v0` among them.

    Args:
        env: its action is a point, Box (2,).
        reach: how far one move shifts the point, as a share of its range.
        position: where the agent is, (2,) out of the info of `reset`; None takes `pos_agent` or the first two columns
            of `proprio`, else the middle of the range.
    """

    def __init__(
        self, env: gymnasium.Env, reach: float = 1 / 16, position: Callable[[dict[str, Any]], Any] | None = None
    ):
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, spaces.Box) or space.shape != (2,) or not space.is_bounded():
            raise ValueError(f"got an environment with actions {space}, expected points: a bounded Box (2,)")
        self.action_space = spaces.Discrete(len(MOVES))
        self._low, self._high = space.low, space.high
        self._moves = np.array(list(MOVES.values()), np.float32) * np.float32(reach) * (self._high - self._low)
        self._position = position or self._told_position
        self._target = (self._low + self._high) / 2

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, info = self.env.reset(seed=seed, options=options)
        self._target = np.clip(np.asarray(self._position(info), np.float32), self._low, self._high)
        return observation, info

    def step(self, action: int):
        if action not in self.action_space:
            raise ValueError(f"got move {action!r}, expected one of 0 to {len(MOVES) - 1}: {list(MOVES)}")
        self._target = np.clip(self._target + self._moves[int(action)], self._low, self._high)
        return self.env.step(self._target)

    def get_keys_to_action(self) -> dict[str, int]:
        """What `play` asks for: w a s d, alone and in pairs."""
        return {keys: move for move, keys in enumerate(MOVES) if keys}

    def _told_position(self, info: dict[str, Any]) -> np.ndarray:
        if "pos_agent" in info:
            return info["pos_agent"]
        known = info.get("proprio", ())
        return known[:2] if len(known) >= 2 else (self._low + self._high) / 2


def held_keys(env: gymnasium.Env) -> dict[str, np.ndarray]:
    """`keys_to_action` of an environment whose actions are keys, each held or not: alone and in pairs.

    Raises:
        ValueError: an environment with other actions.
    """
    if not isinstance(env.action_space, spaces.MultiBinary):
        raise ValueError(
            f'got an environment with actions {env.action_space}, expected held keys (actions="keys"); a point in the '
            f"plane is steered by DirectionKeys(env)"
        )
    names = list(env.unwrapped.world.codec.names)
    held = [*combinations(names, 1), *combinations(names, 2)]
    return {"".join(keys): np.array([name in keys for name in names], np.int8) for keys in held}
