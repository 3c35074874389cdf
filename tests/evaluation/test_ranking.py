"""Policy ranking: agreement by hand, and the simulator as its own imagination."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sana_wm.evaluation import pusht, tworoom
from sana_wm.evaluation.ranking import agreement, check_world, mae, mmrv, pearson, policy_ranking, share, spearman
from tests.evaluation.oracle_world import OracleWorld

REAL = np.array([0.1, 0.4, 0.5, 0.9])


def test_measures_by_hand():
    assert pearson(2 * REAL + 1, REAL) == pytest.approx(1) and pearson(-REAL, REAL) == pytest.approx(-1)
    assert spearman(np.exp(5 * REAL), REAL) == pytest.approx(1)
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(np.sqrt(0.75))  # a tie
    assert np.isnan(pearson(np.ones(4), REAL))
    assert mmrv(REAL**3, REAL) == 0
    swapped = REAL[[0, 2, 1, 3]]  # the middle two, 0.1 apart, are ordered wrongly
    assert mmrv(swapped, REAL) == pytest.approx((0.1 + 0.1) / 4)
    assert mmrv(REAL[::-1], REAL) == pytest.approx((0.8 + 0.5 + 0.4 + 0.8) / 4)
    assert mae(REAL + 0.25, REAL) == pytest.approx(0.25)


def test_agreement_is_of_means_and_its_interval_of_starts():
    rng = np.random.default_rng(0)
    real = REAL[:, None] + rng.normal(0, 0.1, (4, 30))
    perfect = agreement(real, real)
    assert perfect["pearson"]["value"] == pytest.approx(1) and perfect["mmrv"]["high"] == 0
    noisy = agreement(real + rng.normal(0, 0.3, real.shape), real)
    assert noisy["mae"]["low"] <= noisy["mae"]["value"] <= noisy["mae"]["high"]
    flat = agreement(np.full_like(real, real.mean()), real)
    assert flat["spearman"] == flat["pearson"] == {"value": None, "low": None, "high": None}
    assert agreement(np.ones((4, 3)), np.ones((4, 3)))["pearson"] == {"value": None, "low": None, "high": None}


def test_share_by_hand():
    said = np.array([[True, False, True], [True, True, False]])
    among = np.array([[True, True, False], [True, False, False]])
    assert share(said, among)["value"] == pytest.approx(2 / 3) and share(said, among)["cases"] == 3
    assert share(said, np.zeros_like(said))["value"] is None


def few(task, names):
    return replace(task, policies={name: task.policies[name] for name in names})


def test_the_simulator_ranks_as_it_does_itself(oracle):
    task = few(pusht.TASK, ["skill 0.00", "skill 0.45", "skill 1.00"])
    measured = policy_ranking(oracle, task, starts=3, horizon=25)
    rows = measured["rows"]
    assert rows["world"]["return"]["spearman"]["value"] > 0.99 and rows["world"]["return"]["mae"]["value"] < 0.05
    assert rows["constant"]["return"]["pearson"]["value"] is None
    assert rows["constant"]["return"]["mae"]["value"] > rows["world"]["return"]["mae"]["value"]
    skilled, aimless = (measured["policies"][name]["real"]["return"] for name in ("skill 1.00", "skill 0.00"))
    assert skilled > aimless
    again = policy_ranking(oracle, task, starts=3, horizon=25)
    assert again == measured  # nothing in it is left to chance


def test_a_world_in_which_nothing_helps_does_not_rank():
    task = few(pusht.TASK, ["skill 0.00", "skill 1.00"])
    rows = policy_ranking(OracleWorld(ignores_actions=True), task, starts=2, horizon=25)["rows"]
    assert rows["world"]["return"]["mae"]["value"] > 0.02


@pytest.mark.parametrize("task", [pusht.TASK, tworoom.TASK], ids=lambda task: task.name)
def test_starts_are_unsolved_and_skill_is_graded(task):
    from sana_wm.evaluation.ranking import _begin, _real

    begin = [_begin(task, 3, 0, number) for number in range(8)]
    for states, actions in begin:
        assert states.shape == (3, len(task.state_names)) and actions.shape == (2, 2)
        assert not task.outcome(states)[1].any()
    graded = few(task, [list(task.policies)[0], list(task.policies)[-1]])
    returns = _real(graded, begin, 40, 0, "", False)["return"].mean(axis=1)
    assert returns[1] > returns[0]


def test_a_world_that_cannot_be_ranked_by_is_told_why():
    blind = SimpleNamespace(config=SimpleNamespace(has_reward=False, has_success=False, proprio_names=()))
    with pytest.raises(ValueError, match="predicts neither"):
        check_world(blind, pusht.TASK)
