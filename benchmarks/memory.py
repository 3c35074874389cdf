"""Peak memory of every phase of making a picture, measured on this CPU with random weights of the published sizes,
beside what :mod:`sana_wm.generation.memory_plan` expects.

    python -m benchmarks.memory                      all rows; what is measured is kept in runs/memory/rows.json
    python -m benchmarks.memory --rows 0 3           some of them
    python -m benchmarks.memory --no-measure         the table, of what is kept

Each row runs alone in a process (:mod:`benchmarks.memory_phase`), one denoising step, one thread. Linux only.
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
from sana_wm.generation.memory import GB
from sana_wm.generation.memory_formulas import Asked, gemma2_2b
from sana_wm.generation.memory_plan import MemoryPlan, Networks, plan_memory
from sana_wm.models.dc_ae_config import dcae_preset
from sana_wm.models.presets import preset

# In the order of what they tell, for who stops early: half an hour of one core. What a step takes beside the weights
# does not depend on how many blocks there are, so that the large members are measured at 512 pixels.
ROWS: list[dict] = [
    {"phase": "transformer", "model": "sana-600m", "quantise": "int4"},
    {"phase": "text encoder", "quantise": "int4"},
    {"phase": "text encoder"},
    {"phase": "transformer", "model": "sana-1600m", "quantise": "int4", "side": 512},
    {"phase": "transformer", "model": "sana-1600m", "quantise": "int8", "side": 512},
    {"phase": "transformer", "model": "sana-1600m", "side": 512},
    {"phase": "autoencoder", "dtype": "float32"},
    {"phase": "transformer", "model": "sana1.5-4800m", "quantise": "int4", "side": 512},
    {"phase": "autoencoder", "side": 512},
    {"phase": "text encoder", "quantise": "int8"},
    {"phase": "autoencoder", "dtype": "float32", "tile": 512},
    {"phase": "transformer", "model": "sana-600m", "quantise": "int8"},
    {"phase": "transformer", "model": "sana-600m"},
    {"phase": "transformer", "model": "sana-sprint-1600m", "quantise": "int4"},
    {"phase": "transformer", "model": "sana1.5-4800m", "side": 512},
    {"phase": "transformer", "model": "sana-video-2b-480p", "quantise": "int4", "grid": [60, 104]},
    {"phase": "transformer", "model": "sana-1600m", "quantise": "int4"},
    {"phase": "autoencoder", "dtype": "float32", "side": 4096, "tile": 1024},
]


# What is not measured: members and modes by the formula alone, at the size that a member was trained at.
BY_FORMULA: list[dict] = [
    {"phase": "transformer", "model": model, "side": side, "quantise": kind, **more}
    for model, side, more in (
        ("sana-600m", 1024, {}),
        ("sana-1600m", 1024, {}),
        ("sana-1600m-2k", 2048, {}),
        ("sana-1600m-4k", 4096, {}),
        ("sana1.5-4800m", 1024, {}),
        ("sana-sprint-1600m", 1024, {}),
        ("sana-video-2b-480p", 0, {"grid": [60, 104], "frames": 21}),
        ("sana-video-2b-720p", 0, {"grid": [22, 40], "frames": 11}),
        ("longsana-2b-480p", 0, {"grid": [60, 104], "frames": 10, "guided": False}),
    )
    for kind in (None, "int8", "int4")
] + [
    {"phase": "autoencoder", "side": 1024},
    {"phase": "autoencoder", "side": 2048},
    {"phase": "autoencoder", "side": 2048, "tile": 512},
    {"phase": "autoencoder", "side": 4096, "tile": 4096},
    {"phase": "autoencoder", "side": 4096},
    {"phase": "autoencoder", "side": 4096, "tile": 512},
]
COLUMNS = ("phase", "what", "weights", "working", "peak, formula", "peak, measured", "below 8 GB")


def measured(row: dict) -> dict[str, float]:
    """Bytes and seconds, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory_phase", json.dumps(row)]
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode:
        raise RuntimeError(f"{row}: {told.stderr.strip().splitlines()[-1]}")
    return json.loads(told.stdout.splitlines()[-1])


def expected(row: dict) -> MemoryPlan:
    """The plan of a row's one phase, on a CPU."""
    grid = row.get("grid") or [row.get("side", 1024) // 32] * 2
    model, dtype, kind = (
        row.get("model", "sana-600m"),
        getattr(torch, row.get("dtype", "bfloat16")),
        row.get("quantise"),
    )
    guided = row.get("guided", "sprint" not in model)
    asked = Asked(tuple(grid), row.get("frames", 1), 1, guided, dtype, kind, kind, row.get("tile"))
    if row["phase"] == "autoencoder" and row.get("tile") is None and row.get("side", 1024) <= 2048:
        asked = replace(asked, tile=2048)
    networks = Networks(preset(model), gemma2_2b(), dcae_preset("f32c32-sana-1.1"))
    plan = plan_memory(networks, asked, "cpu")
    return replace(plan, phases=tuple(phase for phase in plan.phases if phase.name == row["phase"]))


def cells(row: dict, found: dict | None) -> tuple[str, ...]:
    plan = expected(row)
    (phase,) = plan.phases
    size = f"{row['frames']} latent frames of {row['grid']}" if row.get("frames", 1) > 1 else ""
    side = row.get("side", 1024) if row["phase"] != "text encoder" and "grid" not in row else None
    told = [
        row.get("model", ""),
        f"{side} px" if side else size,
        row.get("dtype", "bfloat16"),
        row.get("quantise") or "",
    ]
    told += [f"tile {row['tile']}"] if "tile" in row else []
    peak = plan.peak if found is None else found["peak"]
    numbers = [f"{value / GB:.2f}" for value in (phase.weights, phase.working, plan.peak)]
    last = "-" if found is None else f"{found['peak'] / GB:.2f}"
    return row["phase"], ", ".join(part for part in told if part), *numbers, last, "yes" if peak < 8 * GB else "no"


def _said(row: dict) -> dict:
    """A row without what is the case anyway."""
    return {name: value for name, value in row.items() if value is not None and (name, value) != ("side", 1024)}


def table(kept: dict) -> list[str]:
    """Lines of Markdown: what was measured, then what is by formula alone. Numbers are GB (1e9 bytes)."""
    rows = [(row, kept.get(json.dumps(row))) for row in ROWS if json.dumps(row) in kept]
    done = [_said(row) for row, _ in rows]
    rows += [(row, None) for row in BY_FORMULA if _said(row) not in done]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(cells(row, found) for row, found in rows)]
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
