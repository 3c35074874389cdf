"""Physical errors of imagined frames: where things are, against the simulator's truth."""

from typing import TYPE_CHECKING

import numpy as np

from sana_wm.evaluation.fidelity import steps_shown
from sana_wm.evaluation.intervals import mean_interval
from sana_wm.evaluation.progress import track
from sana_wm.evaluation.windows import Imagined, Windows

if TYPE_CHECKING:
    from sana_wm.evaluation.tasks import SimulatedTask


def angle_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| of angles in radians, in degrees in [0, 180]."""
    return np.abs(np.rad2deg((np.asarray(a) - b + np.pi) % (2 * np.pi) - np.pi))


def errors_by_step(
    task: "SimulatedTask",
    windows: Windows,
    imagined: Imagined,
    reconstructed: Imagined,
    *,
    show_progress: bool = False,
) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Errors of every window, by row, step and thing: {row: {step: {thing: (N,)}}}; NaN where a thing is hidden.

    Rows that are read from frames also say in which of them everything was `found`, as 0 or 1.

    Rows: `world` (imagined frames), `copy_last_frame`, `decoder_floor` (true frames: what the decoder of places itself
    errs), and, if the world reads the simulator's proprioception, `world_readout` (imagined beside the frames: what
    planners see) and `readout_floor` (read from true frames).
    """
    copied, result = task.places_of_frames(windows.last_seen), {}
    for t in track(steps_shown(windows), "decoding places", show_progress):
        rows = {
            "world": task.places_of_frames(imagined.frames[:, t - 1]),
            "copy_last_frame": copied,
            "decoder_floor": task.places_of_frames(windows.future[:, t - 1]),
        }
        for name, source in (("world_readout", imagined), ("readout_floor", reconstructed)):
            if source.proprio is not None and source.proprio.shape[-1] == len(task.proprio_names):
                rows[name] = task.places_of_proprio(source.proprio[:, t - 1])
        states = windows.future_states[:, t - 1]
        truth = task.places_of_states(states)
        for name, places in rows.items():
            result.setdefault(name, {})[t] = {
                key: np.where(task.visible(states, key), thing.error(places[key], truth[key]), np.nan)
                for key, thing in task.things.items()
            }
            if "found" in places:
                result[name][t]["found"] = np.asarray(places["found"], np.float64)
    return result


def physical_errors(task: "SimulatedTask", errors: dict[str, dict[int, dict[str, np.ndarray]]]) -> dict:
    """Means and intervals of what `errors_by_step` gives.

    Returns:
        {"things": {thing: {"words", "unit", "moves"}}, "main": thing, "units": words,
        "rows": {row: {step: {thing: mean, low, high, median, count}}}}; rows that are read from frames have a "found"
        among the things, a share.
    """
    rows = {
        name: {
            str(t): {key: mean_interval(values[~np.isnan(values)]) for key, values in of_step.items()}
            for t, of_step in by_step.items()
        }
        for name, by_step in errors.items()
    }
    things = {
        key: {"words": thing.words, "unit": thing.unit, "moves": thing.moves} for key, thing in task.things.items()
    }
    return {"things": things, "main": task.main, "units": task.units, "rows": rows}
