"""Gymnasium's own wrappers and tools on top of the environments."""

import sys
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.utils.performance import benchmark_vector_step

import sana_wm  # noqa: F401  registers SanaWM-v0
from sana_wm.diffusion.flow import FlowConfig
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.envs.fake_world import HIGH, LOW, SIDE, FakeWorld
from tests.world.tiny import tiny_actions, tiny_world

RIGHT = np.array([3.0, 0.5], np.float32)


def make(**arguments):
    return gym.make("SanaWM-v0", world=FakeWorld(**arguments.pop("world", {"goal_row": 99})), **arguments)


def actions_for(*lead, seed=0):
    return np.random.default_rng(seed).uniform(LOW, HIGH, (*lead, 2)).astype(np.float32)


@pytest.fixture
def clips(monkeypatch):
    """What RecordVideo hands to moviepy, which need not be installed: (frames, fps, path) of each video."""
    made = []

    class ImageSequenceClip:
        def __init__(self, frames, fps):
            self.frames, self.fps = list(frames), fps

        def write_videofile(self, path, **_):
            made.append((self.frames, self.fps, path))

    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["moviepy.video.io.ImageSequenceClip"].ImageSequenceClip = ImageSequenceClip
    return made


@pytest.mark.parametrize("obs", ["pixels", "latents"])
def test_record_video_gets_every_frame(clips, tmp_path, obs):
    env = wrappers.RecordVideo(make(obs=obs, render_mode="rgb_array"), str(tmp_path / "videos"), disable_logger=True)
    env.reset(seed=0)
    shown = [env.unwrapped.render()]
    for action in actions_for(6):
        *_, truncated, _ = env.step(action)
        shown.append(env.unwrapped.render())
    env.close()
    [(frames, fps, _)] = clips
    assert truncated and fps == 5
    np.testing.assert_array_equal(frames, shown)


def test_record_video_of_lanes(clips, tmp_path):
    env = gym.make_vec("SanaWM-v0", num_envs=3, world=FakeWorld(goal_row=99), render_mode="rgb_array")
    env = wrappers.vector.RecordVideo(env, str(tmp_path / "videos"), disable_logger=True, video_aspect_ratio=(1, 1))
    env.reset(seed=0)
    for actions in actions_for(7, 3):
        env.step(actions)
    env.close()
    assert clips and len(clips[0][0]) >= 6


def test_time_limit_shortens_an_episode():
    env = wrappers.TimeLimit(make(), max_episode_steps=2)
    for _ in range(2):
        env.reset(seed=0)
        assert [env.step(RIGHT)[3] for _ in range(2)] == [False, True]


def test_frames_are_stacked():
    env = wrappers.FrameStackObservation(make(), stack_size=3)
    first, _ = env.reset(seed=0)
    seen = [first[-1], *(env.step(action)[0][-1] for action in actions_for(3))]
    stacked, *_ = env.step(RIGHT)
    assert env.observation_space.contains(stacked) and stacked.shape == (3, SIDE, SIDE, 3)
    np.testing.assert_array_equal(stacked[:2], seen[-2:])


@pytest.mark.parametrize("obs", ["latents", "proprio"])
def test_latents_and_proprioception_are_normalised(obs):
    env = make(obs="dict" if obs == "proprio" else obs)
    if obs == "proprio":
        env = wrappers.TransformObservation(env, lambda seen: seen["proprio"], env.observation_space["proprio"])
    env = wrappers.NormalizeObservation(env)
    seen = []
    for episode in range(12):
        seen.append(env.reset(seed=episode)[0])
        seen += [env.step(action)[0] for action in actions_for(6, seed=episode)]
    seen = np.stack(seen[20:]).reshape(-1, 2)
    assert np.abs(seen.mean(0)).max() < 0.5 and np.abs(seen.std(0) - 1).max() < 0.4


def test_lanes_of_latents_are_normalised_together():
    env = gym.make_vec("SanaWM-v0", num_envs=3, world=FakeWorld(goal_row=99), obs="latents")
    env = wrappers.vector.NormalizeObservation(env)
    env.reset(seed=0)
    seen = np.concatenate([env.step(actions)[0] for actions in actions_for(40, 3)])[60:]
    assert np.abs(seen.mean(0)).max() < 0.5


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@pytest.mark.parametrize("obs", ["pixels", "dict", "latents"])
def test_episode_statistics_of_lanes(mode, obs):
    world = FakeWorld(max_episode_steps=3, goal_row=99)
    env = gym.make_vec("SanaWM-v0", num_envs=2, world=world, obs=obs, autoreset_mode=mode)
    env = wrappers.vector.RecordEpisodeStatistics(env)
    env.reset(seed=0)
    total, ends = np.zeros(2), 0
    for actions in actions_for(11, 2):
        _, rewards, terminated, truncated, infos = env.step(actions)
        total += rewards
        if (terminated | truncated).any():
            ends += 1
            told = infos["final_info"]["episode"] if "episode" in infos.get("final_info", {}) else infos["episode"]
            np.testing.assert_allclose(told["r"], total, rtol=1e-6)
            assert told["l"].tolist() == [3, 3]
            total[:] = 0
    assert ends >= 2


def test_states_pass_through_a_stack_of_wrappers():
    env = wrappers.FrameStackObservation(wrappers.TimeLimit(make(obs="latents"), 100), 2)
    env.reset(seed=0)
    env.step(RIGHT)
    state = env.get_wrapper_attr("get_state")()
    first = env.step(RIGHT)[0][-1]
    env.get_wrapper_attr("set_state")(state.to_bytes() if hasattr(state.world, "stream") else state)
    np.testing.assert_array_equal(env.step(RIGHT)[0][-1], first)
    assert len(env.get_wrapper_attr("fork")(3)) == 3
    total = env.get_wrapper_attr("step_chunk")(actions_for(2))[1]
    assert total > 0


def test_lanes_are_benchmarked_by_gymnasium():
    for mode in ("next_step", "same_step", "disabled"):
        env = SanaWMVectorEnv(3, FakeWorld(goal_row=99), autoreset_mode=mode, obs="latents")
        assert benchmark_vector_step(env, target_duration=0.05, seed=0) > 1


def test_wrappers_sit_on_a_real_world_too():
    world = tiny_world(flow=FlowConfig(prediction="change", steps=1))
    env = gym.make("SanaWM-v0", world=world, obs="latents")
    env = wrappers.NormalizeObservation(wrappers.FrameStackObservation(env, 2))
    env.reset(seed=0)
    for action in tiny_actions(4):
        observation, reward, *_ = env.step(action)
        assert env.observation_space.contains(observation.astype(np.float32)) and np.isfinite(reward)
