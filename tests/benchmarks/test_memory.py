"""The table of memory says which numbers were measured, and its formula is the planner's."""

import json

import torch

from benchmarks.memory import COLUMNS, ROWS, cells, expected, table
from benchmarks.memory_phase import FewClipTiles, FewTiles
from sana_wm.models.dc_ae import DCAE
from tests.generation.tiny_clip import tiny_wan
from tests.models.dc_ae_reference import small

AXES = ("height", "width")


def columns(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_what_was_measured_is_told_from_what_is_by_formula():
    full, int4 = ({"phase": "transformer", "model": "sana-600m"} | kind for kind in ({}, {"quantise": "int4"}))
    (partly,) = (row for row in ROWS if row.get("model") == "sana-1600m-4k" and row.get("quantise") == "int4")
    found = {"base": 300_000_000, "loaded": 5_000_000_000, "peak": 9_300_000_000, "seconds": 1.0}
    header, _, *lines = map(columns, table({json.dumps(int4): found, json.dumps(partly): found}))
    assert tuple(header) == COLUMNS and len(lines) == len(ROWS)
    said = {line[1]: line[-3:] for line in lines if line[0] == "transformer"}
    assert said["sana-600m, 1024 px, bfloat16, int4"] == ["9.00", "9.56", "no"]  # by what was measured
    assert full in ROWS and said["sana-600m, 1024 px, bfloat16"][::2] == ["-", "yes"]
    assert said["sana-1600m-4k, 4096 px, bfloat16, int4"] == ["9.00*", "9.56", "no"]  # of a part of the step


def test_rows_ask_the_planner_for_what_they_measure():
    for row in ROWS:
        assert [phase.name for phase in expected(row).phases] == [row["phase"].removeprefix("video ")], row
    guided, alone = (
        expected({"phase": "transformer", "model": m}).phases[0] for m in ("sana1.5-1600m", "sana-sprint-1600m")
    )
    assert guided.working > 1.4 * alone.working
    whole, tiled = ({"phase": "autoencoder", "dtype": "float32"} | more for more in ({}, {"tile": 512}))
    assert expected(whole).peak > 1.5 * expected(tiled).peak
    assert "tile 512" in cells(tiled, None)[1] and cells(whole, None)[1] == "1024 px, float32"


def test_a_tile_that_stands_in_leaves_the_picture_its_size():
    network = DCAE(small()).requires_grad_(False).eval()
    latents = torch.randn(1, 4, 23, 23, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = network.decode(latents, tile=32)
        decoded = []
        network.decoder.register_forward_hook(lambda *call: decoded.append(call[1][0].shape[-2:]))
        network.decoder = FewTiles(network.decoder, 4 * 23, 32, 4)
        found = network.decode(latents, tile=32)
    assert decoded == [(8, 8)] * 2 and network.decoder.left == 0  # of sixteen, seven cut by the edge
    assert found.shape == wanted.shape and torch.equal(found[..., :20, :20], wanted[..., :20, :20])


def test_a_tile_of_a_clip_that_stands_in_leaves_the_clip_its_size():
    vae = tiny_wan().requires_grad_(False)
    sides = {f"tile_sample_{kind}_{axis}": side for kind, side in (("min", 32), ("stride", 24)) for axis in AXES}
    vae.enable_tiling(**sides)
    latents = torch.randn(1, 4, 3, 8, 11, generator=torch.Generator().manual_seed(0))
    decoded = []
    with torch.no_grad():
        wanted = vae.decode(latents).sample
        vae.decoder.register_forward_hook(lambda _, given, out: decoded.append(tuple(given[0].shape[-2:])))
        vae.decoder = FewClipTiles(vae, (8, 11))
        found = vae.decode(latents).sample
    assert decoded == [(4, 4)] * 6  # of the twelve tiles four are whole; three latents each
    assert found.shape == wanted.shape and torch.equal(found[..., :24, :24], wanted[..., :24, :24])
