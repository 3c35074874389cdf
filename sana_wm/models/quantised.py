"""Weights in 8 or 4 bits, read in the network's own precision (weight-only quantisation; sana_family spec 14).

torchao chooses the scales and rounds; the layers here keep what it made as plain buffers, so that they are saved as
safetensors and moved between devices like any other. Its own tensors for 4 bits are not used: of those of 0.18 one runs
on a CPU (in float32 some 150 times slower than a dense matrix at the thousands of tokens of an image), others on one
kind of GPU each, and the portable one takes a byte for every weight.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("int8", "int4")
GROUP = 32  # weights of a row that share a scale in int4; it divides every width of the published networks
SLICE = 2**20  # weights that are in full precision at a time, while a layer is quantised or computes
# Layers outside of blocks hold 3% of a transformer and stay as they are: patches, time, text and the last layer.
INSIDE = re.compile(r"(?:^|\.)(?:blocks|layers)\.\d+\.")


def check_kind(kind: str | None, setting: str = "quantise") -> None:
    """Raise ValueError unless ``kind`` is one of :data:`KINDS` or None."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"{setting}={kind}: expected one of none, {', '.join(KINDS)}")


def torchao_primitives():
    """torchao's functions that choose scales and round.

    Raises:
        ImportError: without torchao.
    """
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:  # importing it tells of kernels for GPUs that it does not find
        logger.setLevel(logging.ERROR)
    try:
        from torchao.quantization import quant_primitives
    except ImportError as error:
        raise ImportError("quantised weights are made by torchao: pip install 'sana-wm[quant]'") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return quant_primitives


