"""Ten thousand steps: no NaN, no growing memory. A hundred thousand are benchmarks/soak.py, see docs/soak.md."""

import gc
import tracemalloc

import numpy as np
import torch

from sana_wm.diffusion.flow import FlowConfig
from sana_wm.envs.env_state import EnvState
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.envs.fake_world import HIGH, LOW, FakeWorld
from tests.world.tiny import tiny_actions, tiny_world


def alive():
    """How many states and tensors the process holds, and the bytes of the latter."""
    gc.collect()
    things = gc.get_objects()
    tensors = [thing for thing in things if type(thing) is torch.Tensor]
    return sum(type(thing) is EnvState for thing in things), len(tensors), sum(tensor.nbytes for tensor in tensors)


def test_ten_thousand_steps_of_a_real_world_stay_finite_and_small():
    """640 calls of sixteen lanes, with episodes of 25 steps, forks and undone steps among them."""
    world = tiny_world(flow=FlowConfig(prediction="change", steps=1), refined=False, depth=1)
    settings = {"obs": "latents", "autoreset_mode": "same_step", "state_bytes": True, "threshold": 0.999999}
    env = SanaWMVectorEnv(16, world, max_episode_steps=25, **settings)
    env.reset(seed=0)
    actions, sizes, held = tiny_actions(64, 16), set(), []
    for step in range(640):
        latents, rewards, *_, infos = env.step(actions[step % 64])
        assert np.isfinite(latents).all() and np.isfinite(rewards).all()
        sizes |= set(infos["state_bytes"].tolist())
        if step % 40 == 0:
            env.fork(2).step(np.tile(actions[0], (2, 1)))
            env.set_state(env.get_state().to_bytes())
            held.append(alive())
    assert len(sizes) == 1 and held[-1] == held[2]
    assert np.isfinite(env.lanes.proprio).all() and env.lanes.frames.shape[0] == 16


def test_one_endless_episode_stays_finite_and_small():
    world = tiny_world(flow=FlowConfig(prediction="change", steps=1), refined=False)
    env = SanaWMEnv(world, obs="latents", max_episode_steps=-1, threshold=0.999999)
    env.reset(seed=0)
    actions, sizes = tiny_actions(64), set()
    for step in range(0, 1000, 10):
        latents, reward, *_ = env.step_chunk(np.roll(actions, step, axis=0)[:10])
        assert np.isfinite(latents).all() and np.isfinite(reward)
        sizes.add(env.get_state().nbytes)
    assert len(sizes) == 1


def test_pixels_and_infos_leave_nothing_behind():
    env = SanaWMVectorEnv(2, FakeWorld(), obs="dict")
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(LOW, HIGH, (97, 2, 2)).astype(np.float32)
    start = 0
    tracemalloc.start()
    try:
        for step in range(900):
            env.step(actions[step % 97])
            env.lanes.world.batches.clear(), env.lanes.world.decoded.clear()
            if step == 100:
                gc.collect()
                start = tracemalloc.get_traced_memory()[0]
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    assert grown < 100_000, f"{grown} bytes more after 800 further steps, each of which makes frames of 1,536"
