"""Latents of a whole dataset, encoded once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np


def load_latents(
    frames: np.ndarray,
    encode: Callable[[np.ndarray], np.ndarray],
    fingerprint: str,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    batch: int = 256,
) -> np.ndarray:
    """Encode every frame into ``folder``, or open what is there for the same tokenizer.

    Args:
        frames: (N, H, W, 3) uint8.
        encode: uint8 (B, H, W, 3) -> float (B, C, h, w).
        fingerprint: identifies the frames and the tokenizer's weights; another one encodes anew.
        progress: called with (frames done, frames in all).
    Returns:
        (N, C, h, w) float16, a read-only memory map.
    """
    recipe = {"fingerprint": fingerprint, "frames": len(frames)}
    if not (folder.is_dir() and json.loads((folder / "recipe.json").read_text()) == recipe):
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        latents = None
        for row in range(0, len(frames), batch):
            part = encode(frames[row : row + batch])
            if latents is None:
                shape = (len(frames), *part.shape[1:])
                latents = np.lib.format.open_memmap(partial / "latents.npy", mode="w+", dtype=np.float16, shape=shape)
            latents[row : row + len(part)] = part
            if progress:
                progress(min(row + batch, len(frames)), len(frames))
        latents.flush()
        (partial / "recipe.json").write_text(json.dumps(recipe))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    return np.load(folder / "latents.npy", mmap_mode="r")
