"""Training checkpoints: one safetensors file, replaced atomically; numbers and settings in its header."""

import json
import os
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict) -> None:
    """Write under a temporary name, then rename: a kill leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, partial, metadata={"meta": json.dumps(meta)})
    os.replace(partial, path)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """-> tensors by name, meta."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["meta"])  # noqa: SIM118


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries below a prefix, without it."""
    cut = len(prefix) + 1
    return {name[cut:]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


def read_meta(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["meta"])
