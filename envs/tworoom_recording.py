"""How TwoRoom is recorded (see `sana_wm.envs.simulators`)."""

from __future__ import annotations

import numpy as np

from sana_wm.envs.simulators import Recording, vector
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_physics import STATE_NAMES, random_state
from sana_wm.envs.tworoom_policies import POLICIES


def _start(rng: np.random.Generator, near_goal: bool) -> np.ndarray:
    """Anywhere outside the goal, or at most 12 units from its middle."""
    return random_state(rng, near=rng.uniform(1, 12) if near_goal else None)


RECORDING = Recording(
    make_env=TwoRoomEnv,
    robot_type="tworoom",
    task="Go to the green disc through the door.",
    policies=POLICIES,
    start=_start,
    observed={  # units of 1/64 of the square's side
        "observation.state": (vector("float32", ["agent_x", "agent_y"]), lambda info, state: info["pos_agent"]),
        "observation.environment_state": (
            vector("float32", ["door_y", "goal_x", "goal_y"]),
            lambda info, state: state[2:],
        ),
        "observation.sim_state": (vector("float64", list(STATE_NAMES)), lambda info, state: state),
    },
    action=vector("float32", ["velocity_x", "velocity_y"]),
)
