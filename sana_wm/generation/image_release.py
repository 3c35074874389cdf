"""Where SANA's image members lie, and loading them (diffusers' folders; safetensors only)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from sana_wm.generation.image_names import RELEASES
from sana_wm.generation.image_sampling import SAMPLING, Sampling
from sana_wm.generation.memory_formulas import gemma2_2b
from sana_wm.generation.memory_plan import Networks
from sana_wm.models.dc_ae_config import DCAEConfig, dcae_preset
from sana_wm.models.dc_ae_pretrained import config_from
from sana_wm.models.hub import check_repo, fetch
from sana_wm.models.presets import preset
from sana_wm.models.pretrained import read_config
from sana_wm.models.prompt_cache import PromptCache
from sana_wm.models.prompt_encoder import PromptEncoder, instruction
from sana_wm.models.weight_files import weight_files
from sana_wm.models.weight_groups import WeightFiles

TRAINED_HERE = "_sana_wm"  # in a scheduler_config.json: its shift is that of the training. diffusers passes over it
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


def locate_image_release(model: str) -> Path:
    """The folder of a release: one that is there, or that of the hub's cache after fetching it.

    Raises:
        ValueError: neither, or a folder that lacks parts.
    """
    return locate_parts(model, RELEASES, "an image release")


def locate_parts(model: str, releases: Mapping[str, str], what: str) -> Path:
    """A folder, or the repository of a name or of itself, with the parts that diffusers saves of a pipeline.

    Raises:
        ValueError: neither, or one that lacks parts of ``what``.
    """
    folder, repo = Path(model), releases.get(model, model)
    if not folder.is_dir():
        check_repo(model, repo, releases)
        folder = fetch(model, repo)
    if lost := [part for part in PARTS if not (folder / part).is_dir()]:
        raise ValueError(
            f"{folder} lacks {', '.join(f'{part}/' for part in lost)} of {what}; expected the folders "
            f"{', '.join(PARTS)} as diffusers saves them"
        )
    return folder


def named_sampling(model: str) -> Sampling | None:
    """How a release is sampled, where the name, the hub repository or the folder's name says which it is.

    A clone of a repository has the repository's name, and the hub's cache has it in the folder's path.
    """
    if model in SAMPLING:
        return SAMPLING[model]
    parts = Path(model).absolute().parts
    for name, repo in RELEASES.items():
        owner, title = repo.split("/")
        if model == repo or parts[-1:] == (title,) or f"models--{owner}--{title}" in parts:
            return SAMPLING[name]
    return None


def sampling_of(model: str, folder: Path) -> Sampling:
    """How a release is sampled: by its name, else by its scheduler's file and the transformer's config.json.

    Raises:
        ValueError: a scheduler that is neither SCM nor one of flow matching.
    """
    if (named := named_sampling(model)) is not None:
        return named
    file = folder / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(file.read_text()) if file.is_file() else {}
    if scheduler.get("_class_name") == "SCMScheduler":
        return Sampling("scm", steps=2)
    shift = scheduler.get("flow_shift", scheduler.get("shift"))
    if shift is None:
        raise ValueError(f"{file}: expected the SCMScheduler, or a scheduler with flow_shift (or shift)")
    file = folder / "transformer" / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    side, depth, norms = (config.get(name) for name in ("sample_size", "num_layers", "qk_norm"))
    own = replace(Sampling(), shift=float(shift))
    if side == 128:
        own = SAMPLING["sana-1600m-4k"]
    elif side == 32 and depth == 28 and norms is None:
        own = SAMPLING["sana-600m"]
    # the files of published releases name a shift that those two were not trained at; ours name the right one
    return replace(own, shift=float(shift)) if TRAINED_HERE in scheduler else own


def base_of(folder: Path) -> int:
    """Side in pixels that a release was trained at, from its transformer's ``sample_size``."""
    config = json.loads((folder / "transformer" / "config.json").read_text())
    return int(config.get("sample_size") or 32) * compression_of(folder / "vae")


def compression_of(vae: Path) -> int:
    """Side in pixels of a latent cell of the autoencoder in a folder; 32 of the published ones.

    Raises:
        ValueError: a folder without its config.json.
    """
    file = vae / "config.json"
    if not file.is_file():
        raise ValueError(f"{vae}: expected the config.json and .safetensors of a DC-AE")
    config = json.loads(file.read_text())
    stages = config.get("encoder_block_out_channels") or config.get("widths") or DCAEConfig().widths
    return 2 ** (len(stages) - 1)


def instruction_of(sampling: Sampling) -> str:
    """What stands before the prompts of a member, as diffusers has it."""
    return instruction("sprint" if sampling.sampler == "scm" else "image")


def networks_of(folder: Path) -> Networks:
    """What a release is made of, from its configurations and the headers of its files: no tensor is read.

    Raises:
        ValueError: parts whose configuration cannot be told.
    """
    config, saved_as = read_config(folder / "transformer")
    file = folder / "vae" / "config.json"
    autoencoder = config_from(json.loads(file.read_text()) if file.is_file() else None, folder / "vae")
    return Networks(config, text_shapes(folder), autoencoder or dcae_preset("f32c32-sana-1.1"), saved_as)


def published_networks(name: str) -> Networks:
    """What the published release of a member of :data:`SAMPLING` is made of, told without a file of it."""
    return Networks(preset(name), gemma2_2b(), dcae_preset("f32c32-sana-1.1"))


def text_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a release's text encoder, from the headers of its files: no tensor is read."""
    held = WeightFiles(weight_files(folder / "text_encoder")).shapes
    return {name: tuple(tensor.shape) for name, tensor in held.items() if not name.startswith("lm_head.")}


def load_text_encoder(
    folder: Path,
    prefix: str,
    dtype: torch.dtype,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    quantise: str | None = None,
) -> PromptEncoder | PromptCache:
    """The encoder of a release on ``device``, behind a cache on disk if ``cache`` is given.

    Args:
        prefix: what stands before prompts, such as :func:`instruction_of`. quantise: "int8", "int4", or None.
    """
    parts = folder / "text_encoder", folder / "tokenizer"
    how = {"prefix": prefix, "quantise": quantise}
    if cache is not None:
        return PromptCache.from_pretrained(cache, *parts, dtype, device=device, **how)
    return PromptEncoder.from_pretrained(*parts, dtype, **how).to(device)
