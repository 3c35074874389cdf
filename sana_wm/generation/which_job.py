"""Which of the three jobs a model is for: images, clips, or SANA-WM's worlds. Importing this does not import torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sana_wm.generation.clip_names import PIPELINES as CLIP_PIPELINES
from sana_wm.generation.clip_names import RELEASES as CLIPS
from sana_wm.generation.image_names import PIPELINES as IMAGE_PIPELINES
from sana_wm.generation.image_names import RELEASES as IMAGES
from sana_wm.models.release import RELEASES as WORLDS

INDEX = "model_index.json"
_WORLD = ("SanaWM", "SanaWm")  # how the pipelines of SANA-WM begin
_NO_JOB = "sana-streaming-"  # names of the family that edit videos
# Titles of the publisher's repositories, for where their index cannot be fetched.
_TITLES = {
    "image": re.compile(r"sana(1\.5|_sprint)?_[\d.]+[bm]_.*", re.IGNORECASE),
    "clip": re.compile(r"(sana[-_]video_2b|longsana).*", re.IGNORECASE),
    "none": re.compile(r"sana[-_](video|streaming).*", re.IGNORECASE),
}


def job_of(model: str) -> str:
    """``"image"``, ``"clip"`` or ``"generate"``: the configuration of a name, folder or hub repository.

    Of a repository that is not one of the known names the index is fetched.

    Raises:
        ValueError: a member that nothing here generates with; an index that cannot be read.
    """
    for job, known in (("image", IMAGES), ("clip", CLIPS), ("generate", WORLDS)):
        if model in known or model in known.values():
            return job
    if model.startswith(_NO_JOB):
        raise ValueError(_no_generator(model, "a member that edits videos"))
    kind = _pipeline_of(Path(model))
    if kind is None and not Path(model).exists() and model.count("/") == 1 and not model.startswith((".", "/", "~")):
        kind = _pipeline_of_repo(model)
    if kind in IMAGE_PIPELINES:
        return "image"
    if kind in CLIP_PIPELINES:
        return "clip"
    if kind is not None and kind.startswith("Sana") and not kind.startswith(_WORLD):
        raise ValueError(_no_generator(model, f"a {kind}"))
    return "generate"


def _no_generator(model: str, what: str) -> str:
    return (
        f"model={model} is {what}: there is no generator for it yet; SanaTransformer.from_pretrained reads its "
        f"transformer. Images are made with {', '.join(IMAGES)}; videos with {', '.join(CLIPS)}, and along a camera's "
        f"path with {', '.join(WORLDS)}"
    )


def _pipeline_of_repo(repo: str) -> str | None:
    from huggingface_hub import hf_hub_download

    try:
        return _pipeline_of(Path(hf_hub_download(repo, INDEX)).parent)
    except ValueError:
        raise
    except Exception:  # without a network, or a repository without an index: by its title
        title = repo.split("/")[1]
        job = next((job for job, titles in _TITLES.items() if titles.fullmatch(title)), None)
        names = {"image": IMAGE_PIPELINES[0], "clip": CLIP_PIPELINES[0], "none": "Sana pipeline of another member"}
        return names.get(job)


def _pipeline_of(folder: Path) -> str | None:
    """The class that a folder's index names; None: it has no index, or one without a class."""
    file = folder / INDEX
    if not file.is_file():
        return None
    try:
        told = json.loads(file.read_text())
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{file}: not JSON ({error}); expected the index of a diffusers pipeline") from error
    if not isinstance(told, dict):
        raise ValueError(f"{file}: holds a {type(told).__name__}, expected the index of a diffusers pipeline")
    kind = told.get("_class_name")
    return kind if isinstance(kind, str) else None
