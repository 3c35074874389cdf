"""The peers as worlds: begin from frames, step or roll out with actions, read what happened.

Both offer what evaluation and planners ask of `sana_wm.WorldModel` (`begin`, `step`, `rollout`, `encode`, `read`,
`frames`, `codec` and a little of `config`), so that the same code measures all three.
"""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.peers.data import FrameScale
from benchmarks.peers.jepa import JEPA, JEPAConfig
from benchmarks.peers.readout import FrameReadout, LatentProbe
from benchmarks.peers.state import WindowState, filled_window
from benchmarks.peers.unet import Denoiser, DenoiserConfig
from sana_wm.world import ActionCodec, Prediction
from sana_wm.world.noise import lane_noise


class Peer(Protocol):
    """A world model that remembers a window; also a `sana_wm.agents.protocols.Dynamics`."""

    codec: ActionCodec
    makes_frames: bool

    def begin(self, frames: np.ndarray, actions: np.ndarray, seeds: Sequence[int]) -> WindowState:
        """Lanes that have seen frames uint8 (B, T, H, W, 3) and the actions (B, T - 1, A) between, dataset units."""
        ...

    def rollout(self, state: WindowState, actions: np.ndarray) -> Prediction:
        """The H steps that follow actions (B, H, A), dataset units."""
        ...


@dataclass(frozen=True)
class About:
    """What a peer must know of its data to act, in the words of a world's config."""

    codec: ActionCodec
    proprio_names: tuple[str, ...]
    resolution: tuple[int, int]
    context: int = 4


