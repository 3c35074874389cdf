"""Where SANA's video members lie and how they are sampled (diffusers' folders; safetensors only)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from sana_wm.generation.aspect import video_base_of_grid
from sana_wm.generation.clip_names import RELEASES, preset_of
from sana_wm.generation.clip_sampling import SAMPLING, ClipSampling
from sana_wm.generation.image_release import locate_parts, text_shapes
from sana_wm.generation.memory_formulas import VideoCoder, gemma2_2b
from sana_wm.generation.memory_plan import Networks
from sana_wm.models.family import CAUSAL_PRESET, CAUSAL_VIDEO
from sana_wm.models.presets import preset
from sana_wm.models.pretrained import FORMAT
from sana_wm.models.sana_config import SanaConfig
from sana_wm.models.video_vae import VideoVAE
from sana_wm.models.wan_vae import CLASSES, WanVAE, vae_class


def locate_clip_release(model: str) -> Path:
    """The folder of a release: one that is there, or that of the hub's cache after fetching it.

    Raises:
        ValueError: neither, or a folder that lacks parts.
    """
    return locate_parts(model, RELEASES, "a video release")


def named_preset(model: str) -> str | None:
    """Which member it is, where the name, the hub repository or the folder's name says so; else None.

    A clone of a repository has the repository's name, and the hub's cache has it in the folder's path.
    """
    if (known := preset_of(model)) is not None:
        return known
    parts = Path(model).absolute().parts
    for repo in RELEASES.values():
        if parts[-1:] == (repo.split("/")[1],) or f"models--{repo.replace('/', '--')}" in parts:
            return preset_of(repo)
    return None


def known_preset(model: str, transformer: Path | None = None, preset: str | None = None) -> str | None:
    """Which member it is by what was said: ``preset``, or the model's name, unless other weights say what they are."""
    says_itself = transformer is not None and config_of(transformer)
    return preset or (None if says_itself else named_preset(model))


def released_sampling(model: str, folder: Path, transformer: Path | None, preset: str | None) -> ClipSampling:
    """How a release is sampled: by :func:`known_preset`, else by the transformer's and scheduler's files.

    Args:
        transformer: weights in place of the release's.

    Raises:
        ValueError: no scheduler of flow matching, where it is asked.
    """
    if (named := known_preset(model, transformer, preset)) is not None:
        return SAMPLING[named]
    config = config_of(transformer or folder / "transformer")
    causal = config.get("format") == FORMAT and config.get("temporal") == "chunk_causal"
    if causal or config.get("_class_name") == CAUSAL_VIDEO:
        return SAMPLING[CAUSAL_PRESET]
    file = folder / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(file.read_text()) if file.is_file() else {}
    shift = scheduler.get("flow_shift", scheduler.get("shift"))
    if shift is None:
        raise ValueError(f"{file}: expected a scheduler with flow_shift (or shift); or say preset={'|'.join(SAMPLING)}")
    return replace(SAMPLING["sana-video-2b-480p"], shift=float(shift))


def networks_of(folder: Path, transformer: SanaConfig, saved_as: str | None) -> Networks:
    """What a release is made of, from its configurations and the headers of its files: no tensor is read."""
    return Networks(transformer, text_shapes(folder), video_coder(folder / "vae"), saved_as)


def published_networks(name: str) -> Networks:
    """What the published release of a member of :data:`SAMPLING` is made of, told without a file of it.

    Raises:
        ImportError: no diffusers.
    """
    config = preset(name)
    network = "AutoencoderKLWan" if config.in_channels == 16 else "AutoencoderKLLTX2Video"
    return Networks(config, gemma2_2b(), coder_of(published_vae(network)))


def published_vae(network: str) -> VideoVAE:
    """An autoencoder of the published sizes on the meta device: Wan 2.1's, or LTX-2's that sees the future."""
    ltx = {"decoder_causal": False, "spatial_compression_ratio": 32, "temporal_compression_ratio": 8}
    return CLASSES[network].blank({} if network == "AutoencoderKLWan" else ltx)


def video_coder(vae: Path) -> VideoCoder:
    """The autoencoder of a folder, as far as memory goes, from its config.json alone.

    Raises:
        ValueError: as :func:`~sana_wm.models.wan_vae.vae_class`. ImportError: no diffusers.
    """
    return coder_of(vae_class(vae).blank(json.loads((vae / "config.json").read_text())))


def coder_of(vae: VideoVAE) -> VideoCoder:
    """An autoencoder (which may be on the meta device) as far as memory goes."""
    values, c = sum(tensor.numel() for tensor in vae.vae.state_dict().values()), vae.vae.config
    if wan := isinstance(vae, WanVAE):
        features = (c.decoder_base_dim or c.base_dim) * c.dim_mult[0] / (c.patch_size or 1) ** 2
    else:
        features = c.decoder_block_out_channels[0] / c.upsample_factor[0] / c.patch_size**2
    tile, dtype = vae.vae.tile_sample_min_height, torch.float32 if wan else None
    return VideoCoder(values, dtype, vae.compression, vae.stride, features, vae.streams, wan, tile)


def config_of(transformer: Path) -> dict:
    """The config.json of a transformer's folder; {} without one, and of a single file of weights."""
    file = transformer / "config.json"
    try:
        return json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error


def base_of(config: dict, latent_channels: int) -> int | None:
    """480 or 720 by the transformer's ``sample_size``, or by the latents where there is none; None: any size goes."""
    side = config.get("sample_size")
    return (480 if latent_channels == 16 else 720) if side is None else video_base_of_grid(int(side))


def patch_of(config: dict, latent_channels: int) -> int:
    """Side of a token in latent cells; where nothing says it, by the latents: Wan's are read in patches."""
    patch = config.get("patch_size", 2 if latent_channels == 16 else 1)
    return int(patch[1] if isinstance(patch, list) else patch)
