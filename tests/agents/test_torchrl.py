"""TorchRL's Gymnasium wrapper around a world: specs that hold, and rollouts equal to the raw environment's."""

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torchrl")
import torch
from torchrl.envs import GymEnv, GymWrapper
from torchrl.envs.utils import check_env_specs

import sana_wm  # noqa: F401  registers SanaWM-v0
from tests.world.tiny import tiny_world

LANES, STEPS = 3, 15


@pytest.fixture(scope="module")
def world():
    return tiny_world()


@pytest.mark.parametrize(
    ("obs", "keys"), [("pixels", ["pixels"]), ("dict", ["pixels", "proprio"]), ("latents", ["observation"])]
)
def test_one_lane(world, obs, keys):
    env = GymWrapper(gym.make("SanaWM-v0", world=world, obs=obs))
    check_env_specs(env)
    env.set_seed(0)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    raw = gym.make("SanaWM-v0", world=world, obs=obs)
    for k, key in enumerate(keys):
        space = raw.observation_space if obs != "dict" else raw.observation_space[key]
        values = rollout["next", key].numpy()
        assert values.shape == (STEPS, *space.shape) and values.dtype == space.dtype, k
    assert 0 < rollout["next", "done"].sum() < STEPS


def test_by_name(world):
    env = GymEnv("SanaWM-v0", world=world, obs="latents")
    check_env_specs(env)
    assert env.rollout(4).batch_size[0] <= 4


@pytest.mark.parametrize("mode", ["same_step", "disabled"])
def test_many_lanes(world, mode):
    def make():
        return gym.make_vec("SanaWM-v0", num_envs=LANES, world=world, obs="latents", autoreset_mode=mode)

    env = GymWrapper(make())
    check_env_specs(env)
    assert env.batch_size == torch.Size([LANES])
    env.set_seed(5)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    assert rollout.batch_size == torch.Size([LANES, STEPS])
    done = rollout["next", "done"][..., 0]
    assert done.any() and not done.all()
    # What follows a step that ended nothing is what the next step begins with; after an end it is a new episode.
    following, begun = rollout["next", "observation"][:, :-1], rollout["observation"][:, 1:]
    same = (following == begun).flatten(2).all(-1)
    np.testing.assert_array_equal(same.numpy(), ~done[:, :-1].numpy())


def test_the_mode_that_they_refuse(world):
    with pytest.raises(RuntimeError, match="auto-reset mode"):
        GymWrapper(gym.make_vec("SanaWM-v0", num_envs=LANES, world=world))
