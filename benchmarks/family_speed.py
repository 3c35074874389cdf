"""Image, Sprint and video transformers against diffusers': same weights, same inputs, same CPU, same threads, in turns.

    python -m benchmarks.family_speed                  a few blocks at the published widths, short clips, float32
    python -m benchmarks.family_speed --members sana-600m sana-video-2b-480p --depth 2 --threads 2

A ratio below 1 means that ours is faster. ``difference`` is the largest one between outputs, in standard deviations of
the output. Ours has its prompt encoded once, before the time is taken, as its samplers have; the reference cannot. The
row of a block denoises the last block of a clip from the memory of the others; the reference, which has no memory, runs
over the whole clip.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.timing import Comparison, compare
from sana_wm.models import presets
from sana_wm.models.transformer import SanaTransformer


class Clip(NamedTuple):
    """Latent grid and frames; ``block`` frames are denoised at once in a stream, 0: there is no stream."""

    grid: tuple[int, int]
    frames: int = 1
    block: int = 0


# 1024 px images; video at a part of its frames, since time grows with them in proportion.
MEMBERS = {
    "sana-600m": Clip((32, 32)),
    "sana-1600m": Clip((32, 32)),
    "sana1.5-1600m": Clip((32, 32)),
    "sana-sprint-600m": Clip((32, 32)),
    "sana-video-2b-480p": Clip((60, 104), 2),
    "sana-video-2b-720p": Clip((22, 40), 3),
    "longsana-2b-480p": Clip((30, 52), 6, 2),
}
TEXT_TOKENS = 300
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def pair(member: str, depth: int, dtype: torch.dtype) -> tuple[nn.Module, SanaTransformer]:
    """The reference and ours at the member's width, every tensor random."""
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    settings = presets.to_diffusers(presets.preset(member, depth=depth, temporal="bidirectional"))
    theirs = getattr(diffusers, settings.pop("_class_name"))(**settings).eval().requires_grad_(False)
    for name, p in theirs.named_parameters():
        noise = torch.randn_like(p)
        p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else 0.2 * noise + ("bias" not in name))
    theirs = theirs.to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        temporal = {"temporal": "chunk_causal", "chunk_size": 10**6} if member.startswith("longsana") else {}
        ours = SanaTransformer.from_pretrained(folder, dtype=dtype, **temporal)
    return theirs, ours.requires_grad_(False)


def inputs(net: SanaTransformer, clip: Clip, lanes: int, dtype: torch.dtype) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    mask = torch.ones(lanes, TEXT_TOKENS, dtype=torch.bool)
    mask[:, TEXT_TOKENS // 2 :] = False
    given = {
        "latents": torch.randn(lanes, net.config.in_channels, clip.frames, *clip.grid, generator=g).to(dtype),
        "timestep": 1000 * net.config.timestep_scale * torch.rand(lanes, generator=g),
        "text": torch.randn(lanes, TEXT_TOKENS, net.config.text_dim, generator=g).to(dtype),
        "text_mask": mask,
    }
    return given | ({"guidance": torch.full((lanes,), 0.45)} if net.config.guidance else {})


def run_reference(net: nn.Module, given: dict[str, Tensor]) -> Tensor:
    video = "Video" in type(net).__name__
    latents = given["latents"] if video else given["latents"][:, :, 0]
    out = net(
        latents, encoder_hidden_states=given["text"], timestep=given["timestep"], guidance=given.get("guidance"),
        encoder_attention_mask=given["text_mask"],
    ).sample  # fmt: skip
    return out if video else out[:, :, None]


def rows(member: str, clip: Clip, options: argparse.Namespace) -> Iterator[tuple[str, Comparison, str]]:
    """What was run, times, difference."""
    dtype = getattr(torch, options.dtype)
    theirs, ours = pair(member, options.depth, dtype)
    given = inputs(ours, clip, options.lanes, dtype)
    expected, out = run_reference(theirs, given), ours(**given).velocity
    difference = f"{(out.float() - expected.float()).abs().max() / expected.float().std():.1e}"

    def timed(run: Callable[[], object]) -> Comparison:
        return compare(lambda: run_reference(theirs, given), run, options.repeats, CLOCKS[options.clock])

    told = given | {"text": ours.encode_text(given["text"], given["text_mask"]), "text_mask": None}
    yield member, timed(lambda: ours(**told)), difference
    if clip.block:
        seen = clip.frames - clip.block
        past, last = (dict(told, latents=part) for part in given["latents"].split([seen, clip.block], dim=2))
        state = ours(**past, commit=True).state
        yield member + ", block", timed(lambda: ours(**last, state=state)), "-"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", nargs="+", default=list(MEMBERS), choices=list(MEMBERS))
    parser.add_argument("--depth", type=int, default=2, help="blocks")
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="cpu: on a machine that others use too")
    return parser.parse_args(arguments)


@torch.no_grad()
def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    titles = ["member", "blocks", "lanes x grid x frames", "dtype", "threads", "reference ms", "ours ms",
              "ours / reference", "difference"]  # fmt: skip
    print(" | ".join(["", *titles, ""]).strip(), "|".join(["", *["---"] * len(titles), ""]), sep="\n")
    for member in options.members:
        clip = MEMBERS[member]
        size = f"{options.lanes} x {clip.grid[0]}x{clip.grid[1]} x {clip.frames}"
        for what, c, difference in rows(member, clip, options):
            ratio = f"{c.ratio:.2f} ({c.low:.2f} to {c.high:.2f})"
            cells = [what, str(options.depth), size, options.dtype, str(options.threads), f"{c.a_ms:.0f}",
                     f"{c.b_ms:.0f}", ratio, difference]  # fmt: skip
            print(" | ".join(["", *cells, ""]).strip(), flush=True)


if __name__ == "__main__":
    main()
