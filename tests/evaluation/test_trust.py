import json
from types import SimpleNamespace

import numpy as np
import pytest

from sana_wm.data import LeRobotDataset
from sana_wm.evaluation import trust
from sana_wm.evaluation.trust import auroc, ranks, spearman, trust_correlation, trust_table
from sana_wm.world.trust import SIGNALS
from sana_wm.world.trust_calibration import Clips, calibrate
from tests.world.tiny import CONTEXT, tiny_actions, tiny_frames, tiny_world, write_dots


def test_ranks_and_correlations_of_small_cases():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0, 2.5, 1]
    a = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    # by hand: 1 - 6 sum d^2 / (n (n^2 - 1)) with d = (1, -1, 0, 1, -1)
    assert spearman(a, np.array([2.0, 1.0, 3.0, 50.0, 4.0])) == pytest.approx(1 - 6 * 4 / 120)
    both = np.stack([a, -a, np.ones(5)], axis=1)
    assert spearman(both, np.stack([np.exp(a)] * 3, axis=1)).tolist() == pytest.approx([1, -1, 0])
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75
    assert auroc(np.ones(5), a > 2) == 0.5 and np.isnan(auroc(a, a > 9))


def test_time_alone_says_nothing_at_the_same_step():
    """Errors that grow with time: who counts steps ranks them, and only who knows them ranks those of one step."""
    rng = np.random.default_rng(0)
    steps = np.arange(1.0, 12)
    error = steps * rng.uniform(0.5, 1.5, (60, 1)) + 0.1 * rng.random((60, 11))
    signals = {
        "knows": 3 * error**2,
        "noise": rng.random(error.shape),
        "elapsed_steps": np.broadcast_to(steps, error.shape),
        "moved": -error,
    }
    result = trust._measured([signals], [error], "px", above=6.0)
    knows, noise, elapsed = result["rows"]["knows"], result["rows"]["noise"], result["baseline"]["elapsed_steps"]
    assert all(knows[key]["mean"] == pytest.approx(1) for key in ("spearman", "spearman_within_step", "auroc"))
    assert result["baseline"]["moved"]["auroc"]["mean"] == pytest.approx(0)
    assert elapsed["spearman"]["mean"] > 0.8 and elapsed["spearman_within_step"]["mean"] == 0
    for key, nothing in (("spearman", 0), ("spearman_within_step", 0), ("auroc", 0.5)):
        assert noise[key]["low"] < nothing < noise[key]["high"]
        assert noise[key]["low"] < noise[key]["mean"] < noise[key]["high"]
    assert knows["exceeds"] == np.mean(3 * error**2 > 1)


def test_without_bad_steps_there_is_no_auroc():
    signals = {name: np.random.default_rng(1).random((5, 3)) for name in ("some", "elapsed_steps", "moved")}
    result = trust._measured([signals], [np.ones((5, 3)) * 0.1], "px", above=1.0)
    assert result["rows"]["some"]["auroc"] is None and result["error"]["share_above"] == 0
    trust_table(result)


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    return LeRobotDataset(write_dots(tmp_path_factory.mktemp("dots") / "data", length=14))


@pytest.fixture(scope="module")
def world():
    world = tiny_world()
    codec = type(world.codec)(("dx", "dy"), (-3.0, -3.0), (3.0, 3.0), (0.0, 0.0), (2.0, 2.0), "cells")
    object.__setattr__(world.config, "codec", codec)
    world.codec = codec
    actions = tiny_actions(9, CONTEXT + 3) % 3
    clips = Clips(tiny_frames(9, CONTEXT + 4), actions, CONTEXT)
    world.trust = calibrate(world, clips, clips)
    return world


def test_a_world_is_measured_without_a_simulator(world, dots):
    result = trust_correlation(world, dots, range(4, 8), windows=7, horizon=5)
    assert json.loads(json.dumps(result)) == result
    assert set(result["rows"]) == set(SIGNALS) and set(result["baseline"]) == {"elapsed_steps", "moved"}
    assert list(result["sets"]) == ["latent"] and result["windows"] == 7
    for row in (*result["rows"].values(), *result["baseline"].values()):
        for key in ("spearman", "spearman_within_step", "auroc"):
            assert row[key]["low"] <= row[key]["high"] and -1 <= row[key]["mean"] <= 1
    again = trust_correlation(world, dots, range(4, 8), windows=7, horizon=5, lanes=3)
    for name in SIGNALS:  # whoever shares the batch
        assert again["rows"][name]["spearman"]["mean"] == pytest.approx(
            result["rows"][name]["spearman"]["mean"], abs=0.02
        )


def test_what_cannot_be_measured_is_refused(world, dots):
    from sana_wm.evaluation.tworoom import TASK

    with pytest.raises(ValueError, match="sim_state"):
        trust_correlation(world, dots, range(4, 8), task=TASK)
    recorded = SimpleNamespace(features={"observation.sim_state": {}})
    with pytest.raises(ValueError, match="says nothing of"):
        trust_correlation(world, recorded, range(4, 8), task=TASK)
    with pytest.raises(ValueError, match="calibrate"):
        trust_correlation(tiny_world(), dots, range(4, 8))


def test_unusual_actions_stay_in_the_space(world, dots):
    cut = trust.cut_windows(
        dots, range(8), count=6, context=CONTEXT, horizon=7, camera="observation.image", resolution=(32, 32)
    )
    actions = trust.unusual_actions(world, cut, seed=0)
    assert actions.shape == cut.future_actions.shape and (np.abs(actions) <= 3).all()
    corners = (np.abs(actions) == 3).all(axis=(1, 2))
    assert corners.tolist() == [False, True] * 3
    assert (actions[1::2, 0:5] == actions[1::2, :1]).all() and (actions[0::2, 0] != actions[0::2, 1]).all()
