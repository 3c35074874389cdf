"""Held-out start-goal pairs for PushT: a moment of a recorded episode, and what it looked like 25 steps later."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.evaluation.physics import angle_difference
from sana_wm.evaluation.windows import SIM_STATE

if TYPE_CHECKING:
    from sana_wm.data import LeRobotDataset

REACHED_PX, REACHED_DEGREES = 20.0, 20.0


@dataclass(frozen=True)
class Pairs:
    """N pairs; `states[:, -1]` is where planning starts, what comes before it is what an agent would have seen."""

    states: np.ndarray  # float64 (N, C, 10) exact simulator states up to and including the start
    actions_before: np.ndarray  # float32 (N, C - 1, 2)
    goals: np.ndarray  # float64 (N, 10) the state `distance` steps after the start
    recorded: np.ndarray  # float32 (N, distance, 2) the actions that led there

    def __len__(self) -> int:
        return len(self.goals)

    @property
    def starts(self) -> np.ndarray:
        return self.states[:, -1]

    def __getitem__(self, which: slice) -> "Pairs":
        return Pairs(self.states[which], self.actions_before[which], self.goals[which], self.recorded[which])


def block_reached(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Whether the block of states (..., 10) is within 20 px and 20 degrees of the goals' block."""
    near = np.linalg.norm(states[..., 4:6] - goals[..., 4:6], axis=-1) < REACHED_PX
    return near & (angle_difference(states[..., 6], goals[..., 6]) < REACHED_DEGREES)


def agent_reached(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Whether the agent is within 20 px of the goals' agent."""
    return np.linalg.norm(states[..., :2] - goals[..., :2], axis=-1) < REACHED_PX


def recorded_trajectories(dataset: "LeRobotDataset", episodes: Sequence[int]) -> Iterator[tuple[np.ndarray, Any]]:
    """Simulator states (T, 10) and actions (T, 2) of episodes of a dataset; cameras are not decoded.

    Raises:
        ValueError: if the dataset did not record its simulator.
    """
    if SIM_STATE not in dataset.features:
        raise ValueError(
            f"planning pairs need the exact simulator state {SIM_STATE!r}, which this dataset lacks; "
            "record one with `python -m sana_wm.collect`"
        )
    for index in episodes:
        rows = dataset.episode(int(index), keys=[SIM_STATE, "action"])
        yield rows[SIM_STATE], rows["action"]


def cut_pairs(
    trajectories: Iterable[tuple[np.ndarray, np.ndarray]],
    count: int,
    *,
    context: int = 1,
    distance: int = 25,
    seed: int = 0,
) -> Pairs:
    """Draw `count` pairs, as evenly as possible from all trajectories, in which the block must move.

    A pair whose start already counts as reached is never drawn; no start is drawn twice.

    Args:
        trajectories: states (T, 10) and actions (T, 2); action t leads from state t to t + 1.
        context: C, how many states up to the start to keep.
        distance: steps from start to goal.

    Raises:
        ValueError: if the trajectories hold fewer than `count` such pairs.
    """
    rng = np.random.default_rng(seed)
    candidates = []  # per trajectory, its possible starts in random order
    trajectories = list(trajectories)
    for states, _ in trajectories:
        starts = np.arange(context - 1, len(states) - distance)
        moves = ~block_reached(states[starts], states[starts + distance]) if len(starts) else np.zeros(0, bool)
        candidates.append(list(rng.permutation(starts[moves])))
    chosen = []
    while len(chosen) < count:
        round_ = [(i, starts.pop()) for i, starts in enumerate(candidates) if starts]
        if not round_:
            raise ValueError(
                f"the {len(trajectories)} held-out trajectories hold only {len(chosen)} pairs in which the block "
                f"moves, {count} were asked for; ask for fewer or record more episodes"
            )
        chosen += [round_[k] for k in rng.permutation(len(round_))]
    cut = []
    for index, start in chosen[:count]:
        states, actions = trajectories[index]
        first = start - context + 1
        cut.append(
            (states[first : start + 1], actions[first:start], states[start + distance], actions[start:][:distance])
        )
    states, before, goals, recorded = (np.stack(field) for field in zip(*cut, strict=True))
    return Pairs(states, before.astype(np.float32), goals, recorded.astype(np.float32))
