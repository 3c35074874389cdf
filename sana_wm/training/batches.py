"""Deterministic batches: every draw is a pure function of (seed, step)."""

import numpy as np
import torch
from torch import Tensor


def batch_rng(seed: int, step: int) -> np.random.Generator:
    return np.random.default_rng([seed, step])


def noise_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    mixed = int(np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0]) & (2**63 - 1)
    return torch.Generator(device).manual_seed(mixed)


def window_starts(episode_starts: np.ndarray, episodes: range, length: int) -> np.ndarray:
    """Every row at which a window of ``length`` frames fits inside one of ``episodes``.

    Raises:
        ValueError: no episode is long enough.
    """
    rows = [
        np.arange(episode_starts[e], episode_starts[e + 1] - length + 1)
        for e in episodes
        if episode_starts[e + 1] - episode_starts[e] >= length
    ]
    if not rows:
        longest = max(int(episode_starts[e + 1] - episode_starts[e]) for e in episodes)
        raise ValueError(f"no episode has {length} frames (the longest has {longest}): choose a shorter window")
    return np.concatenate(rows)


def take_frames(frames: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    """uint8 frames at ``rows`` (any shape), from a memory map."""
    order = np.argsort(rows, axis=None)
    flat = np.empty((rows.size, *frames.shape[1:]), frames.dtype)
    flat[order] = frames[rows.reshape(-1)[order]]
    return torch.from_numpy(flat.reshape(*rows.shape, *frames.shape[1:])).to(device)
