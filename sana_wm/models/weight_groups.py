"""Files of weights read block by block, so that memory holds one block of a file at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

_BLOCK = re.compile(r"(?:^|\.)(?:transformer_)?(?:blocks|layers)\.(\d+)\.")
# What safetensors calls the types that weights come in.
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip


def block_of(name: str) -> int:
    """Number of the block that a tensor belongs to, under any publisher's name; -1 outside of blocks."""
    found = _BLOCK.search(name)
    return int(found[1]) if found else -1


def by_block(names: Iterable[str]) -> dict[int, list[str]]:
    """Names by the block they belong to, blocks in order, what is outside of them (-1) first."""
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(block_of(name), []).append(name)
    return dict(sorted(groups.items()))


class WeightFiles:
    """The tensors of one or several .safetensors files.

    Attributes:
        shapes: name -> a tensor on the meta device, of the tensor's shape and dtype.
    """

    def __init__(self, files: list[Path]):
        self._file_of: dict[str, Path] = {}
        self.shapes: dict[str, Tensor] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    told = opened.get_slice(name)
                    kind = _TYPES.get(told.get_dtype())
                    if kind is None:
                        raise ValueError(f"{file}: {name} has type {told.get_dtype()}, expected one of {list(_TYPES)}")
                    self.shapes[name] = torch.empty(told.get_shape(), dtype=kind, device="meta")
                    self._file_of[name] = file

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """These tensors on the CPU. They share the mapping of the file, which goes when the last of them does."""
        wanted: dict[Path, list[str]] = {}
        for name in names:
            wanted.setdefault(self._file_of[name], []).append(name)
        tensors = {}
        for file, inside in wanted.items():
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in inside}
        return tensors
