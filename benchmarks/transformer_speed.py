"""Our transformer against diffusers' SanaWMTransformer3DModel: same weights, same inputs, same CPU, same threads.

    python -m benchmarks.transformer_speed             a middling network, float32 and bfloat16
    python -m benchmarks.transformer_speed --full      one block of the published size

A ratio below 1 means that ours is faster. ``difference`` is the largest one between outputs, in standard deviations of
the output, with the reference's own rounding of softmax attention lifted; it tells that both compute the same.
"""

import argparse
from collections.abc import Iterator

import torch

from benchmarks.reference import Shape, inputs, pair, run_reference
from benchmarks.timing import Comparison, compare

MIDDLING = Shape(width=560, heads=5, depth=4, grid=(11, 20), frames=6)
FULL = Shape(width=2240, heads=20, depth=1, grid=(22, 40), frames=3)
CHUNK = 3  # frames that the stream denoises at once


def clip_row(shape: Shape, dtype: torch.dtype, repeats: int) -> tuple[Comparison, str]:
    """Both over a whole clip."""
    theirs, ours = pair(shape, dtype)
    given = inputs(shape, dtype)
    expected, out = run_reference(theirs, given, exact=True), ours(**given).velocity
    difference = (out.float() - expected.float()).abs().max() / expected.float().std()
    return compare(lambda: run_reference(theirs, given), lambda: ours(**given), repeats), f"{difference:.1e}"


def stream_row(shape: Shape, dtype: torch.dtype, repeats: int) -> tuple[Comparison, str]:
    """A denoising step of the last chunk: ours from its state; the reference, which has none, over the whole clip."""
    theirs, ours = pair(shape, dtype, preset="sana-wm-streaming")
    given = inputs(shape, dtype)
    per_frame = {"latents": 2, "plucker": 2, "timestep": 1, "camera": 1}

    def part(begin: int, end: int) -> dict:
        return {n: x.narrow(per_frame[n], begin, end - begin) if n in per_frame else x for n, x in given.items()}

    seen = shape.frames - CHUNK
    state = ours(**part(0, seen), state=ours.initial_state(shape.lanes), commit=True).state
    last = part(seen, shape.frames)
    last["text"] = ours.encode_text(last["text"], last.pop("text_mask"))
    step = compare(lambda: run_reference(theirs, given), lambda: ours(**last, state=state, chunks=(CHUNK,)), repeats)
    return step, "-"


def rows(options: argparse.Namespace) -> Iterator[tuple[str, Shape, str, Comparison, str]]:
    for name in options.dtype:
        dtype = getattr(torch, name)
        for kind, shape in options.shapes:
            yield kind, shape, name, *clip_row(shape, dtype, options.repeats)
        if options.stream:
            shape = options.shapes[0][1]
            shape = shape._replace(frames=max(shape.frames, CHUNK + 1))
            yield "stream step", shape, name, *stream_row(shape, dtype, options.repeats)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="one gated-delta and one softmax block, 2240 wide, 22x40")
    for name in ("width", "heads", "depth", "frames", "lanes"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--grid", type=int, nargs=2, metavar=("H", "W"))
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-stream", dest="stream", action="store_false", help="leave out the row of the stream")
    options = parser.parse_args(arguments)
    given = {n: getattr(options, n) for n in Shape._fields if getattr(options, n, None) is not None}
    if "grid" in given:
        given["grid"] = tuple(given["grid"])
    if options.full:
        shape = FULL._replace(**given)
        options.shapes = [("gated delta", shape), ("softmax", shape._replace(softmax_every=1))]
    else:
        options.shapes = [("clip", MIDDLING._replace(**given))]
    return options


@torch.no_grad()
def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    titles = ["what", "network", "grid x frames", "dtype", "threads", "reference ms", "ours ms", "ours / reference",
              "difference"]  # fmt: skip
    print(" | ".join(["", *titles, ""]).strip(), "|".join(["", *["---"] * len(titles), ""]), sep="\n")
    for kind, s, dtype, c, difference in rows(options):
        network = f"{s.depth} block{'s' * (s.depth > 1)}, {s.width} wide, {s.heads} heads"
        ratio = f"{c.ratio:.2f} ({c.low:.2f} to {c.high:.2f})"
        cells = [kind, network, f"{s.grid[0]}x{s.grid[1]} x {s.frames}", dtype, str(options.threads),
                 f"{c.a_ms:.0f}", f"{c.b_ms:.0f}", ratio, difference]  # fmt: skip
        print(" | ".join(["", *cells, ""]).strip(), flush=True)


if __name__ == "__main__":
    main()
