"""Prompts whose features are known without a text encoder: ``prompts.json`` and ``prompts.safetensors`` of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Features = tuple[Tensor, Tensor]  # (L, C) and the mask (L,) bool


def read_prompts(folder: Path) -> dict[str, Features]:
    """Text -> features; {} for a folder without them."""
    path = folder / "prompts.json"
    if not path.is_file():
        return {}
    tensors, texts = load_file(folder / "prompts.safetensors"), json.loads(path.read_text())
    return {text: (tensors["features"][i], tensors["mask"][i].bool()) for i, text in enumerate(texts)}


def write_prompts(folder: Path, prompts: dict[str, Features]) -> None:
    """Inverse of :func:`read_prompts`; nothing is written for no prompts."""
    if prompts:
        features, masks = (torch.stack(parts).cpu() for parts in zip(*prompts.values(), strict=True))
        save_file({"features": features, "mask": masks.to(torch.uint8)}, folder / "prompts.safetensors")
        (folder / "prompts.json").write_text(json.dumps(list(prompts), indent=1))
