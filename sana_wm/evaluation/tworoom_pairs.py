"""Held-out start-goal pairs for TwoRoom: a moment of a recorded episode, and the goal that stands in its frames."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sana_wm.envs.tworoom_physics import GOAL_RADIUS, SIDE


@dataclass(frozen=True)
class TwoRoomPairs:
    """N pairs; `states[:, -1]` is where planning starts, what comes before it is what an agent would have seen."""

    states: np.ndarray  # float64 (N, C, 5) exact simulator states up to and including the start
    actions_before: np.ndarray  # float32 (N, C - 1, 2)

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, which: slice) -> "TwoRoomPairs":
        return TwoRoomPairs(self.states[which], self.actions_before[which])

    @property
    def starts(self) -> np.ndarray:
        return self.states[:, -1]

    @property
    def at_goal(self) -> np.ndarray:
        """The states (N, 5) with the agent in the middle of the goal: their pictures are goal images."""
        return np.concatenate([self.starts[:, 3:5], self.starts[:, 2:]], axis=1)

    @property
    def cross(self) -> np.ndarray:
        """Whether (N,) the goal is in the other room."""
        return other_room(self.starts)


def other_room(states: np.ndarray) -> np.ndarray:
    """Whether (...) agent and goal of states (..., 5) are on two sides of the middle of the wall."""
    return (states[..., 0] < SIDE / 2) != (states[..., 3] < SIDE / 2)


def goal_reached(states: np.ndarray) -> np.ndarray:
    """Whether (...) the agent of states (..., 5) has its centre inside the goal."""
    return np.linalg.norm(states[..., :2] - states[..., 3:5], axis=-1) <= GOAL_RADIUS


def cut_tworoom_pairs(
    trajectories: Iterable[tuple[np.ndarray, np.ndarray]],
    count: int,
    *,
    context: int = 1,
    cross_share: float = 0.75,
    seed: int = 0,
) -> TwoRoomPairs:
    """Draw `count` pairs, as evenly as possible from all trajectories, none of them solved at the start.

    Args:
        trajectories: states (T, 5) and actions (T, 2); action t leads from state t to t + 1.
        context: C, how many states up to the start to keep.
        cross_share: share of pairs whose goal is in the other room.

    Raises:
        ValueError: if the trajectories hold fewer such pairs.
    """
    rng, trajectories = np.random.default_rng(seed), list(trajectories)
    across = round(cross_share * count)
    chosen: list[tuple[int, int]] = []
    for wanted, in_other_room in ((across, True), (count - across, False)):
        candidates = []
        for states, _ in trajectories:
            starts = np.arange(context - 1, len(states))
            fit = ~goal_reached(states[starts]) & (other_room(states[starts]) == in_other_room)
            candidates.append(list(rng.permutation(starts[fit])))
        drawn: list[tuple[int, int]] = []
        while len(drawn) < wanted:
            turn = [(i, starts.pop()) for i, starts in enumerate(candidates) if starts]
            if not turn:
                raise ValueError(
                    f"the {len(trajectories)} held-out trajectories hold only {len(drawn)} unsolved pairs with the "
                    f"goal in {'the other' if in_other_room else 'the same'} room, {wanted} were asked for; ask for "
                    "fewer or record more episodes"
                )
            drawn += [turn[k] for k in rng.permutation(len(turn))]
        chosen += drawn[:wanted]
    chosen = [chosen[k] for k in rng.permutation(len(chosen))]
    states = np.stack([trajectories[i][0][t - context + 1 : t + 1] for i, t in chosen])
    before = np.stack([trajectories[i][1][t - context + 1 : t] for i, t in chosen])
    return TwoRoomPairs(states, before.astype(np.float32))
