"""Counterfactual response: one for the truth, zero for what is the same whatever one does."""

import numpy as np
import pytest
import torch

from sana_wm.evaluation.counterfactual import counterfactual, r2_within
from sana_wm.evaluation.pusht import TASK
from sana_wm.evaluation.windows import cut_windows
from tests.evaluation.oracle_world import OracleState, OracleWorld


@pytest.fixture(scope="module")
def windows(episodes):
    return cut_windows(episodes, range(8), count=5, context=2, horizon=3, camera="observation.image")


def test_r2_by_hand():
    truth = np.array([[[0.0], [2.0]], [[10.0], [14.0]]])  # about the groups' means: 1 + 1 + 4 + 4
    assert r2_within(truth, truth)["r2"] == 1
    assert r2_within(np.repeat(truth.mean(1, keepdims=True), 2, axis=1), truth)["r2"] == 0
    assert r2_within(truth + 1, truth)["r2"] == pytest.approx(1 - 4 / 10)
    assert r2_within(truth, np.ones_like(truth)) == {"r2": None, "low": None, "high": None}


def test_angles_are_compared_the_shorter_way_round():
    truth = np.array([[[3.0], [-3.0]]])
    assert r2_within(truth + 2 * np.pi, truth, angle=True)["r2"] == pytest.approx(1)
    assert r2_within(truth + 2 * np.pi, truth)["r2"] < 0


class Knowing(OracleWorld):
    """Knows the whole state behind a frame: velocities cannot be seen, and contacts magnify what is misread."""

    def __init__(self, windows):
        super().__init__()
        seen = windows.frames[:, windows.context - 1], windows.sim_states[:, windows.context - 1]
        self._states = {frame.tobytes(): state for frame, state in zip(*seen, strict=True)}

    def begin(self, frames, actions=None, prompt=None, seeds=None):
        states = np.stack([self._states[frame.tobytes()] for frame in frames[:, -1]])
        return OracleState(torch.from_numpy(states)[..., None, None])


def test_the_simulator_itself_foresees_everything(windows):
    measured = counterfactual(Knowing(windows), TASK, windows, lanes=48)
    rows = measured["rows"]
    assert measured["states"] == 5 and 0 < measured["moved"]["block_px"] < 1
    for thing in ("agent_px", "block_px", "block_degrees"):
        assert rows["world"][thing]["r2"] > 0.99 and rows["world_readout"][thing]["r2"] > 0.9999
        assert rows["readout_floor"][thing]["r2"] > 0.99 and rows["decoder_floor"][thing]["r2"] > 0.99
        assert rows["ignores_actions"][thing] == {"r2": 0.0, "low": None, "high": None}
        assert rows["copy_last_frame"][thing]["r2"] <= 0
        assert rows["world"][thing]["low"] <= rows["world"][thing]["r2"] <= rows["world"][thing]["high"]


def test_a_world_that_ignores_actions_foresees_nothing(windows):
    rows = counterfactual(OracleWorld(ignores_actions=True), TASK, windows)["rows"]
    assert rows["world"]["agent_px"]["r2"] <= 0 and rows["world_readout"]["block_px"]["r2"] <= 0.01
