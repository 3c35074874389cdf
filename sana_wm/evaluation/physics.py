"""Physical errors of imagined PushT frames: where the agent and the block are, against the simulator's truth."""

import numpy as np

from sana_wm.envs.pusht_pose import PushTPoseDecoder, pose_of_keypoints
from sana_wm.evaluation.fidelity import HORIZONS
from sana_wm.evaluation.intervals import mean_interval
from sana_wm.evaluation.windows import Imagined, Windows

PROPRIO_WIDTH = 18  # agent x, y and eight keypoints
MATCH = 0.7  # below this share the decoder found no proper T in the frame


def angle_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| of angles in radians, in degrees in [0, 180]."""
    return np.abs(np.rad2deg((np.asarray(a) - b + np.pi) % (2 * np.pi) - np.pi))


def pose_errors(agent: np.ndarray, block: np.ndarray, sim_states: np.ndarray) -> dict[str, np.ndarray]:
    """Errors (N,) of agents (N, 2) and blocks (N, 3) against simulator states (N, 10): px, px, degrees."""
    return {
        "agent_px": np.linalg.norm(agent - sim_states[:, :2], axis=1),
        "block_px": np.linalg.norm(block[:, :2] - sim_states[:, 4:6], axis=1),
        "block_degrees": angle_difference(block[:, 2], sim_states[:, 6]),
    }


def physical_errors(windows: Windows, imagined: Imagined, reconstructed: Imagined) -> dict[str, dict]:
    """Errors by horizon, against the simulator, of poses decoded from frames and read from latents.

    Rows: `world` (imagined frames), `copy_last_frame`, `decoder_floor` (true frames: what the decoder itself errs),
    and, if the world reads PushT's proprioception, `world_readout` (from imagined latents: what planners see) and
    `readout_floor` (from the latents of true frames).

    Returns:
        {row: {horizon: {"agent_px" | "block_px" | "block_degrees": mean, low, high, median}}}; the world's entries
        also say in which share of frames a T was found, `block_found`.
    """
    decoder = PushTPoseDecoder(windows.frames.shape[-2])
    copied = decoder(windows.last_seen)
    result = {}
    for t in (t for t in HORIZONS if t <= windows.horizon):
        seen, floor = decoder(imagined.frames[:, t - 1]), decoder(windows.future[:, t - 1])
        rows = {
            "world": (seen.agent, seen.block),
            "copy_last_frame": (copied.agent, copied.block),
            "decoder_floor": (floor.agent, floor.block),
        }
        for name, source in (("world_readout", imagined), ("readout_floor", reconstructed)):
            if source.proprio is not None and source.proprio.shape[-1] == PROPRIO_WIDTH:
                columns = source.proprio[:, t - 1]
                rows[name] = columns[:, :2], pose_of_keypoints(columns[:, 2:])
        for name, (agent, block) in rows.items():
            errors = pose_errors(agent, block, windows.future_states[:, t - 1])
            result.setdefault(name, {})[str(t)] = {key: mean_interval(error) for key, error in errors.items()}
        result["world"][str(t)]["block_found"] = float(np.mean(seen.block_match > MATCH))
    return result
