"""What a checkpoint was begun with, noted beside it, so that nobody goes on with other data or another model."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

SAMPLE = 64 * 1024  # bytes


def claim(folder: Path, stage: str, made_of: dict[str, Any]) -> None:
    """Note beside a stage's checkpoint what it is made of, or hold it against what it was begun with.

    Raises:
        ValueError: the checkpoint belongs to other data or another model.
    """
    note, checkpoint = folder / f"{stage}.json", folder / f"{stage}.safetensors"
    if checkpoint.exists() and note.exists():
        begun = json.loads(note.read_text())
        changed = [f"{key} was {begun.get(key)}, now {value}" for key, value in made_of.items()
                   if begun.get(key) != value]  # fmt: skip
        if changed:
            raise ValueError(
                f"{checkpoint} was begun with other settings: {'; '.join(changed)}. Go back to them, give another "
                f"folder (out=...), or delete the file to train the {stage} anew"
            )
    partial = note.with_name(note.name + ".partial")
    partial.write_text(json.dumps(made_of, indent=1))
    os.replace(partial, note)


def weights_fingerprint(path: Path) -> str:
    """Identifies the .safetensors of a folder (or one file) by their sizes and by 16 samples of each.

    Weights differ everywhere or nowhere, so that gigabytes need not be read.
    """
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for start in range(0, size, max(SAMPLE, size // 16)):
                opened.seek(start)
                digest.update(opened.read(SAMPLE))
    return digest.hexdigest()[:16]
