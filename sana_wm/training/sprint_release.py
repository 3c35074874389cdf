"""A distilled student as a folder that ``python -m sana_wm.generate`` and diffusers' SanaSprintPipeline read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sana_wm.models.transformer import SanaTransformer

SETTINGS = "sprint.json"  # what it was distilled with; diffusers passes over it
FROM_TEACHER = ("vae", "text_encoder", "tokenizer")
SCHEDULER = {
    "_class_name": "SCMScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "trigflow",
    "sigma_data": 0.5,
}
INDEX = {
    "_class_name": "SanaSprintPipeline",
    "scheduler": ["diffusers", "SCMScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "GemmaTokenizerFast"],
    "transformer": ["diffusers", "SanaTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderDC"],
}


def write_release(student: SanaTransformer, folder: Path, teacher: Path | None, settings: dict[str, Any]) -> Path:
    """Write the release, whole or not at all -> ``folder``.

    Args:
        teacher: the release whose text encoder and autoencoder go with it, as copies; None: it has none.
        settings: kept as sprint.json.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    student.save_pretrained(partial / "transformer", layout="diffusers")
    _write(partial / "scheduler" / "scheduler_config.json", SCHEDULER)
    parts = [] if teacher is None else [name for name in FROM_TEACHER if (teacher / name).is_dir()]
    for name in parts:
        shutil.copytree(teacher / name, partial / name)
    index = {} if teacher is None else _index_of(teacher)
    known = {name: index[name] for name in parts if isinstance(index.get(name), list)}
    absent = {name for name in FROM_TEACHER if name not in parts}
    _write(partial / "model_index.json", {name: v for name, v in (INDEX | known).items() if name not in absent})
    _write(partial / SETTINGS, settings)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _index_of(release: Path) -> dict[str, Any]:
    file = release / "model_index.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n")
