"""How good a TwoRoom world's reward, termination and success are: errors, calibration, and what they are held against.

The truth is the simulator's, of the recorded states; it depends on where a step led alone.
"""

from typing import TYPE_CHECKING

import numpy as np

from sana_wm.envs.tworoom_physics import SIDE, path_length
from sana_wm.evaluation.fidelity import HORIZONS
from sana_wm.evaluation.intervals import mean_interval
from sana_wm.evaluation.progress import track
from sana_wm.evaluation.tworoom_pairs import goal_reached
from sana_wm.evaluation.windows import Windows

if TYPE_CHECKING:
    from sana_wm.world import Prediction, WorldModel

BINS = 10


def imagine_outcomes(world: "WorldModel", windows: Windows, *, lanes: int = 64, show_progress: bool = False) -> dict:
    """Open loop from the context frames, and read from the true frames.

    Returns:
        {"imagined" | "read": {"reward" | "terminated" | "success": (N, H)}}, of the heads that the world has.
    """
    parts: dict[str, list] = {"imagined": [], "read": []}
    for first in track(range(0, len(windows), lanes), "imagining outcomes", show_progress):
        lane = slice(first, first + lanes)
        seen = windows.frames[lane, : windows.context]
        before = windows.actions[lane, : windows.context - 1]
        state = world.begin(seen, before, seeds=np.arange(first, first + len(seen)))
        parts["imagined"].append(_outcomes(world.rollout(state, windows.future_actions[lane])))
        parts["read"].append(_outcomes(world.read(world.encode(windows.future[lane]))))
    return {
        source: {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for source, batches in parts.items()
    }


def _outcomes(prediction: "Prediction") -> dict[str, np.ndarray]:
    fields = {name: getattr(prediction, name) for name in ("reward", "terminated", "success")}
    return {name: value.float().cpu().numpy() for name, value in fields.items() if value is not None}


def outcome_errors(outcomes: dict, windows: Windows) -> dict:
    """Mean absolute error of reward, Brier score and calibration of termination and success.

    Returns:
        {"reward": {"world" | "readout" | "mean_reward" | "copy_last_frame": {horizon: mean, low, high, median}},
        "terminated" | "success": {"brier": {"world" | "readout" | "base_rate" | "copy_last_frame": {horizon: ...}},
        "calibration": {"ece", "false_positive", "false_negative", "base_rate"} of all imagined steps}}
    """
    states = windows.future_states
    reward, arrived = -path_length(states) / SIDE, goal_reached(states).astype(float)
    start = windows.sim_states[:, windows.context - 1]
    copied = {"reward": -path_length(start) / SIDE, "arrived": goal_reached(start).astype(float)}
    steps = [t for t in HORIZONS if t <= windows.horizon]

    def by_horizon(error: np.ndarray) -> dict:
        return {str(t): mean_interval(error[:, t - 1]) for t in steps}

    result: dict = {}
    for name, source in (("world", "imagined"), ("readout", "read")):
        for what, value in outcomes[source].items():
            if what == "reward":
                result.setdefault(what, {})[name] = by_horizon(np.abs(value - reward))
            else:
                scores = result.setdefault(what, {"brier": {}})
                scores["brier"][name] = by_horizon(np.square(value - arrived))
                if source == "imagined":
                    scores["calibration"] = calibration(value, arrived)
    if "reward" in result:
        result["reward"]["mean_reward"] = by_horizon(np.abs(reward.mean() - reward))
        result["reward"]["copy_last_frame"] = by_horizon(np.abs(copied["reward"][:, None] - reward))
    for what in {"terminated", "success"} & set(result):
        result[what]["brier"]["base_rate"] = by_horizon(np.square(arrived.mean() - arrived))
        result[what]["brier"]["copy_last_frame"] = by_horizon(np.square(copied["arrived"][:, None] - arrived))
    return result


def calibration(probability: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Expected calibration error over ten equal bins, and the errors of deciding at one half, of all given cases."""
    probability, truth = probability.ravel(), truth.ravel()
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    gap = [abs(probability[which == b].mean() - truth[which == b].mean()) * np.mean(which == b)
           for b in range(BINS) if (which == b).any()]  # fmt: skip
    said, true = probability > 0.5, truth > 0.5
    return {
        "ece": float(np.sum(gap)),
        "false_positive": float((said & ~true).sum() / max(1, (~true).sum())),
        "false_negative": float((~said & true).sum() / max(1, true.sum())),
        "base_rate": float(truth.mean()),
    }
