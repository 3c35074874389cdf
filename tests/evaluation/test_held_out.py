"""Held-out episodes: never those that the world was trained on, and fresh ones where none are at hand."""

import shutil

import numpy as np
import pytest

from sana_wm.collect import collect
from sana_wm.data import LeRobotDataset
from sana_wm.evaluation.held_out import FRESH_SEED, held_out, trained_on
from sana_wm.evaluation.run import evaluate_bundle
from sana_wm.world.bundle import locate

HOW = {"simulator": "tworoom", "mix": {"expert": 1.0}, "near_goal": 0.0, "steps": 9, "seed": 3}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return collect(tmp_path_factory.mktemp("data") / "rooms", episodes=6, workers=0, **HOW)


def made_of(root="nowhere", **changes):
    return {"name": "rooms", "root": str(root), "collect": {**HOW, "episodes": 6, **changes}}


def test_the_worlds_own_dataset_is_taken_where_it_is(recorded, tmp_path):
    dataset, chosen, words = held_out(made_of(recorded), None, "test", tmp_path)
    assert dataset.root == recorded and list(chosen) == [5] and "test split" in words


def test_fresh_episodes_are_recorded_where_it_is_not(tmp_path):
    dataset, chosen, words = held_out(made_of(), None, "test", tmp_path, episodes=3)
    assert list(chosen) == [0, 1, 2] and dataset.num_episodes == 3 and str(FRESH_SEED) in words
    again, _, _ = held_out(made_of(), None, "test", tmp_path, episodes=3)
    assert np.array_equal(again.episode(1)["action"], dataset.episode(1)["action"])
    other, _, _ = held_out(made_of(), None, "test", tmp_path / "other", episodes=3, seed=1)
    assert not np.array_equal(other.episode(1)["action"], dataset.episode(1)["action"])


def test_episodes_that_trained_the_world_are_refused(recorded, tmp_path):
    longer = made_of(recorded, episodes=600)
    assert trained_on(longer, LeRobotDataset(recorded), [4, 5]) == [4, 5]
    assert trained_on(made_of(recorded, episodes=600, seed=4), LeRobotDataset(recorded), [4, 5]) == []
    with pytest.raises(ValueError, match="trained on"):
        held_out(longer, recorded, "test", tmp_path)
    dataset, _, words = held_out(longer, None, "test", tmp_path, episodes=3)  # its own, but too short: fresh ones
    assert dataset.root != recorded and "fresh" in words


def test_without_data_and_simulator_it_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match="pass dataset="):
        held_out({"name": "arm", "root": "data/arm"}, None, "test", tmp_path)


def test_a_shipped_world_is_evaluated_without_its_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(locate("tworoom-64"), "bundle")
    result = evaluate_bundle(
        "bundle", None, "out", quick=True, parts=["calibration", "policy_ranking"], device="cpu", windows=5,
        policy_starts=2, policy_horizon=8, show_progress=False, card=True,
    )  # fmt: skip
    card = (tmp_path / "bundle" / "card.md").read_text()
    assert "## Measured" in card and "correlation of imagined with real return" in card
    assert result["about"]["simulator"] == "tworoom" and len(result["policy_ranking"]["policies"]) == 9
    assert result["calibration"]["reward"]["r2"]["readout"]["mean"] > 0.9
    assert "12 fresh episodes of tworoom" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").is_file()
    with pytest.raises(ValueError, match="training episodes"):
        evaluate_bundle("tworoom-64", None, "out", split="train")
    with pytest.raises(ValueError, match="bundle folder"):
        evaluate_bundle("tworoom-64", None, "out", card=True)