class _Windowed(nn.Module, ABC):
    """What both peers have in common. ``kept`` is what a window holds: frames (uint8) or latents."""

    kind: str
    makes_frames: bool

    def __init__(self, about: About, config: DenoiserConfig | JEPAConfig):
        super().__init__()
        self.settings, self.codec = config, about.codec
        self.config = SimpleNamespace(
            resolution=tuple(about.resolution), context=about.context, proprio_names=tuple(about.proprio_names),
            heads=SimpleNamespace(reward=True),
        )  # fmt: skip
        self.scale = FrameScale(self.config.resolution)

    @property
    def device(self) -> torch.device:
        return self.scale.gain.device

    def _normalised(self, actions: np.ndarray | Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(np.shape(actions)) != shape:
            raise ValueError(f"actions have shape {tuple(np.shape(actions))}, expected {shape} in dataset units")
        checked = self.codec.check(np.asarray(actions))
        return self.codec.normalise(torch.as_tensor(np.asarray(checked, np.float32), device=self.device))

    @abstractmethod
    def _kept(self, frames: Tensor) -> Tensor:
        """What a window keeps of uint8 frames (..., H, W, 3)."""

    @abstractmethod
    def _next(self, state: WindowState, actions: Tensor) -> Tensor:
        """What is kept of the frame after normalised actions (B, A)."""

    @torch.no_grad()
    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 (..., H, W, 3) -> what a window keeps of them."""
        return self._kept(torch.as_tensor(np.array(frames), device=self.device))

    @abstractmethod
    def read(self, kept: Tensor) -> Prediction:
        """What frames or latents of a window say: places, reward and outcomes."""

    def begin(self, frames, actions=None, seeds=None) -> WindowState:
        """See `Peer.begin`.

        Raises:
            ValueError: actions or seeds that do not fit the frames.
        """
        lanes, count = np.shape(frames)[:2]
        width = self.codec.width
        given = np.zeros((lanes, 0, width), np.float32) if actions is None else actions
        led_by = self._normalised(given, (lanes, count - 1, width))
        seeds = torch.arange(lanes) if seeds is None else torch.as_tensor(np.asarray(seeds), dtype=torch.int64)
        if seeds.shape != (lanes,):
            raise ValueError(f"seeds have shape {tuple(seeds.shape)}, expected ({lanes},): one per lane")
        frames = np.asarray(frames)[:, -self.settings.context :]
        return filled_window(self.encode(frames), led_by, seeds.to(self.device), self.settings.context)

    def step(self, state: WindowState, actions: np.ndarray) -> tuple[WindowState, Prediction]:
        """One step of every lane; actions (B, A) in dataset units."""
        state = self._advance(state, self._normalised(actions, (state.num_lanes, self.codec.width)))
        return state, self.read(state.past[:, -1])

    def rollout(self, state: WindowState, actions: np.ndarray) -> Prediction:
        """See `Peer.rollout`."""
        led_by = self._normalised(actions, (state.num_lanes, np.shape(actions)[1], self.codec.width))
        made = []
        for k in range(led_by.shape[1]):
            state = self._advance(state, led_by[:, k])
            made.append(state.past[:, -1])
        return self.read(torch.stack(made, dim=1))

    @torch.no_grad()
    def _advance(self, state: WindowState, actions: Tensor) -> WindowState:
        # a few lanes at a time stay in the cache; lanes do not know of each other, so it changes nothing
        lanes = torch.arange(state.num_lanes, device=self.device).split(self.at_once)
        parts = [self._next(state.select(some), actions[some]) for some in lanes]
        return state.advance(torch.cat(parts), actions)

    def save(self, path: Path) -> None:
        """Weights, settings and what the peer must know, one safetensors file."""
        about = {"codec": self.codec.to_dict(), "proprio_names": list(self.config.proprio_names),
                 "resolution": list(self.config.resolution), "context": self.config.context}  # fmt: skip
        meta = {"kind": self.kind, "settings": json.dumps(asdict(self.settings)), "about": json.dumps(about)}
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, path, metadata=meta)


class UNetPeer(_Windowed):
    """The denoiser with its readout; its window holds frames of 8 bit."""

    kind, makes_frames, at_once = "unet", True, 32

    def __init__(self, about: About, config: DenoiserConfig):
        super().__init__(about, config)
        self.denoiser = Denoiser(config).to(memory_format=torch.channels_last)
        self.readout = FrameReadout(len(about.proprio_names), self.config.resolution)
        self.euler_steps = config.steps

    def with_steps(self, steps: int) -> "UNetPeer":
        """The same peer, weights shared, that makes a frame in so many Euler steps."""
        other = copy.copy(self)
        other.euler_steps = steps
        return other

    def _kept(self, frames: Tensor) -> Tensor:
        return frames

    def _next(self, state: WindowState, actions: Tensor) -> Tensor:
        shape = (3, *self.config.resolution)
        noise = lane_noise(state.seeds, state.frame, 0, shape)
        led_by = torch.cat([state.actions, actions[:, None]], dim=1)
        return self.scale.frames(self.denoiser.sample(self.scale(state.past), led_by, noise, self.euler_steps))

    @torch.no_grad()
    def read(self, kept: Tensor) -> Prediction:
        lead = kept.shape[:-3]
        parts = [self.readout(self.scale(some)) for some in kept.reshape(-1, *kept.shape[-3:]).split(256)]
        said = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return Prediction(kept, **{name: value.unflatten(0, lead) for name, value in said.items()})

    def frames(self, state: WindowState) -> np.ndarray:
        """The raw frames that the last step made, uint8 (B, 1, H, W, 3)."""
        return state.past[:, -1:].cpu().numpy()

    def decode(self, kept: Tensor) -> np.ndarray:
        return kept.cpu().numpy()


class JEPAPeer(_Windowed):
    """The JEPA with a probe fitted afterwards; its window holds latents, and there are no frames to see."""

    kind, makes_frames, at_once = "jepa", False, 512

    def __init__(self, about: About, config: JEPAConfig):
        super().__init__(about, config)
        self.jepa = JEPA(config).to(memory_format=torch.channels_last)
        self.probe = LatentProbe(len(about.proprio_names), config.latent)

    def _kept(self, frames: Tensor) -> Tensor:
        flat = frames.reshape(-1, *frames.shape[-3:])
        latents = torch.cat([self.jepa.encode(self.scale(some)) for some in flat.split(64)])
        return latents.unflatten(0, frames.shape[:-3])

    def _next(self, state: WindowState, actions: Tensor) -> Tensor:
        led_by = torch.cat([state.actions, actions[:, None]], dim=1)
        return self.jepa.predictor(state.past, led_by)[:, -1]

    @torch.no_grad()
    def read(self, kept: Tensor) -> Prediction:
        said = self.probe(kept.reshape(-1, kept.shape[-1]))
        said = {name: value.unflatten(0, kept.shape[:-1]) for name, value in said.items()}
        return Prediction(kept[..., None, None], **said)


KINDS: dict[str, tuple[type[_Windowed], Any]] = {"unet": (UNetPeer, DenoiserConfig), "jepa": (JEPAPeer, JEPAConfig)}


def load_peer(path: Path) -> _Windowed:
    """What `save` wrote.

    Raises:
        ValueError: a file that holds no peer.
    """
    with safe_open(path, framework="pt") as file:
        meta = file.metadata() or {}
        if meta.get("kind") not in KINDS:
            raise ValueError(f"{path} holds no peer: its kind is {meta.get('kind')!r}, expected one of {sorted(KINDS)}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about = json.loads(meta["about"])
    about = About(ActionCodec.from_dict(about.pop("codec")), **about)
    peer, config = KINDS[meta["kind"]]
    peer = peer(about, config(**json.loads(meta["settings"])))
    peer.load_state_dict(tensors)
    return peer.eval().requires_grad_(False)
