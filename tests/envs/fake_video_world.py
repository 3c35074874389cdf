"""A deterministic little world with the interface of `VideoWorld`, whose frames say everything that went into them.

Red is the picture it began in. Green is a checksum of the lane's prompt, noise seed, step, intrinsics and the pose of
the raw frame (or of the robot's action). Blue counts raw frames.
"""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium import spaces

from sana_wm.nn.state import StreamState
from sana_wm.world import Prediction, Starts, WorldState
from sana_wm.world.camera_codec import CameraDeltaCodec, CameraKeyCodec

SIZE, FRAMES = (6, 9), 3
PROMPTS = ("", "a room", "a street", "a hall")


class FakeRobotCodec:
    """Three raw actions of two columns per step."""

    names, shape = ("right", "down"), (FRAMES, 2)
    action_space = spaces.Box(
        np.tile(np.float32([-2, 0]), (3, 1)), np.tile(np.float32([2, 5]), (3, 1)), dtype=np.float32
    )

    def check(self, actions):
        if actions.shape[-2:] != self.shape or not ((actions >= [-2, 0]) & (actions <= [2, 5])).all():
            raise ValueError(f"got actions {actions} of shape {actions.shape}, expected (..., 3, 2) in bounds")
        return actions

    def initial(self, lanes, device=None):
        return CameraDeltaCodec().initial(lanes, device)

    def advance(self, carried, actions):
        poses = carried["pose"][:, None].repeat(1, FRAMES, 1, 1)
        poses[:, :, :2, 3] += torch.as_tensor(actions, dtype=torch.float64).cumsum(1)
        return poses, {"pose": poses[:, -1]}


CODECS = {
    "delta": CameraDeltaCodec(frames=FRAMES),
    "keys": CameraKeyCodec("ad-turn", frames=FRAMES),
    "robot": FakeRobotCodec(),
}


class FakeVideoWorld:
    """Ends by its length alone; begins anywhere but in starts of its own, unless it is given a number of them."""

    def __init__(self, codec: str = "delta", max_episode_steps: int = -1, num_starts: int = 0):
        self.config = SimpleNamespace(
            fps=15.0, resolution=SIZE, context=1, max_episode_steps=max_episode_steps, task="", fov=60.0,
            has_reward=False, has_terminated=False, has_success=False, proprio_names=(),
        )  # fmt: skip
        self.codec, self.vae = CODECS[codec], SimpleNamespace(stride=FRAMES)
        frames = np.random.default_rng(0).integers(0, 256, (num_starts, 1, *SIZE, 3), np.uint8)
        self.starts = Starts(frames, np.zeros((num_starts, 0, 2), np.float32))
        self.batches = []  # how many lanes each forward pass had

    def begin(self, frames, actions=None, prompt=None, seeds=None, intrinsics=None):
        lanes, count = len(frames), (frames.shape[1] - 1) // FRAMES
        assert frames.shape[1:] == (count * FRAMES + 1, *SIZE, 3) and (actions is None) == (count == 0)
        assert intrinsics is None or (intrinsics.shape == (lanes, 4) and intrinsics.dtype == np.float32)
        prompts = [""] * lanes if prompt is None else prompt
        if unknown := [text for text in prompts if text not in PROMPTS]:
            raise ValueError(f"the prompt {unknown[0]!r} is new and this world has no text encoder")
        carried = self.codec.initial(lanes)
        for step in range(count):
            carried = self.codec.advance(carried, actions[:, step])[1]
        carried |= {
            "frames": torch.from_numpy(frames[:, -1:].repeat(FRAMES, axis=1)),
            "prompt": torch.tensor([PROMPTS.index(text) for text in prompts]),
            "intrinsics": torch.as_tensor(np.zeros((lanes, 4), np.float32) if intrinsics is None else intrinsics),
        }
        stream = StreamState(torch.full((lanes,), count + 1), ({"memory": torch.zeros(lanes, 5)},))
        return WorldState(stream, torch.zeros(lanes, 1, 2, 3), torch.as_tensor(seeds), carried)

    def adopt(self, state):
        frames = getattr(state, "carried", {}).get("frames")
        if frames is None or frames.shape[1:] != (FRAMES, *SIZE, 3):
            raise ValueError("this state belongs to another world")
        return state

    def step(self, state, actions):
        self.batches.append(state.num_lanes)
        poses, camera = self.codec.advance(state.carried, actions)
        frame, frames = state.frame + 1, state.carried["frames"].clone()
        told = ("prompt", "intrinsics")
        for lane in range(state.num_lanes):
            known = [state.carried[name][lane].numpy().tobytes() for name in told]
            known += [int(state.seeds[lane]).to_bytes(8), int(frame[lane]).to_bytes(8)]
            for k in range(FRAMES):
                pose = (poses[lane, k].numpy().round(9) + 0.0).tobytes()
                frames[lane, k, ..., 1] = zlib.crc32(b"".join([*known, pose])) % 251
                frames[lane, k, ..., 2] = (int(frame[lane]) - 2) * FRAMES + k + 1
        stream = StreamState(frame, ({"memory": state.stream.blocks[0]["memory"] + 1},))
        after = WorldState(stream, state.latent + 1, state.seeds, state.carried | camera | {"frames": frames})
        return after, self.read(after.latent)

    def read(self, latents):
        return Prediction(latents)

    def frames(self, state):
        return state.carried["frames"].numpy()
