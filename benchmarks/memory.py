"""Peak memory of every phase of making a picture or a video, measured on this CPU with random weights of the published
sizes, beside what :mod:`sana_wm.generation.memory_plan` expects.

    python -m benchmarks.memory                      all rows; what is measured is kept in runs/memory/rows.json
    python -m benchmarks.memory --rows 0 3           some of them
    python -m benchmarks.memory --no-measure         the table, of what is kept

Each row runs alone in a process (:mod:`benchmarks.memory_phase`), one denoising step, one thread: hours in all.
Linux only.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.kept import Kept
from sana_wm.generation.clip_release import coder_of, published_vae
from sana_wm.generation.memory import GB
from sana_wm.generation.memory_formulas import Asked, gemma2_2b
from sana_wm.generation.memory_plan import MemoryPlan, Networks, plan_memory
from sana_wm.models.dc_ae_config import dcae_preset
from sana_wm.models.presets import preset

GRID_480P, GRID_720P = [60, 104], [22, 40]
# Member, side in pixels or latents, and what else: where a step is long, two of its blocks, which take what all take
# but for their states (at most 0.1 GB; of LongSANA also the last frames, 0.2 GB).
MEMBERS: list[tuple[str, dict]] = [
    ("sana-600m-512", {"side": 512}),
    ("sana-600m", {}),
    ("sana-1600m-512", {"side": 512}),
    ("sana-1600m", {}),
    ("sana-1600m-2k", {"side": 2048, "blocks": 2}),
    ("sana-1600m-4k", {"side": 4096, "blocks": 2}),
    ("sana1.5-1600m", {}),
    ("sana1.5-4800m", {}),
    ("sana-sprint-600m", {}),
    ("sana-sprint-1600m", {}),
    ("sana-video-2b-480p", {"grid": GRID_480P, "frames": 21, "blocks": 2}),
    ("sana-video-2b-720p", {"grid": GRID_720P, "frames": 11, "blocks": 2}),
    ("longsana-2b-480p", {"grid": GRID_480P, "frames": 10, "guided": False, "blocks": 2}),
    ("sana-streaming-2b", {"grid": GRID_720P, "frames": 3, "guided": False}),
]
ROWS: list[dict] = [
    *({"phase": "text encoder"} | kind for kind in ({}, {"quantise": "int8"}, {"quantise": "int4"})),
    *(
        {"phase": "transformer", "model": model} | kind | more
        for model, more in MEMBERS
        for kind in ({}, {"quantise": "int8"}, {"quantise": "int4"})
    ),
    {"phase": "autoencoder", "dtype": "float32"},
    {"phase": "autoencoder", "dtype": "float32", "tile": 512},
    {"phase": "autoencoder"},
    {"phase": "autoencoder", "tile": 512},
    {"phase": "autoencoder", "side": 2048},
    {"phase": "autoencoder", "side": 2048, "tile": 512, "few_tiles": True},
    {"phase": "autoencoder", "side": 4096, "few_tiles": True},
    {"phase": "autoencoder", "side": 4096, "tile": 512, "few_tiles": True},
    *(
        {"phase": "video autoencoder", "dtype": "float32", "grid": GRID_480P} | more
        for more in ({"frames": 3}, {"frames": 21, "tiling": "on", "few_tiles": True})
    ),
    {"phase": "video autoencoder", "network": "AutoencoderKLLTX2Video", "grid": GRID_720P, "frames": 11},
]
COLUMNS = ("phase", "what", "weights", "working", "both", "both, measured", "command", "below 8 GB")


def measured(row: dict) -> dict[str, float]:
    """Bytes and seconds, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory_phase", json.dumps(row)]
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode:
        raise RuntimeError(f"{row}: {told.stderr.strip().splitlines()[-1]}")
    return json.loads(told.stdout.splitlines()[-1])


def expected(row: dict) -> MemoryPlan:
    """The plan of a row's one phase, on a CPU."""
    grid, kind = row.get("grid") or [row.get("side", 1024) // 32] * 2, row.get("quantise")
    model, dtype = row.get("model", "sana-600m"), getattr(torch, row.get("dtype", "bfloat16"))
    guided = row.get("guided", "sprint" not in model)
    asked = Asked(tuple(grid), row.get("frames", 1), 1, guided, dtype, kind, kind, row.get("tile"))
    if row["phase"] == "video autoencoder":
        coder = coder_of(published_vae(row.get("network", "AutoencoderKLWan")))
        asked = replace(asked, tiling=row.get("tiling", "auto"))
    else:
        coder = dcae_preset("f32c32-sana-1.1")
    plan = plan_memory(Networks(preset(model), gemma2_2b(), coder), asked, "cpu")
    return replace(plan, phases=tuple(phase for phase in plan.phases if row["phase"].endswith(phase.name)))


def cells(row: dict, found: dict | None) -> tuple[str, ...]:
    plan = expected(row)
    (phase,) = plan.phases
    told = [row.get("model") or row.get("network", "AutoencoderKLWan" if "video" in row["phase"] else "")]
    if "grid" in row:
        told.append("{1} latent frames of {0[0]} x {0[1]}".format(row["grid"], row["frames"]))
    elif row["phase"] != "text encoder":
        told.append(f"{row.get('side', 1024)} px")
    told += [row.get("dtype", "bfloat16"), row.get("quantise", "")]
    told.append(f"tile {row['tile']}" if "tile" in row else "in tiles" if "tiling" in row else "")
    taken = phase.bytes if found is None else found["peak"] - found["base"]
    command = plan.process + taken
    numbers = [f"{value / GB:.2f}" for value in (phase.weights, phase.working, phase.bytes)]
    shown = "-" if found is None else f"{taken / GB:.2f}" + "*" * ("blocks" in row or "few_tiles" in row)
    last = [shown, f"{command / GB:.2f}", "yes" if command < 8 * GB else "no"]
    return row["phase"], ", ".join(part for part in told if part), *numbers, *last


def table(kept: dict) -> list[str]:
    """Lines of Markdown; what was not measured is by the formula alone. Numbers are GB (1e9 bytes).

    ``command``: with the process that ``sana_wm.generate`` is, by what was measured where it was.
    """
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(cells(row, kept.get(json.dumps(row))) for row in ROWS)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=range(len(ROWS)), help="numbers of the rows")
    parser.add_argument("--no-measure", action="store_true", help="print what is kept")
    parser.add_argument("--out", type=Path, default=Path("runs/memory/rows.json"))
    return parser.parse_args(arguments)


def main() -> None:
    options, console = parse(), Console(stderr=True)
    keep = Kept(options.out, {"threads": 1, "text_tokens": 300}, console)
    for row in (ROWS[number] for number in options.rows):
        if not options.no_measure:
            keep(json.dumps(row), lambda row=row: measured(row))
    print("\n".join(table(keep.values)))


if __name__ == "__main__":
    main()
