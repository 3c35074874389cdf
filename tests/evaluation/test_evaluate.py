import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sana_wm.agents.cem import CEMConfig
from sana_wm.evaluation import evaluate
from sana_wm.evaluation.planning import PlanningConfig
from sana_wm.evaluation.report import print_report
from sana_wm.evaluation.speed import state_bytes

MEASURED = ["fidelity", "physics", "action_shuffle", "planning"]


def test_measures_writes_and_prints_everything(oracle, episodes, tmp_path):
    planning = PlanningConfig(search=CEMConfig(samples=8, iterations=1, elites=2))
    result = evaluate(
        oracle, episodes, episodes=range(4, 8), parts=MEASURED, windows=5, pairs=2, planning=planning, out=tmp_path
    )
    assert set(MEASURED) < set(result)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    assert result["planning"]["rows"]["cem_world"]["block"]["trials"] == 2
    with Image.open(tmp_path / "film.png") as film:
        assert np.asarray(film).std() > 10 and film.size[0] > 800
    text = io.StringIO()
    print_report(result, Console(file=text, width=80))
    for words in ("copy last frame", "decoder's own", "CEM, true simulator", "block and agent"):
        assert words in text.getvalue()
    assert "…" not in text.getvalue()  # fits a terminal of 80 columns


def test_only_what_is_asked_for(oracle, episodes):
    result = evaluate(
        oracle, episodes, simulator=False, parts=["fidelity", "physics"], windows=50, quick=True, horizon=2
    )
    assert "physics" not in result and result["windows"] == 24
    with pytest.raises(ValueError, match="colour"):
        evaluate(oracle, episodes, parts=["colour"])


def test_state_bytes(oracle):
    assert state_bytes(oracle, (3, 5)) == {"3": 80, "5": 80}
