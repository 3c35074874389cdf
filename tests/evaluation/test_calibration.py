"""Calibration: scores by hand, zero for the truth, the base rate's for a coin, and intervals that stay in range."""

import numpy as np
import pytest

from sana_wm.evaluation.calibration import (
    calibration,
    confusion,
    expected_calibration_error,
    r2,
    reliability,
)
from sana_wm.evaluation.windows import Imagined, Windows


def some_windows(labels: dict[str, np.ndarray], context: int = 2) -> Windows:
    count, steps = next(iter(labels.values())).shape
    frames = np.zeros((count, steps + 1, 8, 8, 3), np.uint8)
    return Windows(frames, np.zeros((count, steps, 2), np.float32), None, context, labels)


def saying(windows: Windows, **outcomes: np.ndarray) -> Imagined:
    return Imagined(windows.future, np.zeros((len(windows), windows.horizon, 1, 1, 1)), None, outcomes)


@pytest.fixture
def labelled():
    rng = np.random.default_rng(3)
    success = np.repeat(rng.random((40, 1)) < 0.3, 7, axis=1).astype(float)
    success[::3, 4:] = 1.0
    return some_windows({"success": success, "reward": rng.normal(size=(40, 7))})


def test_ece_and_bins_by_hand():
    said, true = np.array([[0.2, 0.2, 0.9, 0.9]]), np.array([[0.0, 1.0, 1.0, 1.0]])
    assert expected_calibration_error(said, true)["mean"] == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)
    low, high = reliability(said, true)
    assert (low["said"], low["true"], low["cases"]) == pytest.approx((0.2, 0.5, 2))
    assert high["true"] == 1.0 and 0 <= high["low"] < high["high"] == 1.0
    assert reliability(np.array([[1.0]]), np.array([[1.0]]))[0]["cases"] == 1  # one is in the last bin


def test_confusion_by_hand():
    got = confusion(np.array([0.2, 0.2, 0.9, 0.9]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert [got[k] for k in ("true_positive", "false_positive", "false_negative", "true_negative")] == [1, 1, 1, 1]
    assert got["false_positive_rate"] == got["false_negative_rate"] == 0.5
    assert confusion(np.zeros(3), np.zeros(3))["false_negative_rate"] is None


def test_r2_by_hand():
    truth = np.array([[0.0, 2.0], [4.0, 6.0]])  # variance about 3: 9 + 1 + 1 + 9
    assert r2(truth, truth)["mean"] == 1 and r2(np.full_like(truth, 3.0), truth)["mean"] == pytest.approx(0)
    assert r2(truth + 1, truth)["mean"] == pytest.approx(1 - 4 / 20)
    assert r2(truth, np.ones_like(truth))["mean"] is None


def test_the_truth_is_perfect_and_a_coin_is_not(labelled):
    truth = {what: labels[:, 1:] for what, labels in labelled.labels.items()}
    coin = {"success": np.full_like(truth["success"], 0.5), "reward": truth["reward"] + 0.25}
    measured = calibration(labelled, saying(labelled, **coin), saying(labelled, **truth))
    success, reward = measured["success"], measured["reward"]
    assert success["brier"]["readout"]["mean"] == 0 and success["ece"]["readout"]["mean"] == 0
    assert success["brier"]["world"]["mean"] == pytest.approx(0.25)
    rate = truth["success"].mean()
    assert success["brier"]["base_rate"]["mean"] == pytest.approx(rate * (1 - rate))
    assert success["ece"]["base_rate"]["mean"] == pytest.approx(0)
    assert reward["mae"]["world"]["mean"] == pytest.approx(0.25) and reward["r2"]["readout"]["mean"] == 1
    assert reward["r2"]["base_rate"] == {"mean": 0.0, "low": None, "high": None}
    always = np.full_like(truth["reward"], truth["reward"].mean())
    assert r2(always, truth["reward"])["mean"] == pytest.approx(0)
    assert expected_calibration_error(0 * always + rate, truth["success"])["mean"] == pytest.approx(0)
    assert reward["by_step"]["world"]["5"]["mean"] == pytest.approx(0.25)


def test_copying_says_what_was_last_true(labelled):
    labels = labelled.labels["success"]
    copied = calibration(labelled, saying(labelled, success=labels[:, 1:]), saying(labelled, success=labels[:, 1:]))
    expected = np.square(labels[:, :1] - labels[:, 1:]).mean()
    assert expected > 0 and copied["success"]["brier"]["copy_last_frame"]["mean"] == pytest.approx(expected)
    alone = some_windows({"success": labels}, context=1)
    said = saying(alone, success=labels)
    assert "copy_last_frame" not in calibration(alone, said, said)["success"]["brier"]


def test_intervals_stay_in_range_however_rare_the_event():
    labels = np.zeros((60, 6))
    labels[0, 3:] = 1
    windows = some_windows({"success": labels})
    rare = calibration(
        windows, saying(windows, success=0.1 + 0 * labels[:, 1:]), saying(windows, success=labels[:, 1:])
    )
    for score in ("brier", "ece"):
        for name, entry in rare["success"][score].items():
            if (score, name) != ("ece", "base_rate"):
                assert 0 <= entry["low"] <= entry["mean"] <= entry["high"] <= 1


def test_what_the_world_does_not_say_is_not_judged(labelled):
    said = saying(labelled, reward=labelled.labels["reward"][:, 1:])
    assert set(calibration(labelled, said, said)) == {"reward"}
