"""Measuring TwoRoom worlds: pairs are honest, the ceiling is one, errors are zero for the truth and only for it."""

from types import SimpleNamespace

import numpy as np
import pytest

from sana_wm.collect import record_episode
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_physics import SIDE, path_length, random_state
from sana_wm.evaluation.tworoom import is_tworoom
from sana_wm.evaluation.tworoom_card import tworoom_lines
from sana_wm.evaluation.tworoom_outcomes import calibration, outcome_errors
from sana_wm.evaluation.tworoom_pairs import cut_tworoom_pairs, goal_reached
from sana_wm.evaluation.tworoom_physics import tworoom_errors
from sana_wm.evaluation.tworoom_planning import (
    check_world,
    planning_table,
    predicted_reward,
    run_in_simulator,
    run_in_world,
)
from sana_wm.evaluation.windows import Imagined, Windows
from sana_wm.world import WorldModel

CONTEXT, HORIZON = 3, 10


def episodes(count: int, steps: int = 16) -> list[dict]:
    settings = {"seed": 11, "steps": steps, "mix": {"expert": 0.5, "mixed": 0.5}, "near_goal": 0.2}
    return [record_episode(index=i, simulator="tworoom", **settings)[0] for i in range(count)]


def trajectories(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(e["observation.sim_state"], e["action"]) for e in episodes(count)]


@pytest.fixture(scope="module")
def windows() -> Windows:
    rows, length = episodes(9), CONTEXT + HORIZON
    cut = [[e[key][:length] for e in rows] for key in ("observation.image", "action", "observation.sim_state")]
    frames, actions, states = map(np.stack, cut)
    return Windows(frames, actions[:, :-1], states, CONTEXT)


def test_pairs_are_unsolved_and_as_mixed_as_asked():
    recorded = trajectories(12)
    pairs = cut_tworoom_pairs(recorded, 20, context=CONTEXT, cross_share=0.6, seed=1)
    assert len(pairs) == 20 and pairs.cross.sum() == 12
    assert not goal_reached(pairs.starts).any() and goal_reached(pairs.at_goal).all()
    env = TwoRoomEnv()
    for states, actions in zip(pairs.states, pairs.actions_before, strict=True):
        np.testing.assert_array_equal(env.simulate(states[0], actions), states[1:])
    starts = {tuple(start) for start in pairs.starts}
    assert len(starts) > 17  # moments differ; an agent may stand still
    with pytest.raises(ValueError, match="hold only .* were asked for"):
        cut_tworoom_pairs(recorded[:1], 50)


def test_the_simulator_is_the_ceiling_and_floors_are_low():
    pairs = cut_tworoom_pairs(trajectories(12), 12, context=CONTEXT, seed=0)
    rows = planning_table(None, pairs, ("reward",))["rows"]
    assert rows["cem_simulator_reward"]["all"]["rate"] == 1.0 and rows["zero_action"]["all"]["rate"] == 0.0
    assert rows["random"]["other_room"]["rate"] < 0.5
    assert rows["random"]["other_room"]["trials"] == 9
    assert goal_reached(run_in_simulator(pairs[:4], "image").states).any(axis=1).mean() > 0.5


def test_true_frames_have_no_physical_error(windows):
    states = windows.future_states
    proprio = states.astype(np.float32)
    true = Imagined(windows.future, np.zeros((9, HORIZON, 1, 1, 1)), proprio)
    errors = tworoom_errors(windows, true, true)
    for step in ("1", "5", "10"):
        for thing in ("agent", "door", "goal"):
            assert errors["world"][step][thing]["mean"] < 0.1
            assert errors["world_readout"][step][thing]["mean"] < 1e-4
        assert errors["world"][step]["agent_found"] == 1.0
    assert errors["copy_last_frame"]["10"]["agent"]["mean"] > 3
    moved = Imagined(windows.future, true.latents, proprio + np.float32([3, 4, 2, 0, 1]))
    off = tworoom_errors(windows, moved, true)["world_readout"]["5"]
    assert [off[k]["mean"] for k in ("agent", "door", "goal")] == pytest.approx([5, 2, 1], abs=1e-4)


