"""PushT itself behind the interface of a `WorldModel`: knows only frames, and predicts them perfectly.

A latent is the simulator's state, found in frames by the pose decoder. `speed` below 1 makes a worse world of it.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium import spaces

from sana_wm.envs.pusht import PushTEnv
from sana_wm.envs.pusht_physics import STATE_NAMES, SUCCESS_COVERAGE, coverage
from sana_wm.envs.pusht_pose import PushTPoseDecoder, proprio_of_states


@dataclass(frozen=True)
class OracleState:
    latent: torch.Tensor  # (B, 10, 1, 1)

    @property
    def num_lanes(self) -> int:
        return len(self.latent)

    @property
    def nbytes(self) -> int:
        return self.latent[0].nbytes

    def repeat(self, n: int) -> "OracleState":
        return OracleState(self.latent.repeat_interleave(n, dim=0))

    def select(self, lanes) -> "OracleState":
        return OracleState(self.latent[lanes])


class OracleWorld:
    def __init__(self, ignores_actions: bool = False, context: int = 2):
        names = ["agent_x", "agent_y"] + [f"keypoint_{k}_{axis}" for k in range(8) for axis in "xy"]
        self.config = SimpleNamespace(
            context=context, resolution=(64, 64), fps=10, proprio_names=names, task="Push <the> block.", extra={},
            has_reward=True, has_terminated=True, has_success=True,
        )  # fmt: skip
        self.codec = SimpleNamespace(action_space=spaces.Box(0, 512, (2,), np.float32))
        self._env, self._decode_pose, self._ignores_actions = PushTEnv(), PushTPoseDecoder(), ignores_actions
        starts = np.stack([np.stack([self._env.reset(seed=s)[0]] * context) for s in range(2)])
        self.starts = SimpleNamespace(frames=starts, actions=np.full((2, context - 1, 2), 256, np.float32))

    def begin(self, frames, actions=None, prompt=None, seeds=None):
        assert frames.dtype == np.uint8 and frames.shape[1] == self.config.context
        assert actions.shape == (len(frames), self.config.context - 1, 2)
        assert seeds is not None and len(seeds) == len(frames)
        return OracleState(self.encode(frames[:, -1:])[:, 0])

    def encode(self, frames):
        pose = self._decode_pose(frames.reshape(-1, *frames.shape[2:]))
        states = np.zeros((len(pose.agent), 10))
        states[:, :2], states[:, 4:7] = pose.agent, pose.block
        return torch.from_numpy(states).reshape(*frames.shape[:2], 10, 1, 1)

    def decode(self, latents):
        states = latents.numpy().reshape(-1, 10)
        frames = np.stack([self._env.set_state(state) for state in states])
        return frames.reshape(*latents.shape[:-3], *frames.shape[1:])

    def read(self, latents):
        states = latents[..., 0, 0].numpy()
        covered = np.array([coverage(state) for state in states.reshape(-1, 10)]).reshape(states.shape[:-1])
        success = torch.from_numpy((covered > SUCCESS_COVERAGE).astype(np.float32))
        return SimpleNamespace(
            latents=latents,
            proprio=torch.from_numpy(proprio_of_states(states)).float(),
            reward=torch.from_numpy(np.minimum(covered / SUCCESS_COVERAGE, 1)).float(),
            terminated=success,
            success=success,
        )

    def rollout(self, state, actions):
        if self._ignores_actions:
            actions = np.full_like(actions, 256)
        states = np.stack(
            [self._env.simulate(s, a) for s, a in zip(state.latent[..., 0, 0].numpy(), actions, strict=True)]
        )
        return self.read(torch.from_numpy(states)[..., None, None])

    def step(self, state, actions):
        latent = self.rollout(state, actions[:, None]).latents[:, 0]
        return OracleState(latent), self.read(latent)


class RecordedEpisodes:
    """A dataset in memory: episodes of the scripted policy, under a LeRobot dataset's names."""

    cameras = ["observation.image"]
    features = dict.fromkeys(["observation.image", "action", "next.reward", "next.done", "next.success"], {}) | {
        "observation.sim_state": {"names": list(STATE_NAMES)}
    }

    def __init__(self, num_episodes: int, length: int = 40):
        from sana_wm.collect import record_episode

        mix = {"scripted": 1.0}
        self._episodes = [
            record_episode(seed=5, index=i, steps=length, mix=mix, near_goal=0.0)[0] for i in range(num_episodes)
        ]
        self.num_episodes = num_episodes
        self.episode_lengths = np.full(num_episodes, length)

    def episode(self, index, keys=None):
        return {key: self._episodes[index][key] for key in keys or self.features}
