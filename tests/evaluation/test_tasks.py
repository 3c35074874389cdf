"""What the report knows of simulators agrees with the simulators, and datasets are told apart."""

from types import SimpleNamespace

import numpy as np
import pytest

from sana_wm.collect import record_episode
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_physics import random_state
from sana_wm.evaluation import pusht, tworoom
from sana_wm.evaluation.physics import errors_by_step, physical_errors
from sana_wm.evaluation.tasks import Thing, task_of
from sana_wm.evaluation.windows import SIM_STATE, Imagined, Windows

TASKS = [pusht.TASK, tworoom.TASK]


def states_of(task, count: int = 6) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([task.start(rng, number) for number in range(count)])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_places_are_the_same_in_states_and_frames(task):
    states = states_of(task)
    true, seen = task.places_of_states(states), task.places_of_frames(task.draw(states, 64))
    assert seen["found"].all()
    for key, thing in task.things.items():
        assert thing.error(seen[key], true[key])[task.visible(states, key)].max() < 2, key


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_probes_are_actions_that_differ(task):
    env, rng = task.make_env(64), np.random.default_rng(0)
    for state in states_of(task, 3):
        probes = task.probe(rng, state, 16)
        assert probes.shape == (16, 2) and len(np.unique(probes.round(3), axis=0)) == 16
        assert (probes >= env.action_space.low - 1e-6).all() and (probes <= env.action_space.high + 1e-6).all()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_readings_become_states_that_policies_can_act_on(task):
    from sana_wm.envs.pusht_pose import proprio_of_states

    states = states_of(task)
    read = proprio_of_states(states) if task.name == "pusht" else states
    back = task.state_of_proprio(read)
    for key, thing in task.things.items():
        assert thing.error(task.places_of_states(back)[key], task.places_of_states(states)[key]).max() < 1e-6
    wild = task.state_of_proprio(read + np.random.default_rng(0).normal(0, 40, read.shape))
    for make in task.policies.values():
        policy = make(np.random.default_rng(0))
        for state in wild:
            assert np.isfinite(policy(state)).all()


def test_things_by_hand():
    place = Thing("p", "px")
    assert place.error(np.array([[3.0, 4.0]]), np.zeros((1, 2))) == pytest.approx([5])
    angle = Thing("a", "°", angle=True)
    assert angle.error(np.array([[np.pi - 0.1]]), np.array([[-np.pi + 0.1]])) == pytest.approx([np.rad2deg(0.2)])


def test_readings_from_inside_a_wall_are_put_outside():
    rng = np.random.default_rng(4)
    read = np.stack([random_state(rng) for _ in range(40)]) + rng.normal(0, 6, (40, 5))
    env, refused = TwoRoomEnv(), 0
    for readings, state in zip(read, tworoom.TASK.state_of_proprio(read), strict=True):
        try:
            env.set_state(readings)
        except ValueError:
            refused += 1
        env.set_state(state)  # raises where the agent is inside a wall
        np.testing.assert_array_equal(env.get_state(), state)
    assert refused > 5


def test_true_frames_have_no_physical_error_and_moved_readings_have_theirs():
    settings = {"seed": 11, "steps": 8, "mix": {"expert": 0.5, "mixed": 0.5}, "near_goal": 0.2}
    rows = [record_episode(index=i, simulator="tworoom", **settings)[0] for i in range(7)]
    frames, actions, states = (np.stack([e[k] for e in rows]) for k in ("observation.image", "action", SIM_STATE))
    windows, proprio = Windows(frames, actions[:, :-1], states, 3), states[:, 3:].astype(np.float32)
    true = Imagined(windows.future, np.zeros((7, 5, 1, 1, 1)), proprio)
    moved = Imagined(windows.future, true.latents, proprio + np.float32([3, 4, 2, 0, 1]))
    measured = physical_errors(tworoom.TASK, errors_by_step(tworoom.TASK, windows, moved, true))["rows"]
    for step in ("1", "5"):
        assert measured["world"][step]["agent"]["mean"] < 0.1 and measured["world"][step]["found"]["mean"] == 1
        off = measured["world_readout"][step]
        assert [off[key]["mean"] for key in ("agent", "door", "goal")] == pytest.approx([5, 2, 1], abs=1e-4)
        assert measured["readout_floor"][step]["agent"]["mean"] < 1e-4
    assert measured["copy_last_frame"]["5"]["agent"]["mean"] > 1


def test_datasets_are_told_apart():
    def recorded(names):
        return SimpleNamespace(features={SIM_STATE: {"names": names}})

    assert task_of(recorded(list(pusht.TASK.state_names))) is pusht.TASK
    rooms = recorded(list(tworoom.TASK.state_names))
    assert task_of(rooms) is tworoom.TASK
    assert task_of(recorded(["block_angle", "door_y"])) is None
    assert task_of(recorded(["x"])) is None and task_of(SimpleNamespace(features={})) is None
    assert task_of(SimpleNamespace(features={SIM_STATE: None})) is None