def test_outcomes_of_the_truth_are_perfect_and_of_a_coin_are_not(windows):
    reward = -path_length(windows.future_states) / SIDE
    arrived = goal_reached(windows.future_states).astype(float)
    assert 0 < arrived.mean() < 1
    truth = {"reward": reward, "terminated": arrived, "success": arrived}
    coin = {"reward": reward + 0.25, "terminated": np.full_like(arrived, 0.5), "success": 1 - arrived}
    errors = outcome_errors({"imagined": coin, "read": truth}, windows)
    assert errors["reward"]["readout"]["5"]["mean"] == 0 and errors["success"]["brier"]["readout"]["10"]["mean"] == 0
    assert errors["reward"]["world"]["5"]["mean"] == pytest.approx(0.25)
    assert errors["terminated"]["brier"]["world"]["1"]["mean"] == pytest.approx(0.25)
    assert errors["success"]["calibration"]["false_negative"] == 1.0
    base = errors["success"]["brier"]["base_rate"]
    assert np.mean([base[t]["mean"] for t in base]) > 0
    text = "\n".join(tworoom_lines({"outcomes": errors}))
    assert "success, Brier score: base rate" in text and "false negatives 100.0 %" in text


def test_calibration_by_hand():
    got = calibration(np.array([0.2, 0.2, 0.9, 0.9]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert got["ece"] == pytest.approx(0.5 * 0.3 + 0.5 * 0.1) and got["base_rate"] == 0.75
    assert got["false_positive"] == 0.0 and got["false_negative"] == pytest.approx(1 / 3)


def test_the_card_says_what_was_measured(windows):
    pairs = cut_tworoom_pairs(trajectories(6), 4, seed=0)
    result = {"planning": planning_table(None, pairs, ("reward",))}
    text = "\n".join(tworoom_lines(result))
    assert "4 held-out pairs" in text and "| stay | 0.0 % (0.0 to 49.0)" in text and "CEM, true simulator" in text


def test_other_datasets_and_worlds_are_told_apart():
    names = ["agent_x", "agent_y", "door_y", "goal_x", "goal_y"]
    assert is_tworoom(SimpleNamespace(features={"observation.sim_state": {"names": names}}))
    assert not is_tworoom(SimpleNamespace(features={"observation.sim_state": {"names": ["agent_x"]}}))
    assert not is_tworoom(SimpleNamespace(features={}))
    space = SimpleNamespace(action_space=TwoRoomEnv().action_space)
    blind = SimpleNamespace(codec=space, config=SimpleNamespace(heads=SimpleNamespace(reward=False), proprio_names=()))
    for want, words in (("reward", "reward head"), ("image", "proprioception")):
        with pytest.raises(ValueError, match=words):
            check_world(blind, want)


def test_predicted_reward_prefers_the_near_and_the_quick():
    rewards = np.array([[-1.0, -0.5, 0.0], [-1.0, -1.0, 0.0], [-0.2, -0.2, -0.2]])
    assert predicted_reward(SimpleNamespace(reward=rewards)).argsort().tolist() == [2, 0, 1]


def test_the_shipped_world_finds_the_way():
    world = WorldModel.from_pretrained("tworoom-64")
    pairs = cut_tworoom_pairs(trajectories(6), 2, context=world.config.context, cross_share=1.0, seed=2)
    solved = goal_reached(run_in_world(world, pairs, "reward").states).any(axis=1)
    assert solved.all()


def test_the_shipped_world_knows_where_things_are_and_what_they_are_worth():
    world, env = WorldModel.from_pretrained("tworoom-64"), TwoRoomEnv()
    rng = np.random.default_rng(5)
    states = np.array([random_state(rng, near=None if i % 2 else 4.0) for i in range(24)])
    seen = world.read(world.encode(np.stack([env.set_state(state) for state in states])[:, None]))
    assert np.abs(seen.proprio[:, 0].numpy() - states).max() < 4
    assert np.abs(seen.reward[:, 0].numpy() + path_length(states) / SIDE).mean() < 0.05
    arrived = goal_reached(states)
    assert arrived.sum() == 12
    assert ((seen.success[:, 0].numpy() > 0.5) == arrived).mean() > 0.9


def test_other_planners_have_rows_at_the_same_budget():
    pairs = cut_tworoom_pairs(trajectories(6), 3, context=CONTEXT, seed=0)
    result = planning_table(None, pairs, ("reward", "image"), planners=("mppi", "random", "gradient"))
    rows = set(result["rows"]) - {"zero_action", "random"}  # a simulator has no gradient
    assert rows == {f"{planner}_simulator_{want}" for planner in ("mppi", "random") for want in ("reward", "image")}
    assert list(planning_table(None, pairs, ("image",))["rows"])[-1] == "icem_simulator_image"
