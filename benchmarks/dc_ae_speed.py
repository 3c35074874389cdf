"""Our DCAE against diffusers' AutoencoderDC: same weights, same inputs, same CPU, same threads.

    python -m benchmarks.dc_ae_speed                      one block a stage at the published widths, 256 pixels
    python -m benchmarks.dc_ae_speed --full --side 512    all blocks of the published network
    python -m benchmarks.dc_ae_speed --stages             each stage of the decoder by itself

A ratio below 1 means that ours is faster. ``difference`` is the largest one between outputs, in standard deviations of
the output; it tells that both compute the same.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from diffusers import AutoencoderDC
from torch import Tensor, nn

from benchmarks.timing import Comparison, compare
from sana_wm.models.dc_ae import DCAE, DCAE_PRESETS


def pair(preset: str, full: bool, dtype: torch.dtype) -> tuple[AutoencoderDC, DCAE]:
    """Both with the same random weights: diffusers reads what ours writes, ours reads it again."""
    config = DCAE_PRESETS[preset]
    if not full:
        shallow = {
            n: tuple(min(count, 1) for count in getattr(config, n)) for n in ("encoder_layers", "decoder_layers")
        }
        config = replace(config, **shallow)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        DCAE(config).save_pretrained(folder, layout="diffusers")
        theirs = AutoencoderDC.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=False).eval()
        return theirs, DCAE.from_pretrained(folder, dtype=dtype)


def row(theirs: Callable[[], Tensor], ours: Callable[[], Tensor], repeats: int) -> tuple[Comparison, float]:
    expected, out = theirs().float(), ours().float()
    return compare(theirs, ours, repeats), ((out - expected).abs().max() / expected.std()).item()


def stage_rows(theirs: nn.Module, ours: nn.Module, z: Tensor, repeats: int) -> Iterator[tuple]:
    """The decoder's stages, coarsest first; each is given what the one before made."""
    x = theirs.conv_in(z) + z.repeat_interleave(ours.repeats, dim=1)
    for index in reversed(range(len(ours.up_blocks))):
        there, here = theirs.up_blocks[index], ours.up_blocks[index]
        if len(here):
            ready = x.contiguous(memory_format=torch.channels_last)
            calls = partial(there, x), partial(here, ready)
            yield f"decoder stage {index} {tuple(x.shape[1:])}", *row(*calls, repeats)
        x = there(x)


def network_rows(theirs: AutoencoderDC, ours: DCAE, images: Tensor, z: Tensor, repeats: int) -> Iterator[tuple]:
    yield "encode", *row(lambda: theirs.encode(images).latent, lambda: ours.encode(images), repeats)
    yield "decode", *row(lambda: theirs.decode(z).sample, lambda: ours.decode(z), repeats)


def rows(options: argparse.Namespace) -> Iterator[tuple]:
    for name in options.dtype:
        dtype = getattr(torch, name)
        theirs, ours = pair(options.preset, options.full, dtype)
        for side in options.side:
            images = torch.randn(options.batch, 3, side, side, dtype=dtype)
            grid = [side // ours.config.compression] * 2
            z = torch.randn(options.batch, ours.config.latent_channels, *grid, dtype=dtype)
            if options.stages:
                found = stage_rows(theirs.decoder, ours.decoder, z, options.repeats)
            else:
                found = network_rows(theirs, ours, images, z, options.repeats)
            for what, *result in found:
                yield what, side, name, *result


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="f32c32-sana-1.0", choices=list(DCAE_PRESETS))
    parser.add_argument("--full", action="store_true", help="all blocks of a stage instead of one")
    parser.add_argument("--stages", action="store_true", help="each stage of the decoder by itself")
    parser.add_argument("--side", type=int, nargs="+", default=[256], help="pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(arguments)


@torch.no_grad()
def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    titles = ["what", "network", "pixels", "dtype", "threads", "reference ms", "ours ms", "ours / reference",
              "difference"]  # fmt: skip
    print(" | ".join(["", *titles, ""]).strip(), "|".join(["", *["---"] * len(titles), ""]), sep="\n")
    network = options.preset + ("" if options.full else ", one block a stage")
    for what, side, dtype, c, difference in rows(options):
        ratio = f"{c.ratio:.2f} ({c.low:.2f} to {c.high:.2f})"
        cells = [what, network, f"{options.batch} x {side}x{side}", dtype, str(options.threads),
                 f"{c.a_ms:.0f}", f"{c.b_ms:.0f}", ratio, f"{difference:.1e}"]  # fmt: skip
        print(" | ".join(["", *cells, ""]).strip(), flush=True)


if __name__ == "__main__":
    main()
