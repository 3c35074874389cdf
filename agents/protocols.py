"""The seams planners are built on: a state with lanes, a dynamics that rolls actions out, an objective that scores.

Everything here is structural: `sana_wm.WorldModel` and `sana_wm.agents.simulator_dynamics.SimulatorDynamics` are both a
`Dynamics` without knowing of this file, so a planner that imagines has the same planner in the true simulator as its
ceiling. Shapes: B lanes, H steps of horizon, A action width, C h w of a latent, P proprioceptive columns.
"""

from typing import Any, Protocol

import numpy as np


class State(Protocol):
    """An immutable batch of lanes to roll out from."""

    @property
    def num_lanes(self) -> int: ...

    def repeat(self, n: int) -> "State":
        """Every lane n times, the copies of one lane side by side: lanes 0 0 0 1 1 1 ..."""
        ...

    def select(self, lanes: Any) -> "State":
        """The lanes at the given indices, in that order."""
        ...


class Rollout(Protocol):
    """What a dynamics predicts for every step; a field that a dynamics cannot predict is None."""

    latents: Any  # (B, H, C, h, w)
    reward: Any  # (B, H)
    terminated: Any  # (B, H) probability
    success: Any  # (B, H) probability
    proprio: Any  # (B, H, P) in the dataset's units
    uncertainty: Any  # (B, H)


class Dynamics(Protocol):
    def rollout(self, state: State, actions: np.ndarray) -> Rollout:
        """Predict the H steps that follow `actions` (B, H, A) in the dataset's units, one row per lane of `state`.

        One that can tell its uncertainty tells it when called with `uncertainty=True`.
        """
        ...


class Objective(Protocol):
    """Scores predictions; lower is better.

    An objective may hold one goal (scores all lanes) or N goals: then B must be a multiple of N, and lanes are grouped
    as `State.repeat` groups them (the first B / N lanes belong to goal 0).
    """

    def __call__(self, prediction: Rollout) -> Any:
        """Return the cost (B,) of each lane.

        One that scores the actions too has an attribute `needs_actions = True` and takes (prediction, actions), the
        actions (B, H, A) in the dataset's units; one that scores uncertainty has `needs_uncertainty = True`. One with
        N goals has `select(starts)`, itself with some of them.
        """
        ...
