"""A deterministic little world with the interface of `WorldModel`: a dot that moves by the action, plus seeded noise.

Everything it does is known in closed form, so the environments can be tested exactly and without weights. Its latent is
(B, 2, 1, 1): the dot's column and row in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium import spaces
from safetensors.torch import load, save

SIDE = 16
LOW, HIGH = np.array([-4.0, 0.0], np.float32), np.array([4.0, 2.0], np.float32)


@dataclass(frozen=True)
class FakeState:
    """Position (B, 2, 1, 1), frame index (B,) and noise seed (B,) of each lane."""

    latent: torch.Tensor
    frame: torch.Tensor
    seeds: torch.Tensor

    @property
    def num_lanes(self) -> int:
        return len(self.frame)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.latent, self.frame, self.seeds))

    def select(self, lanes):
        lanes = torch.as_tensor(lanes, dtype=torch.long)
        return FakeState(self.latent[lanes], self.frame[lanes], self.seeds[lanes])

    def repeat(self, n):
        return self.select(torch.arange(self.num_lanes).repeat_interleave(n))

    @staticmethod
    def cat(states):
        return FakeState(*(torch.cat([getattr(s, key) for s in states]) for key in ("latent", "frame", "seeds")))

    def to_bytes(self) -> bytes:
        return save({"latent": self.latent, "frame": self.frame, "seeds": self.seeds})

    @staticmethod
    def from_bytes(data: bytes):
        return FakeState(**load(data))


class FakeCodec:
    names = ["right", "down"]
    low, high = LOW, HIGH
    action_space = spaces.Box(LOW, HIGH, dtype=np.float32)

    def check(self, actions):
        if actions.shape[-1] != 2:
            raise ValueError(f"got actions of shape {actions.shape}, expected (..., 2)")
        if not ((actions >= LOW) & (actions <= HIGH)).all():
            raise ValueError(f"got actions {actions} outside [{LOW}, {HIGH}] or not a number")


class FakeWorld:
    """The dot wraps around; the episode succeeds, and ends, once its row passes `goal_row`."""

    def __init__(self, max_episode_steps=6, goal_row=12.0, has_reward=True, has_terminated=True, has_success=True):
        self.config = SimpleNamespace(
            fps=5,
            resolution=(SIDE, SIDE),
            context=1,
            max_episode_steps=max_episode_steps,
            has_reward=has_reward,
            has_terminated=has_terminated,
            has_success=has_success,
            proprio_names=["x", "y"],
            task="chase the dot",
        )
        self.goal_row = goal_row
        self.codec = FakeCodec()
        positions = np.random.default_rng(0).integers(0, 8, (5, 2))
        frames = np.stack([self._draw(torch.tensor(p, dtype=torch.float64))[None] for p in positions])
        self.starts = _Starts(frames, np.zeros((5, 0, 2), np.float32))
        self.transformer = SimpleNamespace(config=SimpleNamespace(in_channels=2, grid=(1, 1)))
        self.batches = []  # how many lanes each forward pass had
        self.decoded = []  # how many lanes each call of frames had

    def begin(self, frames, actions=None, prompt=None, seeds=None):
        rows, columns = np.nonzero(frames[:, -1, :, :, 0] == 255)[1:]
        latent = torch.tensor(np.stack([columns, rows], 1), dtype=torch.float64)[..., None, None]
        frame = torch.full((len(frames),), frames.shape[1] - 1)
        return FakeState(latent, frame, torch.as_tensor(seeds))

    def adopt(self, state):
        if state.latent.shape[1:] != (2, 1, 1):
            raise ValueError("this state belongs to another world")
        return state

    def step(self, state, actions):
        self.batches.append(state.num_lanes)
        frame = state.frame + 1
        noise = [
            np.random.default_rng([int(seed), int(index)]).uniform(-1, 1, 2)
            for seed, index in zip(state.seeds, frame, strict=True)
        ]
        move = torch.tensor(np.stack(noise)) + torch.as_tensor(actions, dtype=torch.float64)
        state = FakeState((state.latent + move[..., None, None]) % SIDE, frame, state.seeds)
        return state, self.read(state.latent)

    def read(self, latents):
        position = latents[..., 0, 0]
        success = (position[:, 1] > self.goal_row).float()
        return SimpleNamespace(
            latents=latents,
            reward=position[:, 1].float() / SIDE if self.config.has_reward else None,
            terminated=success if self.config.has_terminated else None,
            success=0.9 * success if self.config.has_success else None,
            proprio=position.float(),
            uncertainty=None,
        )

    def decode(self, latents):
        return np.stack([self._draw(position) for position in latents[..., 0, 0]])

    def encode(self, frames):
        rows, columns = np.nonzero(frames.reshape(-1, *frames.shape[2:])[..., 0] == 255)[1:]
        position = torch.tensor(np.stack([columns, rows], 1), dtype=torch.float64)
        return position.reshape(*frames.shape[:2], 2, 1, 1)

    def frames(self, state):
        self.decoded.append(state.num_lanes)
        return self.decode(state.latent)[:, None]

    def _draw(self, position):
        """The dot in red; green and blue carry its position to a 16th of a pixel, so that no two places look alike."""
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        column, row = (int(p) for p in position)
        image[..., 1:] = [int(p * 16) % 256 for p in position]
        image[row, column, 0] = 255
        return image


@dataclass
class _Starts:
    frames: np.ndarray
    actions: np.ndarray

    def __len__(self):
        return len(self.frames)
