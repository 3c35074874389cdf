"""Planning in TwoRoom worlds: pairs are honest, the ceiling is one, and the shipped world finds the way."""

from types import SimpleNamespace

import numpy as np
import pytest

from sana_wm.collect import record_episode
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_physics import SIDE, path_length, random_state
from sana_wm.evaluation.tasks import task_of
from sana_wm.evaluation.tworoom import TASK
from sana_wm.evaluation.tworoom_pairs import cut_tworoom_pairs, goal_reached
from sana_wm.evaluation.tworoom_planning import (
    check_world,
    planning_table,
    predicted_reward,
    run_in_simulator,
    run_in_world,
)
from sana_wm.world import WorldModel

CONTEXT = 3


def episodes(count: int, steps: int = 16) -> list[dict]:
    settings = {"seed": 11, "steps": steps, "mix": {"expert": 0.5, "mixed": 0.5}, "near_goal": 0.2}
    return [record_episode(index=i, simulator="tworoom", **settings)[0] for i in range(count)]


def trajectories(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(e["observation.sim_state"], e["action"]) for e in episodes(count)]


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


def test_other_datasets_and_worlds_are_told_apart():
    names = ["agent_x", "agent_y", "door_y", "goal_x", "goal_y"]
    assert task_of(SimpleNamespace(features={"observation.sim_state": {"names": names}})) is TASK
    assert task_of(SimpleNamespace(features={"observation.sim_state": {"names": ["agent_x"]}})) is None
    assert task_of(SimpleNamespace(features={})) is None
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
