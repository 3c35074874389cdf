"""A world without any simulator behind it, and a LeRobot dataset to hold it against.

Frames are grey; the reward of a frame is its level over 255, and the world expects everything to stay as it is.
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium import spaces

from sana_wm.data import LeRobotDataset, LeRobotWriter

SIZE = (16, 24)


@dataclass(frozen=True)
class StillState:
    latent: torch.Tensor  # (B, 1, h, w)


class StillWorld:
    def __init__(self, has_reward: bool = True):
        self.config = SimpleNamespace(
            context=1, resolution=SIZE, fps=10, proprio_names=[], task="", extra={"data": {"name": "<b>still</b>"}},
            has_reward=has_reward, has_terminated=False, has_success=False,
        )  # fmt: skip
        self.codec = SimpleNamespace(action_space=spaces.Box(-9, 9, (2,), np.float32))

    def begin(self, frames, actions=None, prompt=None, seeds=None):
        return StillState(self.encode(frames)[:, -1])

    def encode(self, frames):
        return torch.from_numpy(frames[..., :1].astype(np.float32)).movedim(-1, -3)

    def decode(self, latents):
        return np.repeat(latents.numpy().astype(np.uint8)[..., 0, :, :, None], 3, axis=-1)

    def read(self, latents):
        reward = latents.mean(dim=(-3, -2, -1)) / 255 if self.config.has_reward else None
        return SimpleNamespace(latents=latents, reward=reward, terminated=None, success=None, proprio=None)

    def rollout(self, state, actions):
        return self.read(state.latent[:, None].repeat(1, actions.shape[1], 1, 1, 1))


def grey_episodes(root: Path, count: int = 4, length: int = 14) -> LeRobotDataset:
    """Episodes that grow brighter by their own pace, without a simulator's state."""
    features = {
        "observation.images.top": {"dtype": "video", "shape": (*SIZE, 3)},
        "action": {"dtype": "float32", "shape": (2,)},
        "next.reward": {"dtype": "float32", "shape": (1,)},
    }
    with LeRobotWriter(root, 10, features) as writer:
        for episode in range(count):
            levels = 40 + (2 + episode) * np.arange(length + 1)
            frames = np.broadcast_to(levels[:-1, None, None, None], (length, *SIZE, 3)).astype(np.uint8)
            actions = np.full((length, 2), episode, np.float32)
            rewards = (levels[1:, None] / 255).astype(np.float32)
            writer.add_episode({"observation.images.top": frames, "action": actions, "next.reward": rewards}, "glow")
    return LeRobotDataset(root)
