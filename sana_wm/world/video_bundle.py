"""The folder of a video world: a SANA-WM release with ``sana_wm.json``; written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from sana_wm.models.prompt_encoder import PromptEncoder
from sana_wm.models.release import SETTINGS, locate_release
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.video_vae import VideoVAE
from sana_wm.world.bundle import load_starts
from sana_wm.world.codecs import camera_codec, codec_from_dict
from sana_wm.world.prompts import read_prompts, write_prompts
from sana_wm.world.video_config import VideoWorldConfig

if TYPE_CHECKING:
    from sana_wm.world.video_world import VideoWorld

STREAMING = "sana-wm-streaming"  # the preset of releases that do not say how they were trained


def load_parts(
    name_dir_or_repo: str | os.PathLike,
    device: Any,
    dtype: torch.dtype | str,
    actions: str | None,
    preset: str | None,
    resolution: tuple[int, int] | None,
    components: dict[str, str | os.PathLike | None],
) -> dict[str, Any]:
    """The arguments of :class:`VideoWorld`, read from a release; see :meth:`VideoWorld.from_pretrained`."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device or "cpu")
    dtype = (torch.bfloat16 if device.type == "cuda" else torch.float32) if dtype == "auto" else dtype
    release = locate_release(name_dir_or_repo, **components)
    settings = dict(release.settings)
    codec = settings.pop("codec", None)
    if codec is not None and actions is not None:
        raise ValueError(f"actions={actions!r}: this world has its own actions; leave actions out")
    given = {"preset": preset, "resolution": resolution}
    settings |= {name: value for name, value in given.items() if value is not None}
    try:
        config = VideoWorldConfig.from_dict(settings)
        codec = camera_codec(actions or "delta") if codec is None else codec_from_dict(codec)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{release.root / SETTINGS}: {error}") from error
    vae = VideoVAE.from_pretrained(release.vae, dtype).to(device)
    preset = config.preset
    if preset is None and "format" not in settings:
        preset = STREAMING
        warnings.warn(
            f"{release.root} does not say how its weights were trained; they run as {preset!r}. Weights that were "
            f'not trained to stream, such as the bidirectional ones, drift: {SETTINGS} with {{"preset": ...}} says '
            "which they are",
            stacklevel=3,
        )
    transformer = SanaTransformer.from_pretrained(
        release.transformer, preset=preset, dtype=dtype, grid=vae.grid(config.resolution)
    ).to(device)
    card = release.root / "card.md"
    return {
        "config": config,
        "transformer": transformer,
        "vae": vae,
        "codec": codec,
        "prompt_encoder": release,
        "prompts": read_prompts(release.root),
        "starts": load_starts(release.root) if (release.root / "starts.safetensors").is_file() else None,
        "card": card.read_text() if card.is_file() else "",
    }


def save_video_world(world: VideoWorld, folder: Path) -> None:
    """Write beside the target and swap it in; see :meth:`VideoWorld.save_pretrained`."""
    folder = folder.absolute()
    if folder.exists() and not (folder / SETTINGS).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not a video world and not empty: saving would delete it; choose a new folder")
    partial, old = (folder.with_name(folder.name + suffix) for suffix in (".partial", ".old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    world.transformer.save_pretrained(partial / "transformer")
    world.vae.save_pretrained(partial / "vae")
    if isinstance(world.prompt_encoder, PromptEncoder):
        world.prompt_encoder.model.save_pretrained(partial / "text_encoder", safe_serialization=True)
        world.prompt_encoder.tokenizer.save_pretrained(partial / "tokenizer")
    write_prompts(partial, world.prompts)
    if len(world.starts):
        arrays = {"frames": world.starts.frames, "actions": world.starts.actions}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        save_file(tensors, partial / "starts.safetensors")
    settings = world.config.to_dict() | {"codec": world.codec.to_dict()}
    (partial / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")
    (partial / "card.md").write_text(world.card)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
