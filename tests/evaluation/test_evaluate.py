"""The whole evaluation: what it measures, writes, prints and refuses, with and without a simulator."""

import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sana_wm.agents.cem import CEMConfig
from sana_wm.evaluation import PARTS, evaluate, finite, parts
from sana_wm.evaluation.card import measured
from sana_wm.evaluation.film import best_median_worst
from sana_wm.evaluation.planning import PlanningConfig
from sana_wm.evaluation.report import print_report
from sana_wm.evaluation.speed import state_bytes
from tests.evaluation.html_check import Checker
from tests.evaluation.still_world import StillWorld, grey_episodes

MEASURED = ["fidelity", "physics", "action_shuffle", "counterfactual", "calibration", "planning"]


def printed(result: dict) -> str:
    text = io.StringIO()
    print_report(result, Console(file=text, width=80))
    return text.getvalue()


def numbers(value) -> list[float]:
    if isinstance(value, dict):
        return [n for entry in value.values() for n in numbers(entry)]
    if isinstance(value, list):
        return [n for entry in value for n in numbers(entry)]
    return [value] if isinstance(value, float) else []


@pytest.fixture(scope="module")
def evaluated(oracle, episodes, tmp_path_factory):
    planning = PlanningConfig(search=CEMConfig(samples=8, iterations=1, elites=2))
    out = tmp_path_factory.mktemp("evaluated")
    options = {"windows": 5, "pairs": 2, "planning": planning, "horizon": 12}
    return evaluate(oracle, episodes, episodes=range(4, 8), parts=MEASURED, out=out, **options), out


def test_measures_writes_and_prints_everything(evaluated):
    result, out = evaluated
    assert set(MEASURED) < set(result) and result["skipped"] == {}
    assert json.loads((out / "evaluation.json").read_text()) == result
    assert all(map(math.isfinite, numbers(result)))
    rows = result["planning"]["rows"]
    assert any(row["block"]["trials"] == 2 for name, row in rows.items() if "world" in name)
    with Image.open(out / "film.png") as film:
        assert np.asarray(film).std() > 10 and film.size[0] > 800
    text = printed(result)
    for words in ("copy last frame", "decoder's own", "true simulator", "block and agent", "How far it can be trusted"):
        assert words in text
    assert "…" not in text  # fits a terminal of 80 columns
    assert any("copy last frame" in line for line in measured(result))


def test_the_page_is_whole_and_needs_nothing_from_outside(evaluated):
    result, out = evaluated
    page = (out / "report.html").read_text()
    checker = Checker.of(page)
    assert checker.problems == [] and checker.outside == []
    assert "Push &lt;the&gt; block." in page and "<the>" not in page
    assert page.count("data:image/png;base64,") == 3
    for part in MEASURED:
        assert f'id="{part}"' in page
    assert checker.tags["svg"] >= 8 and checker.tags["script"] == 0
    assert "nan" not in re.sub('base64,[^"]*', "", page)


def test_the_best_the_median_and_the_worst():
    assert best_median_worst(np.array([3.0, 1.0, np.nan, 2.0])) == {"best": 1, "median": 3, "worst": 0}
    assert best_median_worst(np.array([5.0])) == {"best": 0, "median": 0, "worst": 0}


def test_only_what_is_asked_for(oracle, episodes):
    asked = ["fidelity", "physics"]
    result = evaluate(oracle, episodes, simulator=False, parts=asked, windows=50, quick=True, horizon=2)
    assert "physics" not in result and "simulator=false" in result["skipped"]["physics"]
    assert result["windows"] == 24 and result["fidelity"]["world"]["2"]["count"] == 24
    with pytest.raises(ValueError, match="colour"):
        evaluate(oracle, episodes, parts=["colour"])


