"""Where SANA's image members lie, and loading them (diffusers' folders; safetensors only)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from sana_wm.generation.aspect import base_of_grid
from sana_wm.generation.image_names import RELEASES
from sana_wm.generation.image_sampling import SAMPLING, Sampling
from sana_wm.models.prompt_encoder import PromptEncoder
from sana_wm.models.text_encoder import PromptCache, released_instruction

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


def locate_image_release(model: str) -> Path:
    """The folder of a release: one that is there, or that of the hub's cache after fetching it.

    Raises:
        ValueError: neither, or a folder that lacks parts.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = _fetched(model)
    if lost := [part for part in PARTS if not (folder / part).is_dir()]:
        raise ValueError(
            f"{folder} lacks {', '.join(f'{part}/' for part in lost)} of an image release; expected the folders "
            f"{', '.join(PARTS)} as diffusers saves them"
        )
    return folder


def _fetched(model: str) -> Path:
    repo = RELEASES.get(model, model)
    if repo.count("/") != 1 or repo.startswith((".", "/")):
        raise ValueError(f"{model!r} is neither a folder nor a hub repository; known names: {', '.join(RELEASES)}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.ckpt", "*.fp16.*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{model!r} is not a folder here and {repo} could not be fetched from the hub ({reason}). Where there is a "
            f"network, `hf download {repo} --local-dir <folder>` fetches it; then give model=<folder>"
        ) from error


def sampling_of(model: str, folder: Path) -> Sampling:
    """How a release is sampled: by its name, else by its scheduler's file and size.

    Raises:
        ValueError: a scheduler that is neither SCM nor one of flow matching.
    """
    if model in SAMPLING:
        return SAMPLING[model]
    file = folder / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(file.read_text()) if file.is_file() else {}
    if scheduler.get("_class_name") == "SCMScheduler":
        return Sampling("scm", steps=2)
    shift = scheduler.get("flow_shift", scheduler.get("shift"))
    if shift is None:
        raise ValueError(f"{file}: expected the SCMScheduler, or a scheduler with flow_shift (or shift)")
    return replace(Sampling(), shift=float(shift))


def base_of(folder: Path) -> int:
    """Side in pixels that a release was trained at, from its transformer's ``sample_size``."""
    config = json.loads((folder / "transformer" / "config.json").read_text())
    return base_of_grid(int(config.get("sample_size", 32)))


def load_text_encoder(
    folder: Path,
    sampling: Sampling,
    dtype: torch.dtype,
    instruction: str | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> PromptEncoder | PromptCache:
    """The encoder of a release on ``device``, behind a cache on disk if ``cache`` is given.

    Args:
        instruction: what stands before prompts; None: what diffusers has for the member.
    """
    if instruction is None:
        instruction = released_instruction("sprint" if sampling.sampler == "scm" else "image")
    parts = folder / "text_encoder", folder / "tokenizer"
    if cache is not None:
        return PromptCache.from_pretrained(cache, *parts, dtype, prefix=instruction, device=device)
    return PromptEncoder.from_pretrained(*parts, dtype, prefix=instruction).to(device)
