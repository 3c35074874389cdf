import numpy as np
import pytest

from sana_wm.agents.simulator_dynamics import SimulatorDynamics, SimulatorState
from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.pusht_pose import proprio_of_states


@pytest.fixture
def states():
    env = PushTEnv()
    found = []
    for seed in range(3):
        env.reset(seed=seed)
        found.append(env.get_state())
    return SimulatorState(np.stack(found))


def test_predicts_exactly_what_the_environment_does(states):
    env, actions = PushTEnv(), np.random.default_rng(0).uniform(100, 400, (3, 6, 2)).astype(np.float32)
    predicted = SimulatorDynamics(PushTEnv, proprio_of_states).rollout(states, actions).proprio
    for lane in range(3):
        env.set_state(states.states[lane])
        for t, action in enumerate(actions[lane]):
            _, _, _, _, info = env.step(action)
            assert np.allclose(predicted[lane, t], [*info["pos_agent"], *info["keypoints"]], atol=1e-9)


def test_workers_change_nothing(states):
    actions = np.random.default_rng(1).uniform(0, 512, (6, 4, 2))
    alone = SimulatorDynamics(PushTEnv, proprio_of_states).rollout(states.repeat(2), actions)
    with SimulatorDynamics(PushTEnv, proprio_of_states, workers=1) as dynamics:
        assert np.array_equal(dynamics.rollout(states.repeat(2), actions).proprio, alone.proprio)


def test_lanes(states):
    assert np.array_equal(states.repeat(2).states[:2], states.states[[0, 0]])
    assert np.array_equal(states.select([2, 0]).states, states.states[[2, 0]])
    with pytest.raises(ValueError, match=r"\(3, H, A\)"):
        SimulatorDynamics(PushTEnv, proprio_of_states).rollout(states, np.zeros((2, 5, 2)))
