"""Products of bfloat16 tensors on this CPU: torch's own, and those of :mod:`sana_wm.nn.widened`, beside float32's.

    python -m benchmarks.bfloat16_products

Milliseconds, medians, of the kinds of product that images and videos are made with; one thread.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import compare
from sana_wm.nn.widened import WideProducts, multiplies_bfloat16

Product = Callable[[Tensor, Tensor], Tensor]
DENSE: Product = lambda x, weight: F.conv2d(x, weight, padding=1)  # noqa: E731
# name -> product, shapes of its operands, whether the first is channels last
PRODUCTS: dict[str, tuple[Product, tuple[int, ...], tuple[int, ...], bool]] = {
    "linear, 512 x 2240 to 2240": (F.linear, (512, 2240), (2240, 2240), False),
    "3x3, 128 to 128, 48 x 48": (DENSE, (1, 128, 48, 48), (128, 128, 3, 3), False),
    "3x3, 128 to 128, 48 x 48, channels last": (DENSE, (1, 128, 48, 48), (128, 128, 3, 3), True),
    "3x3 depthwise, 1120, 32 x 32, channels last": (
        lambda x, weight: F.conv2d(x, weight, padding=1, groups=1120), (1, 1120, 32, 32), (1120, 1, 3, 3), True
    ),
    "3x3x3, 64 to 64, 5 x 24 x 24": (F.conv3d, (1, 64, 5, 24, 24), (64, 64, 3, 3, 3), False),
}  # fmt: skip


def call(name: str, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A product of random operands, ready to be run."""
    product, *shapes, last = PRODUCTS[name]
    x, weight = (torch.randn(shape).to(dtype) for shape in shapes)
    x = x.to(memory_format=torch.channels_last) if last else x
    return lambda: product(x, weight)


def widened(product: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with WideProducts():
            return product()

    return run


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"instructions for bfloat16: {'yes' if multiplies_bfloat16() else 'no'}\n")
    print("| product | float32 ms | bfloat16, torch ms | bfloat16, widened ms |\n| --- | --- | --- | --- |")
    for name in PRODUCTS:
        wide, narrow = call(name, torch.float32), call(name, torch.bfloat16)
        full, theirs = compare(wide, narrow, repeats)[:2]
        ours = compare(wide, widened(narrow), repeats).b_ms
        print(f"| {name} | {full:.1f} | {theirs:.1f} | {ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
