"""How well imagined frames match true ones, and whether they follow the actions."""

import numpy as np

from sana_wm.evaluation.intervals import mean_interval, ratio_interval
from sana_wm.evaluation.windows import Imagined, Windows

HORIZONS = (1, 5, 10, 25)  # steps that tables show
CURVE = (1, 2, 3, 4, 5, 7, 10, 13, 16, 20, 25, 32, 40, 50, 65, 80, 100)  # steps that curves go through
PSNR_CEILING = 60.0  # dB; of frames that differ less than a mean squared error of 0.065, all the same here


def psnr(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of uint8 frames (..., height, width, 3) in dB, one per frame, at most 60."""
    error = np.square(frames.astype(np.float32) - truth.astype(np.float32)).mean(axis=(-3, -2, -1), dtype=np.float64)
    floor = 255.0**2 / 10 ** (PSNR_CEILING / 10)
    return 10 * np.log10(255.0**2 / np.maximum(error, floor))


def steps_shown(windows: Windows) -> list[int]:
    """The steps of `CURVE` that windows reach, and their last one."""
    return sorted({t for t in CURVE if t <= windows.horizon} | {windows.horizon})


def fidelity(windows: Windows, imagined: Imagined, reconstructed: Imagined) -> dict[str, dict]:
    """PSNR by step of the world, beside copying the last seen frame and the tokenizer's reconstruction.

    Returns:
        {"world" | "copy_last_frame" | "tokenizer": {step: mean, low, high, median in dB, count}}
    """
    rows = {
        "world": imagined.frames,
        "copy_last_frame": np.broadcast_to(windows.last_seen[:, None], windows.future.shape),
        "tokenizer": reconstructed.frames,
    }
    return {
        name: {str(t): mean_interval(psnr(frames[:, t - 1], windows.future[:, t - 1])) for t in steps_shown(windows)}
        for name, frames in rows.items()
    }


def action_shuffle_ratio(
    windows: Windows, imagined: Imagined, with_shuffled_actions: Imagined, reconstructed: Imagined
) -> dict[str, dict]:
    """Error with another window's actions over error with the true ones; 1 means that actions are ignored.

    Returns:
        {"pixels" | "latents": mean, low, high} of mean squared errors over the whole horizon.
    """

    def error(imagined_values, true_values):
        difference = imagined_values.astype(np.float32) - true_values.astype(np.float32)
        return np.square(difference).reshape(len(difference), -1).mean(1)

    return {
        "pixels": ratio_interval(
            error(with_shuffled_actions.frames, windows.future), error(imagined.frames, windows.future)
        ),
        "latents": ratio_interval(
            error(with_shuffled_actions.latents, reconstructed.latents), error(imagined.latents, reconstructed.latents)
        ),
    }
