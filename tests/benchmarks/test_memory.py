"""The table of memory says which numbers were measured, and its formula is the planner's."""

import json

from benchmarks import memory
from benchmarks.memory import BY_FORMULA, COLUMNS, ROWS, cells, expected, table


def columns(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_measured_rows_come_first_and_are_not_repeated_by_formula(monkeypatch):
    row = {"phase": "transformer", "model": "sana-600m", "quantise": "int4"}
    assert row in ROWS
    kept = {json.dumps(row): {"base": 1, "loaded": 2, "peak": 9_000_000_000, "seconds": 1.0}}
    monkeypatch.setattr(memory, "BY_FORMULA", [{**row, "side": 1024}, {**row, "quantise": None, "side": 1024}])
    header, _, first, second = (columns(line) for line in table(kept))
    assert tuple(header) == COLUMNS
    assert first[1] == "sana-600m, 1024 px, bfloat16, int4" and first[-2:] == ["9.00", "no"]  # by what was measured
    assert second[1] == "sana-600m, 1024 px, bfloat16" and second[-2:] == ["-", "yes"]


def test_rows_ask_the_planner_for_what_they_measure():
    for row in (*ROWS, *(row for row in BY_FORMULA if row["phase"] == "autoencoder")):
        assert [phase.name for phase in expected(row).phases] == [row["phase"]], row
    guided, alone = (
        expected({"phase": "transformer", "model": m}).phases[0] for m in ("sana1.5-1600m", "sana-sprint-1600m")
    )
    assert guided.working > 1.4 * alone.working
    whole, tiled = ({"phase": "autoencoder", "dtype": "float32"} | more for more in ({}, {"tile": 512}))
    assert expected(whole).peak > 1.5 * expected(tiled).peak
    assert "tile 512" in cells(tiled, None)[1] and cells(whole, None)[1] == "1024 px, float32"
