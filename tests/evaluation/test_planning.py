import numpy as np
import pytest

from sana_wm.agents.cem import CEMConfig
from sana_wm.evaluation.pairs import agent_reached, block_reached, cut_pairs, recorded_trajectories
from sana_wm.evaluation.plan_video import imagined_frames, plan_video
from sana_wm.evaluation.planning import (
    PlanningConfig,
    Run,
    check_world,
    fixed_actions,
    planning_config,
    planning_table,
    run_actions,
    run_in_simulator,
    run_in_world,
    success,
)
from sana_wm.evaluation.pusht_task import TASK
from tests.evaluation.oracle_world import OracleWorld

CHEAP = PlanningConfig(search=CEMConfig(samples=24, iterations=4, elites=4, initial_std=80.0), lanes=96)


@pytest.fixture(scope="module")
def pairs(episodes):
    return cut_pairs(recorded_trajectories(episodes, range(8)), 8, context=2)


def test_pairs_are_moments_in_which_the_block_moves(episodes, pairs):
    assert not block_reached(pairs.starts, pairs.goals).any()
    assert pairs.states.shape == (8, 2, 10) and pairs.actions_before.shape == (8, 1, 2)
    assert len(np.unique(pairs.starts, axis=0)) == 8
    with pytest.raises(ValueError, match="hold only"):
        cut_pairs(recorded_trajectories(episodes, range(8)), 10_000)


def test_replay_reaches_the_goal_exactly_and_staying_does_not(pairs):
    actions = fixed_actions(pairs, 50)
    assert {name: a.shape for name, a in actions.items()} == dict.fromkeys(actions, (8, 50, 2))
    replayed = run_actions(pairs, actions["replay"])
    assert np.abs(replayed.states[:, 24] - pairs.goals).max() < 1e-6
    assert success(replayed, pairs)["block_and_agent"].all()
    assert not success(run_actions(pairs, actions["zero_action"]), pairs)["block"].any()


def test_success_needs_position_and_angle_and_for_both_the_same_step():
    goal = np.zeros(10)
    near, far, turned, agent_far = (goal.copy() for _ in range(4))
    near[4:7] = 14, 14, np.deg2rad(-19 + 360)
    far[4:6], turned[6], agent_far[0] = (15, 14), np.deg2rad(21), 21
    assert block_reached(np.stack([near, far, turned]), goal).tolist() == [True, False, False]
    assert agent_reached(np.stack([near, agent_far]), goal).tolist() == [True, False]
    far_with_agent = far.copy()
    never_together = Run(np.stack([agent_far, far_with_agent])[None])

    class OnePair:
        goals = goal[None]

    assert {k: v.item() for k, v in success(never_together, OnePair).items()} == {
        "block": True,
        "block_and_agent": False,
    }


def test_planning_beats_the_baselines_and_frames_do_nearly_as_well_as_states(oracle, pairs):
    in_simulator, in_world = run_in_simulator(pairs, CHEAP), run_in_world(oracle, pairs, CHEAP)
    random = success(run_actions(pairs, fixed_actions(pairs, 50)["random"]), pairs)["block"].mean()
    for run in (in_simulator, in_world):
        assert run.states.shape == (8, 50, 10) and run.seconds_per_plan > 0
        assert success(run, pairs)["block"].mean() >= random + 0.25
    assert len(in_world.agents) == 2  # 96 lanes hold four pairs of 24 samples


def test_a_pair_does_not_depend_on_its_batch(pairs):
    few = PlanningConfig(search=CHEAP.search, budget=25, lanes=24)
    many = PlanningConfig(search=CHEAP.search, budget=25, lanes=96)
    assert np.array_equal(run_in_simulator(pairs[:3], few).states, run_in_simulator(pairs[:3], many).states)


def test_planning_in_the_world_can_be_cut_short_and_says_so(oracle, pairs):
    hasty = PlanningConfig(search=CEMConfig(samples=4, iterations=1, elites=1), lanes=8, minutes=0.0)
    rows = planning_table(oracle, pairs, hasty)["rows"]
    assert {name: row["block"]["trials"] for name, row in rows.items()} == {
        "zero_action": 8, "random": 8, "replay": 8, "cem_simulator": 8, "cem_world": 2
    }  # fmt: skip


def test_table_has_every_row(pairs):
    rows = planning_table(None, pairs[:2], CHEAP)["rows"]
    assert list(rows) == ["zero_action", "random", "replay", "cem_simulator"]
    assert rows["replay"]["block"]["rate"] == 1.0 and rows["replay"]["block"]["trials"] == 2


def test_video_shows_goal_real_and_imagined(oracle, pairs):
    some, cheap = pairs[:2], PlanningConfig(search=CEMConfig(samples=8, iterations=1, elites=2), budget=50)
    run = run_in_world(oracle, some, cheap)
    imagined = imagined_frames(oracle, run, cheap.budget)
    assert imagined.shape == (2, 50, 64, 64, 3)
    goals, real, reached = TASK.drawn(run, some, 2, 64)
    assert goals.shape == (2, 64, 64, 3) and real.shape == (2, 51, 64, 64, 3) and reached.shape == (2, 51)
    video = plan_video(goals, real, imagined, reached, "a title")
    assert len(video) == 51 + 10 and all(side % 2 == 0 for side in video[0].shape[:2])
    # The oracle begins with an agent at rest, so that its first frames are close to, not equal to, the real ones.
    assert np.abs(real[:, 1].astype(int) - imagined[:, 0]).mean() < 1


def test_worlds_of_something_else_are_refused(oracle):
    other = OracleWorld()
    other.config.proprio_names = ["joint_0"]
    with pytest.raises(ValueError, match="joint_0"):
        check_world(other)
    with pytest.raises(ValueError, match="context=2"):
        run_in_world(oracle, cut_pairs([(np.arange(600.0).reshape(60, 10), np.zeros((60, 2)))], 1), CHEAP)


def test_other_planners_have_rows_at_the_same_budget(pairs):
    hasty = PlanningConfig(search=CEMConfig(samples=6, iterations=2, elites=2), budget=2)
    rows = planning_table(None, pairs[:2], hasty, planners=("cem", "icem", "random", "gradient"))["rows"]
    assert list(rows)[3:] == ["cem_simulator", "icem_simulator", "random_simulator"]  # a simulator has no gradient
    assert all(hasty.of(name).search.rollouts <= 12 for name in ("icem", "random", "mppi"))
    assert hasty.of("mppi").search.horizon == 25 and hasty.of("cem") is hasty


def test_settings_of_a_file_leave_the_rest_at_its_default():
    settings = {"name": "icem", "search": {"samples": 30, "knots": None, "beta": 1.0}, "lanes": 60, "budget": None}
    config = planning_config(settings)
    assert (config.search.samples, config.search.beta, config.search.knots) == (30, 1.0, 5)
    assert (config.budget, config.lanes, config.pairs_at_once) == (50, 60, 2)
    assert planning_config({"search": {}}) == PlanningConfig()
    with pytest.raises(ValueError, match="expected one of"):
        planning_config({"name": "genetic", "search": {}})
