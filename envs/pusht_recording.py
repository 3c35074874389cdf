"""How PushT is recorded (see `sana_wm.envs.simulators`)."""

from __future__ import annotations

import numpy as np

from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.pusht_physics import GOAL_POSE, STATE_NAMES, random_state
from sana_wm.envs.pusht_policies import POLICIES
from sana_wm.envs.simulators import Recording, vector


def _start(rng: np.random.Generator, near_goal: bool) -> np.ndarray:
    """Anywhere, or with the block 1 to 50 px from the goal pose: all scales alike, from solved to a few pushes away."""
    if not near_goal:
        return random_state(rng, None)
    scale = 10 ** rng.uniform(0, 1.7)  # px
    return random_state(rng, GOAL_POSE + rng.normal(0, [scale, scale, scale / 60]))


def _whole(episode: dict[str, np.ndarray]) -> bool:
    """Whether the block was not squeezed through a wall; the walls stand at 5 and 506."""
    corners = episode["observation.environment_state"]
    return bool(corners.min() > -5 and corners.max() < 517)


RECORDING = Recording(
    make_env=PushTEnv,
    robot_type="pusht",
    task="Push the T-shaped block onto the T-shaped target.",
    policies=POLICIES,
    start=_start,
    observed={  # px, px/s, rad, rad/s
        "observation.state": (vector("float32", ["agent_x", "agent_y"]), lambda info, state: info["pos_agent"]),
        "observation.environment_state": (
            vector("float32", [f"keypoint_{k}_{axis}" for k in range(8) for axis in "xy"]),
            lambda info, state: info["keypoints"],
        ),
        "observation.sim_state": (vector("float64", list(STATE_NAMES)), lambda info, state: state),
    },
    action=vector("float32", ["target_x", "target_y"]),
    whole=_whole,
)