def padded(features: int) -> int:
    """Features of a row that fills its last group."""
    return -(-features // GROUP) * GROUP


def row_slices(rows: int, columns: int) -> Iterator[slice]:
    """Runs of rows of a matrix that hold :data:`SLICE` elements at most, or one row."""
    step = max(1, SLICE // max(columns, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def round_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(R, C) -> int8 (R, C) and float32 scales (R, 1), symmetric about zero."""
    ao, block = torchao_primitives(), (1, weight.shape[1])
    how = {"quant_min": -128, "quant_max": 127}
    scale, zero = ao.choose_qparams_affine(
        weight, ao.MappingType.SYMMETRIC, block, torch.int8, eps=torch.finfo(torch.float32).eps,
        scale_dtype=torch.float32, zero_point_dtype=torch.int8, keepdim=True, **how,
    )  # fmt: skip
    return ao.quantize_affine(weight, block, scale, zero, torch.int8, **how), scale


def round_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(R, C) -> uint8 (R, padded C / 2), two weights a byte; scales bfloat16 and zero points uint8 (R, groups).

    A group that the row does not fill is filled with its last weight, which leaves the group's range as it is.
    """
    ao, block = torchao_primitives(), (1, GROUP)
    if (short := padded(weight.shape[1]) - weight.shape[1]) > 0:
        weight = torch.cat([weight, weight[:, -1:].expand(-1, short)], dim=1)
    how = {"quant_min": 0, "quant_max": 15}
    scale, zero = ao.choose_qparams_affine(
        weight, ao.MappingType.ASYMMETRIC, block, torch.uint8, eps=torch.finfo(torch.float32).eps,
        scale_dtype=torch.bfloat16, zero_point_dtype=torch.uint8, **how,
    )  # fmt: skip
    scale, zero = (part.reshape(len(weight), -1) for part in (scale, zero))
    rounded = ao.quantize_affine(weight, block, scale.float(), zero, torch.uint8, **how)
    return rounded[:, 0::2] | (rounded[:, 1::2] << 4), scale, zero


class QuantisedLinear(nn.Module):
    """A linear map whose weights are int8 with a scale a row, or int4 with a scale and a zero point a group.

    It computes in the dtype of its input, or that of autocast; :data:`SLICE` weights at a time are in that dtype.
    For inference: its weights take no gradient, its input does.

    Args:
        linear: where the sizes, the device and the bias come from. Its weights are taken over by :meth:`fill`.
    """

    def __init__(self, linear: nn.Linear, kind: str):
        super().__init__()
        check_kind(kind)
        self.kind, self.in_features, self.out_features = kind, linear.in_features, linear.out_features
        device, rows, groups = linear.weight.device, self.out_features, padded(self.in_features) // GROUP
        shapes = {"packed": ((rows, self.in_features), torch.int8), "scale": ((rows, 1), torch.float32)}
        if kind == "int4":
            shapes = {
                "packed": ((rows, groups * GROUP // 2), torch.uint8),
                "scale": ((rows, groups), torch.bfloat16),
                "zero": ((rows, groups), torch.uint8),
            }
        for name, (shape, dtype) in shapes.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device=device))
        self.bias = linear.bias

    def fill(self, weight: Tensor) -> None:
        """Take over ``weight`` (out_features, in_features), rounded."""
        if tuple(weight.shape) != (self.out_features, self.in_features):
            raise ValueError(f"weight {tuple(weight.shape)}, expected {(self.out_features, self.in_features)}")
        names = ("packed", "scale") if self.kind == "int8" else ("packed", "scale", "zero")
        for name in names:
            setattr(self, name, torch.empty_like(getattr(self, name), device=weight.device))
        for rows in row_slices(*weight.shape):
            part = weight[rows].detach().float()
            made = round_int8(part) if self.kind == "int8" else round_int4(part)
            for name, tensor in zip(names, made, strict=True):
                getattr(self, name)[rows] = tensor

    def _rows(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Weights of these rows, (R, in_features)."""
        if self.kind == "int8":  # the scale before the product: sums of whole numbers leave the range of float16
            return self.packed[rows].to(dtype).mul_(self.scale[rows].to(dtype))
        packed = self.packed[rows]
        pairs = torch.stack([packed & 15, packed >> 4], dim=-1)
        groups = pairs.view(len(packed), -1, GROUP).to(dtype)
        scale, zero = (part[rows].to(dtype)[..., None] for part in (self.scale, self.zero))
        return groups.sub_(zero).mul_(scale).view(len(packed), -1)[:, : self.in_features]

    @property
    def weight(self) -> Tensor:
        """The weights in full, in the dtype of the bias (float32 without one): as large as before."""
        whole = slice(0, self.out_features)
        weight = self._rows(whole, torch.float32)
        return weight if self.bias is None else weight.to(self.bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        x = x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
        out = x.new_empty(*x.shape[:-1], self.out_features)
        for rows in row_slices(self.out_features, self.in_features):
            out[..., rows] = F.linear(x, self._rows(rows, x.dtype))
        return out if self.bias is None else out.add_(self.bias.to(out.dtype))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}, bias={self.bias is not None}"


class QuantisedEmbedding(nn.Module):
    """A table of int8 rows with a scale each; the rows that are asked for are in ``dtype``.

    Args:
        table: where the sizes, the device, the dtype and the factor of transformers' scaled embeddings come from.
    """

    kind = "int8"

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.dtype, self.factor = table.weight.dtype, getattr(table, "scalar_embed_scale", None)
        rows, width = table.weight.shape
        device = table.weight.device
        self.register_buffer("packed", torch.empty(rows, width, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.empty(rows, 1, dtype=torch.float32, device=device))

    def fill(self, weight: Tensor) -> None:
        """Take over the table ``weight``, rounded."""
        if weight.shape != self.packed.shape:
            raise ValueError(f"table {tuple(weight.shape)}, expected {tuple(self.packed.shape)}")
        self.packed, self.scale = (torch.empty_like(t, device=weight.device) for t in (self.packed, self.scale))
        for rows in row_slices(*weight.shape):
            self.packed[rows], self.scale[rows] = round_int8(weight[rows].detach().float())

    @property
    def weight(self) -> Tensor:
        """The table in full: as large as before."""
        return (self.packed * self.scale).to(self.dtype)

    def forward(self, index: Tensor) -> Tensor:
        rows = (F.embedding(index, self.packed) * F.embedding(index, self.scale)).to(self.dtype)
        return rows if self.factor is None else rows * torch.tensor(self.factor, dtype=self.dtype, device=rows.device)


LAYERS = (QuantisedLinear, QuantisedEmbedding)


def quantised_names(network: nn.Module, embeddings: bool = False) -> list[str]:
    """Names of the layers that :func:`prepare` replaces: linear maps inside blocks, and tables of ``embeddings``.

    Norms, tables of modulation, depthwise and temporal convolutions and what stands before and after the blocks are in
    none of them.
    """
    found = []
    for name, module in network.named_modules():
        linear = type(module) is nn.Linear and INSIDE.search(name)
        if linear or (embeddings and isinstance(module, nn.Embedding)):
            found.append(name)
    return found


def prepare(network: nn.Module, kind: str, embeddings: bool = False) -> nn.Module:
    """Replace layers by quantised ones that hold nothing yet (on the meta device: that take no memory)."""
    check_kind(kind)
    _replace(network, embeddings, lambda old: _empty(old, kind))
    return network


def quantise(network: nn.Module, kind: str, embeddings: bool = False) -> nn.Module:
    """Quantise the layers of :func:`quantised_names` of a network that is in memory, in place, one after the other.

    Args:
        kind: ``"int8"`` or ``"int4"``; tables of ``embeddings`` are int8 in both.

    Raises:
        ValueError: another kind. ImportError: without torchao.
    """
    check_kind(kind)

    def rounded(old: nn.Module) -> nn.Module:
        new = _empty(old, kind)
        new.fill(old.weight)
        return new

    _replace(network, embeddings, rounded)
    return network


def fill(network: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Put tensors in the place of a network's own, by name, those of full precision in ``dtype``.

    Where a layer is quantised and its ``weight`` is given, it is rounded. Other tensors are copied: one that shared its
    memory with a file would keep all of it, and would lie there where the file has it, at addresses from which some
    processors' matrix products round otherwise than from torch's own.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
    plain = {}
    for name, tensor in tensors.items():
        owner, _, last = name.rpartition(".")
        if owner in layers and last == "weight":
            layers[owner].fill(tensor)
        elif owner in layers and last != "bias":  # saved as it is
            plain[name] = tensor.clone()
        else:
            plain[name] = tensor.to(tensor.dtype if dtype is None else dtype, copy=True)
    _, unknown = network.load_state_dict(plain, strict=False, assign=True)
    if unknown:
        raise ValueError(f"no place for {', '.join(unknown)}")


def kind_of(network: nn.Module) -> str | None:
    """What a network's linear maps are quantised to; None: they are not."""
    return next((module.kind for module in network.modules() if isinstance(module, QuantisedLinear)), None)


def _empty(old: nn.Module, kind: str) -> nn.Module:
    return QuantisedEmbedding(old) if isinstance(old, nn.Embedding) else QuantisedLinear(old, kind)


def _replace(network: nn.Module, embeddings: bool, make: Callable[[nn.Module], nn.Module]) -> None:
    for name in quantised_names(network, embeddings):
        parent, _, last = name.rpartition(".")
        owner = network.get_submodule(parent)
        setattr(owner, last, make(getattr(owner, last)))


def quantised_bytes(rows: int, columns: int, kind: str) -> int:
    """Bytes of a matrix: int8 a byte a weight and 4 a row; int4 half a byte a weight and 3 a group."""
    if kind == "int8":
        return rows * (columns + 4)
    return rows * (padded(columns) // 2 + padded(columns) // GROUP * 3)
