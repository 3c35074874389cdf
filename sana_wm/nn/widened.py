"""Products of bfloat16 tensors on processors without instructions for them, taken in float32.

There (most laptops) torch multiplies bfloat16 in plain loops, 8 to 300 times slower than float32
(``python -m benchmarks.bfloat16_products``). Here the operands are widened a part at a time, the product is taken in
float32 and its result rounded once, which is what instructions for bfloat16 do too: weights and activations keep the
memory of bfloat16, and take about the time of float32.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

PART = 2**21  # elements of a matrix, or of a convolution's input, that are wide at a time
CONVOLUTIONS = frozenset({F.conv1d, F.conv2d, F.conv3d})
PRODUCTS = CONVOLUTIONS | {
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.__matmul__,
    Tensor.mm, Tensor.bmm, F.linear,
}  # fmt: skip


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 that torch uses; without them float32 is faster."""
    return torch.cpu._is_avx512_bf16_supported()


def products_of(module: nn.Module) -> contextlib.AbstractContextManager:
    """:class:`WideProducts` where the module is in bfloat16 on a processor without products in it, else nothing.

    Where gradients are recorded nothing either: what a backward pass computes again is computed outside of it.
    """
    parameter = next(module.parameters(), None)
    narrow = parameter is not None and _narrow(parameter) and not multiplies_bfloat16()
    plain = not narrow or torch.is_grad_enabled() or torch.compiler.is_compiling()
    return contextlib.nullcontext() if plain else WideProducts()


def widened(method: Callable) -> Callable:
    """For methods of modules that compute: within :func:`products_of` the module."""

    @functools.wraps(method)
    def run(self: nn.Module, *args, **kwargs):
        with products_of(self):
            return method(self, *args, **kwargs)

    return run


class WideProducts(TorchFunctionMode):
    """Within it, products of bfloat16 tensors on the CPU are taken in float32 and rounded once. Without gradients.

    Matrices that are wide at a time lie in the same memory from one product to the next: parts that come and go would
    leave holes in the heap.
    """

    def __init__(self):
        super().__init__()
        self._memory: dict[str, Tensor] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operands = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
        if func not in PRODUCTS or not operands or not all(map(_narrow, operands)) or torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        if func is F.linear:
            return self._linear(*args, **kwargs)
        batched = func in CONVOLUTIONS and operands[0].ndim == operands[1].ndim and len(operands[0])
        if batched and not any(isinstance(value, str) for value in (*args, *kwargs.values())):
            return self._convolution(func, *args, **kwargs)
        args, kwargs = map(_wide, args), {name: _wide(value) for name, value in kwargs.items()}
        return func(*args, **kwargs).to(torch.bfloat16)

    def _room(self, name: str, *shape: int) -> Tensor:
        """Float32 memory that the next call with the same name overwrites."""
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = torch.empty(max(size, PART), dtype=torch.float32)
        return self._memory[name][:size].view(shape)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """F.linear, by parts of rows and of output features."""
        rows, (features, width) = x.reshape(-1, x.shape[-1]), weight.shape
        out = x.new_empty(len(rows), features)
        at_once = min(features, max(1, PART // max(width, 1)))
        for some in _parts(len(rows), max(width, at_once)):
            part = self._room("rows", some.stop - some.start, width).copy_(rows[some])
            for of in _parts(features, width):
                wide = self._room("weights", of.stop - of.start, width).copy_(weight[of])
                product = self._room("product", len(part), len(wide))
                torch.mm(part, wide.T, out=product)
                out[some, of] = product if bias is None else product.add_(bias[of])
        return out.view(*x.shape[:-1], features)

    def _convolution(
        self, func: Callable, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1,
        groups: int = 1,
    ) -> Tensor:  # fmt: skip
        """A convolution by parts of the batch and of these by channels, where it leaves them apart, or by rows.

        The memory format stays that of ``x``.
        """
        taps = [
            _Taps(*of)
            for of in zip(
                x.shape[2:], weight.shape[2:], *(_each(v, x.ndim - 2) for v in (stride, padding, dilation)), strict=True
            )
        ]
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        form = torch.channels_last if last else torch.contiguous_format
        out = torch.empty(len(x), len(weight), *(of.outputs for of in taps), dtype=x.dtype, memory_format=form)
        lanes = _parts(len(x), x[:1].numel())
        if groups == x.shape[1] == len(weight):
            for some, of in itertools.product(lanes, _parts(groups, x[:1, :1].numel())):
                shifts = None if bias is None else bias[of].float()
                out[some, of] = func(
                    x[some, of].float(), weight[of].float(), shifts, stride, padding, dilation, of.stop - of.start
                )
            return out
        weight, bias = weight.float(), None if bias is None else bias.float()
        axis, rows = max(x.ndim - 4, 0), taps[max(x.ndim - 4, 0)]  # of a clip too these are the rows of its frames
        beside = [0 if i == axis else of.padding for i, of in enumerate(taps)]
        of_a_row = max(x[:1].numel(), out[:1].numel()) // max(rows.outputs, 1)
        for some, of in itertools.product(lanes, _parts(rows.outputs, of_a_row)):
            part = rows.inputs(x[some], axis + 2, of)
            out[some].narrow(axis + 2, of.start, of.stop - of.start).copy_(
                func(part, weight, bias, stride, beside, dilation, groups)
            )
        return out


class _Taps(NamedTuple):
    """A convolution along one axis."""

    length: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def outputs(self) -> int:
        return (self.length + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def inputs(self, x: Tensor, axis: int, of: slice) -> Tensor:
        """What the outputs ``of`` an axis read of x, padded with zeros, in float32."""
        first = of.start * self.stride - self.padding
        last = (of.stop - 1) * self.stride - self.padding + self.dilation * (self.kernel - 1) + 1
        start = min(max(first, 0), self.length)
        there = max(min(last, self.length) - start, 0)
        wide, before = x.narrow(axis, start, there).float(), min(max(-first, 0), last - first)
        zeros = [0] * (2 * (x.ndim - 1 - axis)) + [before, last - first - before - there]
        return F.pad(wide, zeros) if any(zeros) else wide


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """A setting of a convolution, for each of its axes."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def _narrow(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu"


def _wide(value):
    return value.float() if isinstance(value, Tensor) and _narrow(value) else value


def _parts(whole: int, size: int) -> Iterator[slice]:
    """Runs of ``whole`` rows of ``size`` elements that hold :data:`PART` elements at most, or one row."""
    step = max(1, PART // max(size, 1))
    return (slice(start, min(start + step, whole)) for start in range(0, whole, step))
