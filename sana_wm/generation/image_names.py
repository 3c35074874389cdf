"""Names of SANA's image members. Importing this does not import torch: the command looks here before it does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sana_wm.models.release import RELEASES as WORLDS

INDEX = "model_index.json"
_HUB = "Efficient-Large-Model/"
RELEASES = {
    "sana-600m-512": _HUB + "Sana_600M_512px_diffusers",
    "sana-600m": _HUB + "Sana_600M_1024px_diffusers",
    "sana-1600m-512": _HUB + "Sana_1600M_512px_diffusers",
    "sana-1600m": _HUB + "Sana_1600M_1024px_BF16_diffusers",
    "sana-1600m-2k": _HUB + "Sana_1600M_2Kpx_BF16_diffusers",
    "sana-1600m-4k": _HUB + "Sana_1600M_4Kpx_BF16_diffusers",
    "sana1.5-1600m": _HUB + "SANA1.5_1.6B_1024px_diffusers",
    "sana1.5-4800m": _HUB + "SANA1.5_4.8B_1024px_diffusers",
    "sana-sprint-600m": _HUB + "Sana_Sprint_0.6B_1024px_diffusers",
    "sana-sprint-1600m": _HUB + "Sana_Sprint_1.6B_1024px_diffusers",
}
PIPELINES = ("SanaPipeline", "SanaPAGPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline")
_WORLD = ("SanaWM", "SanaWm")  # how the pipelines of SANA-WM begin, which are the other job's
_VIDEO_NAMES = ("sana-video-", "longsana-", "sana-streaming-")
# Titles of the publisher's repositories, for where their index cannot be fetched.
_IMAGE_TITLE = re.compile(r"sana(1\.5|_sprint)?_[\d.]+[bm]_.*", re.IGNORECASE)
_VIDEO_TITLE = re.compile(r"(sana[-_](video|streaming)|longsana).*", re.IGNORECASE)


def makes_images(model: str) -> bool:
    """Whether a name, folder or hub repository is one of an image member; of a repository its index is fetched.

    Raises:
        ValueError: a member that nothing here generates with; an index that cannot be read.
    """
    if model in RELEASES or model in RELEASES.values():
        return True
    if model in WORLDS or model in WORLDS.values():
        return False
    if model.startswith(_VIDEO_NAMES):
        raise ValueError(_no_generator(model, "a video member"))
    kind = _pipeline_of(Path(model))
    if kind is None and not Path(model).exists() and model.count("/") == 1 and not model.startswith((".", "/", "~")):
        kind = _pipeline_of_repo(model)
    if kind in PIPELINES:
        return True
    if kind is not None and kind.startswith("Sana") and not kind.startswith(_WORLD):
        raise ValueError(_no_generator(model, f"a {kind}"))
    return False


def _no_generator(model: str, what: str) -> str:
    return (
        f"model={model} is {what}: there is no generator for it yet; SanaTransformer.from_pretrained reads its "
        f"transformer. Images are made with {', '.join(RELEASES)}, videos with {', '.join(WORLDS)}"
    )


def _pipeline_of_repo(repo: str) -> str | None:
    from huggingface_hub import hf_hub_download

    try:
        return _pipeline_of(Path(hf_hub_download(repo, INDEX)).parent)
    except ValueError:
        raise
    except Exception:  # without a network, or a repository without an index: by its title
        title = repo.split("/")[1]
        videos, images = _VIDEO_TITLE.fullmatch(title), _IMAGE_TITLE.fullmatch(title)
        return "SanaVideoPipeline" if videos else PIPELINES[0] if images else None


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
