"""Latents of a whole dataset, encoded once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LATENTS = "latents.npy"
NOTE_EVERY = 50  # batches that an interruption may lose


def load_latents(
    frames: np.ndarray,
    encode: Callable[[np.ndarray], np.ndarray],
    fingerprint: str,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    batch: int = 256,
) -> np.ndarray:
    """Encode every frame into ``folder``, or open what is there for the same tokenizer.

    An interrupted call is gone on with by the next.

    Args:
        frames: (N, H, W, 3) uint8.
        encode: uint8 (B, H, W, 3) -> float (B, C, h, w).
        fingerprint: identifies the frames and the tokenizer's weights; another one encodes anew.
        progress: called with (frames done, frames in all).
    Returns:
        (N, C, h, w) float16, a read-only memory map.
    """
    recipe = {"fingerprint": fingerprint, "frames": len(frames)}
    if _note(folder) != recipe:
        partial = folder.with_name(folder.name + ".partial")
        begun = _note(partial)
        row = begun.pop("done", 0)
        if begun != recipe:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            row = 0
        latents = np.load(partial / LATENTS, mmap_mode="r+") if row else None
        while row < len(frames):
            part = encode(frames[row : row + batch])
            if latents is None:
                shape = (len(frames), *part.shape[1:])
                latents = np.lib.format.open_memmap(partial / LATENTS, mode="w+", dtype=np.float16, shape=shape)
            latents[row : row + len(part)] = part
            row += len(part)
            if row // batch % NOTE_EVERY == 0:
                latents.flush()
                _write_note(partial, recipe | {"done": row})
            if progress:
                progress(row, len(frames))
        latents.flush()
        _write_note(partial, recipe)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    return np.load(folder / LATENTS, mmap_mode="r")


def _note(folder: Path) -> dict[str, Any]:
    """What a folder says it holds; nothing where it is not there or was cut off before it could say."""
    path = folder / "recipe.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _write_note(folder: Path, recipe: dict[str, Any]) -> None:
    partial = folder / "recipe.json.partial"
    partial.write_text(json.dumps(recipe))
    os.replace(partial, folder / "recipe.json")
