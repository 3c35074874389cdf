"""Open-loop prediction of held-out windows: frames, where the agent is, reward, by how many steps ahead."""

import numpy as np

from sana_wm.envs.tworoom_physics import SIDE, path_length
from sana_wm.envs.tworoom_pose import decode_pose
from sana_wm.evaluation.fidelity import HORIZONS, psnr
from sana_wm.evaluation.intervals import mean_interval
from sana_wm.evaluation.tworoom import MATCH
from sana_wm.evaluation.windows import Windows


def predict(world, windows: Windows, *, lanes: int = 40) -> dict:
    """Errors at `HORIZONS` of a world or a peer that sees the context of every window and then only actions.

    Returns:
        {"psnr" (dB, frames), "agent" (dataset units, as read beside or from the prediction), "agent_in_frames" (as an
        untrained decoder finds it in the frames), "reward" (absolute error): {horizon: mean, low, high, median},
        "agent_found": {horizon: share of frames with a proper disc}}; of frames only where a world makes them.
    """
    steps = [t for t in HORIZONS if t <= windows.horizon]
    at = [t - 1 for t in steps]
    proprio, reward, frames = [], [], []
    for first in range(0, len(windows), lanes):
        lane = slice(first, first + lanes)
        seen, before = windows.frames[lane, : windows.context], windows.actions[lane, : windows.context - 1]
        state = world.begin(seen, before, seeds=np.arange(first, first + len(seen)))
        said = world.rollout(state, windows.future_actions[lane])
        proprio.append(said.proprio[:, at, :2].float().cpu().numpy())
        reward.append(said.reward[:, at].float().cpu().numpy())
        if getattr(world, "makes_frames", True):
            frames.append(world.decode(said.latents[:, at]))
    states = windows.future_states[:, at]
    away = np.linalg.norm(np.concatenate(proprio) - states[..., :2], axis=-1)
    result = {
        "agent": _by_horizon(steps, away),
        "reward": _by_horizon(steps, np.abs(np.concatenate(reward) + path_length(states) / SIDE)),
    }
    if frames:
        made = np.concatenate(frames)
        result |= frame_scores(made, windows.future[:, at], states, steps)
    return result


def frame_scores(made: np.ndarray, truth: np.ndarray, states: np.ndarray, steps: list[int]) -> dict:
    """Scores of frames uint8 (N, K, H, W, 3) at K horizons against true ones and states (N, K, 5)."""
    poses = [decode_pose(made[:, k]) for k in range(len(steps))]
    seen = np.stack([np.linalg.norm(pose.agent - states[:, k, :2], axis=-1) for k, pose in enumerate(poses)], axis=1)
    return {
        "psnr": _by_horizon(steps, psnr(made, truth)),
        "agent_in_frames": _by_horizon(steps, seen),
        "agent_found": {str(t): float((pose.agent_match > MATCH).mean()) for t, pose in zip(steps, poses, strict=True)},
    }


def copy_last(windows: Windows) -> dict:
    """The baseline that nothing ever moves."""
    steps = [t for t in HORIZONS if t <= windows.horizon]
    at = [t - 1 for t in steps]
    states = windows.future_states[:, at]
    start = windows.sim_states[:, windows.context - 1]
    made = np.broadcast_to(windows.last_seen[:, None], windows.future[:, at].shape)
    away = np.linalg.norm(start[:, None, :2] - states[..., :2], axis=-1)
    wrong = np.abs(path_length(start)[:, None] - path_length(states)) / SIDE
    scores = frame_scores(made, windows.future[:, at], states, steps)
    return scores | {"agent": _by_horizon(steps, away), "reward": _by_horizon(steps, wrong)}


def _by_horizon(steps: list[int], values: np.ndarray) -> dict:
    return {str(t): mean_interval(values[:, k]) for k, t in enumerate(steps)}