def test_any_lerobot_set_can_be_measured_without_a_simulator(tmp_path):
    dataset = grey_episodes(tmp_path / "grey")
    asked = [part for part in PARTS if part != "speed"]
    result = evaluate(StillWorld(), dataset, parts=asked, windows=6, horizon=7, out=tmp_path / "out")
    assert {"fidelity", "action_shuffle", "calibration", "films"} <= set(result)
    assert set(result["skipped"]) == {"physics", "counterfactual", "policy_ranking", "planning", "trust"}
    assert "no trust calibration" in result["skipped"]["trust"]
    # it expects what it last saw, and that is what the last frame says
    for step, row in result["fidelity"]["world"].items():
        assert row["mean"] == pytest.approx(result["fidelity"]["copy_last_frame"][step]["mean"], abs=1e-3)
    reward = result["calibration"]["reward"]
    assert reward["mae"]["readout"]["mean"] < 1 / 255  # labels belong to the frame that follows them
    # levels grow by 2 to 5 a step, so by 4 times 2 to 5 in the mean over 7 steps
    assert 4 * 2 / 255 < reward["mae"]["world"]["mean"] < 4 * 5 / 255
    page = (tmp_path / "out" / "report.html").read_text()
    assert Checker.of(page).problems == [] and "&lt;b&gt;still&lt;/b&gt;" in page and "<b>still" not in page
    assert page.count("data:image/png;base64,") == 3
    assert "trust" in printed(result)


def test_a_simulator_that_is_not_recorded_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no 'observation.sim_state'"):
        evaluate(StillWorld(), grey_episodes(tmp_path / "grey"), simulator=True)


def test_what_is_measured_is_kept_when_a_part_fails(tmp_path, monkeypatch):
    def fails(study):
        raise KeyboardInterrupt

    monkeypatch.setitem(parts.MEASURES, "calibration", fails)
    with pytest.raises(KeyboardInterrupt):
        evaluate(StillWorld(), grey_episodes(tmp_path / "grey"), windows=3, horizon=5, out=tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "fidelity" in kept and "speed" not in kept
    assert "What it shows" in (tmp_path / "out" / "report.html").read_text()


def test_trust_is_measured_where_the_world_carries_it(tmp_path, monkeypatch):
    import sys
    from types import ModuleType

    class Trusting(StillWorld):
        signal_names = ("disagreement",)

    seen = {}

    def trust_correlation(world, dataset, episodes, **options):
        seen.update(options)
        value = {"mean": 0.8, "low": 0.7, "high": 0.9}
        row = {"spearman": value, "spearman_within_step": value, "auroc": value, "exceeds": 0.1}
        counted = {**row, "auroc": {"mean": 0.6, "low": 0.5, "high": 0.7}}
        error = {"unit": "px", "above": 20.0, "mean": 4.0}
        top = {"rows": {"disagreement": row, "drift": {**row, "auroc": None}}, "baseline": {"elapsed_steps": counted}}
        return {**top, "error": error, "sets": {"recorded": top, "latent": top, "mixed": top}}

    module = ModuleType("sana_wm.evaluation.trust")
    module.trust_correlation = trust_correlation
    monkeypatch.setitem(sys.modules, "sana_wm.evaluation.trust", module)
    dataset = grey_episodes(tmp_path / "grey")
    result = evaluate(Trusting(), dataset, parts=["trust"], windows=4, horizon=5, out=tmp_path / "out")
    assert seen["windows"] == 4 and seen["horizon"] == 5 and seen["task"] is None
    text = printed(result)
    assert "AUROC" in text and "0.80" in text and "0.60" in text and "elapsed steps" in text
    assert Checker.of((tmp_path / "out" / "report.html").read_text()).problems == []


def test_json_has_no_number_that_is_none():
    assert finite({1: [math.nan, 2.0], "a": (math.inf,)}) == {"1": [None, 2.0], "a": [None]}


def test_state_bytes(oracle):
    assert state_bytes(oracle, (3, 5)) == {"3": 80, "5": 80}
