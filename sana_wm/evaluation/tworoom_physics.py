"""Physical errors of imagined TwoRoom frames: where the agent, the goal and the door are, against the simulator."""

import numpy as np

from sana_wm.envs.tworoom_physics import AGENT_RADIUS, GOAL_RADIUS
from sana_wm.envs.tworoom_pose import decode_pose
from sana_wm.evaluation.fidelity import HORIZONS
from sana_wm.evaluation.intervals import mean_interval
from sana_wm.evaluation.tworoom_planning import PROPRIO_NAMES
from sana_wm.evaluation.windows import Imagined, Windows

MATCH = 0.7  # below this share of its area there is no proper disc in the frame


def place_errors(agent: np.ndarray, door: np.ndarray, goal: np.ndarray, states: np.ndarray) -> dict[str, np.ndarray]:
    """Errors of agents (N, 2), doors (N,) and goals (N, 2) against simulator states (N, 5), units.

    Of goals only those that the agent does not cover: a covered one has no centre to see.
    """
    seen = np.linalg.norm(states[:, :2] - states[:, 3:5], axis=1) > AGENT_RADIUS + GOAL_RADIUS
    return {
        "agent": np.linalg.norm(agent - states[:, :2], axis=1),
        "goal": np.linalg.norm(goal - states[:, 3:5], axis=1)[seen],
        "door": np.abs(door - states[:, 2]),
    }


def tworoom_errors(windows: Windows, imagined: Imagined, reconstructed: Imagined) -> dict[str, dict]:
    """Errors by horizon, against the simulator, of places decoded from frames and read from latents.

    Rows: `world` (imagined frames), `copy_last_frame`, `decoder_floor` (true frames: what the decoder itself errs),
    and, if the world reads TwoRoom's proprioception, `world_readout` (imagined beside the frames: what planners see)
    and `readout_floor` (read from true frames).

    Returns:
        {row: {horizon: {"agent" | "goal" | "door": mean, low, high, median}}}, units of 1/64 of the side; the world's
        entries also say in which share of frames an agent was found, `agent_found`.
    """
    copied = decode_pose(windows.last_seen)
    result: dict[str, dict] = {}
    for t in (t for t in HORIZONS if t <= windows.horizon):
        seen, floor = decode_pose(imagined.frames[:, t - 1]), decode_pose(windows.future[:, t - 1])
        decoded = {"world": seen, "copy_last_frame": copied, "decoder_floor": floor}
        rows = {name: (pose.agent, pose.door, pose.goal) for name, pose in decoded.items()}
        for name, source in (("world_readout", imagined), ("readout_floor", reconstructed)):
            if source.proprio is not None and source.proprio.shape[-1] == len(PROPRIO_NAMES):
                columns = source.proprio[:, t - 1]
                rows[name] = columns[:, :2], columns[:, 2], columns[:, 3:5]
        for name, places in rows.items():
            errors = place_errors(*places, windows.future_states[:, t - 1])
            result.setdefault(name, {})[str(t)] = {key: mean_interval(error) for key, error in errors.items()}
        result["world"][str(t)]["agent_found"] = float(np.mean(seen.agent_match > MATCH))
    return result
