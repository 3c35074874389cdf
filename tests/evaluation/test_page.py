"""The parts of a page: numbers as they are written, charts that stay inside their frame, and the sentence on top."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana_wm.evaluation import charts
from sana_wm.evaluation.headlines import headlines, verdict
from sana_wm.evaluation.page import page
from sana_wm.evaluation.sections import sections
from sana_wm.evaluation.tables import Number
from tests.evaluation.html_check import Checker


def test_numbers_as_they_are_written():
    assert Number(12.345, 11.0, 13.5).full == "12.35 (11.00 to 13.50)"
    assert Number(12.345, 11.0, 13.5).brief == "12.3 ± 1.2"
    rate = Number(0.625, 0.5, 0.75, digits=3, percent=True)
    assert rate.full == "62.5 % (50.0 to 75.0)" and rate.brief == "62 % (50 to 75)"
    assert (
        Number(-0.5).text == "−0.50"
        and Number(-0.001).text == "0.00"
        and Number(1234567.0, digits=0).text == "1,234,567"
    )
    assert Number(None).full == Number.of(None).full == "–" and Number(1.0, None, 2.0).full == "1.00"
    assert Number.of({"rate": 0.5, "low": 0.4, "high": 0.6, "trials": 9}).full == "0.50 (0.40 to 0.60)"


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low, span):
    ticks = charts.nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 8
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


def coordinates(svg: str) -> list[float]:
    return [float(v) for v in re.findall(r'(?:x|y|x1|x2|y1|y2|cx|cy)="([-\d.]+)"', svg)]


def test_charts_stay_inside_their_frame():
    line = charts.Line("a <b>", "world", [(1, Number(3.0, 2.0, 9.0)), (5, Number(4.0)), (9, Number(None))])
    drawn = [
        charts.curves([line, charts.Line("c", "world", [(1, Number(1.0))])], "x", "y"),
        charts.scatter([("p", Number(-1.0), Number(2.0)), ("q", Number(1.0), Number(None))], "real", "imagined"),
        charts.reliability([("w", "world", [{"said": 0.5, "true": 1.0, "low": 0.4, "high": 1.0, "cases": 30}])]),
        charts.bars([("a", "limit", Number(0.9, 0.8, 1.0)), ("b", "world", Number(-0.4, -0.9, 0.2))], 1.0),
    ]
    for svg in drawn:
        assert Checker.of(svg).problems == []
        assert coordinates(svg) and all(-1 <= value <= charts.WIDTH + 1 for value in coordinates(svg))
    assert "a &lt;b&gt;" in drawn[0] and "dashed" in drawn[0]
    assert charts.curves([charts.Line("c", "world", [(1, Number(None))])], "x", "y") == ""
    assert charts.bars([]) == "" and charts.scatter([], "a", "b") == ""


def entry(mean):
    return {"mean": mean, "low": mean - 1, "high": mean + 1, "count": 5}


def physics(world, copied):
    def row(values):
        return {t: {"b": entry(value), "found": entry(1.0)} for t, value in zip(("1", "5"), values, strict=True)}

    rows = {"world": row(world), "copy_last_frame": row(copied), "decoder_floor": row([0.1, 0.1])}
    thing = {"words": "block", "unit": "px", "moves": True}
    return {"physics": {"things": {"b": thing}, "main": "b", "units": "512 px", "rows": rows}, "windows": 5}


def test_the_sentence_on_top_says_when_it_is_no_better_than_nothing():
    assert "25 % of theirs" in verdict(physics([1.0, 5.0], [4.0, 20.0]))
    assert "no better than repeating the last frame at step 1 of 5" in verdict(physics([5.0, 5.0], [4.0, 20.0]))
    assert verdict(physics([9.0, 30.0], [4.0, 20.0])).startswith("At no step")
    assert verdict({}) == ""


def test_headlines_stand_beside_their_baselines():
    (line,) = headlines(physics([1.0, 5.0], [4.0, 20.0]))
    assert (
        line.line
        == "error of the block after 5 steps: 5.0 px (4.0 to 6.0); copying the last frame 20.0, measuring itself 0.1"
    )


def test_rows_that_nobody_has_named_are_shown_by_their_own_name():
    rate = {"rate": 0.5, "low": 0.3, "high": 0.7, "trials": 10}
    rows = {"random": {"all": rate}, "mppi_world": {"all": {**rate, "rate": 0.6}}, "icem_simulator": {"all": rate}}
    result = {"planning": {"rows": {name: row | {"seconds_per_plan": None} for name, row in rows.items()}}}
    (section,) = sections(result)
    assert "MPPI, world" in [row.words for row in section.tables[0].rows] and "60.0 %" in section.means
    assert Checker.of(page(result)).problems == []


@pytest.mark.parametrize("result", [{}, {"skipped": {"planning": "a <reason>"}, "quick": True}])
def test_a_page_of_nothing_is_still_a_page(result):
    text = page(result)
    assert Checker.of(text).problems == [] and ("a &lt;reason&gt;" in text) == bool(result)
