"""VideoWorld: a SANA-WM release as a world; one step is one latent frame, eight raw frames of video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sana_wm.diffusion.samplers import Conditions, stream_chunk
from sana_wm.diffusion.schedules import few_step_schedule
from sana_wm.models.prompt_encoder import PromptEncoder
from sana_wm.models.release import Release
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.video_vae import VideoVAE
from sana_wm.nn.camera import camera_vectors, plucker_pack, scale_intrinsics
from sana_wm.world.action_codec import ActionCodec, as_action_tensor
from sana_wm.world.camera_image import as_intrinsics
from sana_wm.world.fingerprint import fingerprint
from sana_wm.world.noise import lane_noise
from sana_wm.world.prompts import Features
from sana_wm.world.starts import Starts
from sana_wm.world.video_bundle import load_parts, save_video_world
from sana_wm.world.video_config import VideoWorldConfig
from sana_wm.world.world_model import Prediction
from sana_wm.world.world_state import WorldState


class VideoWorld:
    """SANA-WM with the interface of :class:`sana_wm.world.WorldModel`.

    The actions are those of the codec: moves of the camera (:mod:`sana_wm.world.camera_codec`), or, after fine-tuning,
    a robot's, eight per step, before a camera that stands still. A state carries, beside the transformer's memory, the
    camera, the prompt, the tails of the decoder and the raw frames of the last step; nothing in it grows.

    Args:
        config, transformer, vae, codec: the parts of the world.
        prompt_encoder: a loaded one, a :class:`Release` to load it from when a new prompt comes (it is let go of
            after that: it is as large as the transformer), or None.
        prompts: features (L, C) and mask (L,) of prompts that are known without it.
        starts: frames to reset from, where the world has some. card: what it is, for people.
    """

    def __init__(
        self,
        config: VideoWorldConfig,
        transformer: SanaTransformer,
        vae: VideoVAE,
        codec: Any,
        prompt_encoder: PromptEncoder | Release | None = None,
        prompts: dict[str, Features] | None = None,
        starts: Starts | None = None,
        card: str = "",
    ):
        self.config, self.codec, self.card = config, codec, card
        self.transformer = transformer.eval().requires_grad_(False)
        self.vae, self.prompt_encoder = vae, prompt_encoder
        self.prompts = dict(prompts or {})
        self._check_parts()
        nothing = np.zeros((0, 1, *config.resolution, 3), np.uint8), np.zeros((0, 0, codec.shape[-1]), np.float32)
        self.starts = starts or Starts(*nothing)

    def _check_parts(self) -> None:
        c, grid = self.transformer.config, self.vae.grid(self.config.resolution)
        if c.grid != grid or c.in_channels != self.vae.channels:
            raise ValueError(
                f"the transformer takes {c.in_channels} channels of {c.grid}, frames of {self.config.resolution} have "
                f"latents of {self.vae.channels} channels and {grid}"
            )
        robot = isinstance(self.codec, ActionCodec)
        if robot and c.action_dim != self.codec.network_width:
            raise ValueError(
                f"the codec makes {self.codec.network_width} numbers, the transformer takes {c.action_dim}"
            )
        if not robot and (c.action_dim or not c.camera):
            raise ValueError("moves of the camera need a transformer with a camera branch and without robot actions")
        if (self.codec.per_latent if robot else self.vae.stride) != self.vae.stride:
            raise ValueError(f"per_latent={self.codec.per_latent}: one latent takes {self.vae.stride} raw frames")
        self.vae.check_streams()
        self.transformer.initial_state(0)  # refuses a window without end

    @classmethod
    def from_pretrained(
        cls,
        name_dir_or_repo: str | os.PathLike,
        device: Any = None,
        *,
        dtype: torch.dtype | str = "auto",
        actions: str | None = None,
        preset: str | None = None,
        resolution: tuple[int, int] | None = None,
        **components: str | os.PathLike | None,
    ) -> VideoWorld:
        """Open a release: a folder, a name out of :data:`sana_wm.models.release.RELEASES`, or a hub repository.

        Args:
            dtype: "auto": bfloat16 on CUDA, float32 elsewhere.
            actions: "delta" (moves of the camera), "keys", or the name of a key mapping; only where the world does not
                say itself, as one that was fitted to a robot does. Default: "delta".
            preset, resolution: in place of what the release says.
            components: paths in place of parts of the release, such as ``vae=...``.

        Raises:
            ValueError: missing parts, or parts that do not fit each other.
        """
        return cls(**load_parts(name_dir_or_repo, device, dtype, actions, preset, resolution, components))

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write a release of this world's own, whole or not at all.

        A text encoder that is loaded is written too; otherwise the prompts that the world knows are those it can take.

        Raises:
            ValueError: the folder exists and is not such a release.
        """
        save_video_world(self, Path(folder))

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {"transformer": self.transformer, "vae": self.vae}

    @cached_property
    def fingerprint(self) -> str:
        """Identifies its weights, as they were when it was first asked."""
        return fingerprint(self.parts)

    def to(self, device: Any) -> VideoWorld:
        """Move the networks, in place; "auto" takes CUDA where there is one."""
        if str(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        for module in self.parts.values():
            module.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 (B, F, H, W, 3), F = 8 k + 1, -> latents (B, k + 1, C, h, w)."""
        return self.vae.encode(frames).transpose(1, 2)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, T, C, h, w) of a clip from its start -> uint8 (B, 8 (T - 1) + 1, H, W, 3)."""
        return self.vae.decode(latents.transpose(1, 2))

    def read(self, latents: Tensor) -> Prediction:
        """A release has no heads: a prediction is its latents."""
        return Prediction(latents)

    def frames(self, state: WorldState) -> np.ndarray:
        """The raw frames of the last step, uint8 (B, 8, H, W, 3); at the start the given image, eight times."""
        return state.carried["frames"].cpu().numpy()

    @torch.no_grad()
    def begin(
        self,
        frames: np.ndarray | Tensor,
        actions: np.ndarray | Tensor | None = None,
        prompt: str | Sequence[str] | None = None,
        seeds: Sequence[int] | Tensor | None = None,
        intrinsics: Any = None,
    ) -> WorldState:
        """Lanes that have seen their context.

        Args:
            frames: uint8 (B, 8 k + 1, H, W, 3), mostly k = 0: one image.
            actions: (B, k, *codec.shape), the steps between latent frames; may be left out for k = 0.
            prompt: for all lanes or one per lane; None: ``config.task``. seeds: (B,) int64; default 0, 1, ...
            intrinsics: of the frames, (B, 4) of fx, fy, cx, cy in pixels, or any shape that
                :func:`~sana_wm.world.camera_image.as_intrinsics` takes, for all lanes; None: ``config.intrinsics()``.

        Raises:
            ValueError: shapes, units or prompts that the world cannot take.
        """
        if tuple(np.shape(frames))[2:] != (*self.config.resolution, 3) or not np.shape(frames)[0]:
            expected = (*self.config.resolution, 3)
            raise ValueError(f"frames have shape {tuple(np.shape(frames))}, expected (B, 8 k + 1, {expected})")
        latents = self.vae.encode(frames)
        lanes, count = latents.shape[0], latents.shape[2]
        seeds = torch.arange(lanes) if seeds is None else torch.as_tensor(seeds, dtype=torch.int64)
        if seeds.shape != (lanes,):
            raise ValueError(f"seeds have shape {tuple(seeds.shape)}, expected ({lanes},): one per lane")
        expected = (lanes, count - 1, *self.codec.shape)
        if (count > 1 or actions is not None) and tuple(np.shape(actions)) != expected:
            raise ValueError(f"actions have shape {tuple(np.shape(actions))}, expected {expected}: the steps between")
        steps = np.zeros(expected, np.float32) if count == 1 else self.codec.check(actions)
        text, mask = self._features(self._prompts(prompt, lanes))
        told = {"intrinsics": self._intrinsics(intrinsics, lanes), "text": text, "text_mask": mask}
        camera = self._still(lanes) if isinstance(self.codec, ActionCodec) else self.codec.initial(lanes, self.device)

        poses, raw = [camera["pose"][:, None]], []
        for step in range(count - 1):
            path, camera, action = self._advance_camera(camera, as_action_tensor(steps[:, step], self.device))
            poses.append(path)
            raw.append(action)
        blank = torch.zeros(lanes, 1, self.transformer.config.action_dim, device=self.device)
        conditions = self._conditions(told, torch.cat(poses, dim=1), torch.cat([blank, *raw], dim=1), first=True)
        still = torch.zeros(lanes, count, device=self.device)
        out = self.transformer(
            latents, still, conditions.text, camera=conditions.camera, plucker=conditions.plucker,
            actions=conditions.actions, commit=True, chunks=(1,) * count,
        )  # fmt: skip
        pictures, tails = self.vae.decode_stream(latents)
        shown = (
            pictures[:, :1].expand(-1, self.vae.stride, -1, -1, -1) if count == 1 else pictures[:, -self.vae.stride :]
        )
        carried = camera | told | _named(tails) | {"frames": shown.contiguous()}
        return WorldState(out.state, latents[:, :, -1], seeds.to(self.device), carried, self.fingerprint)

    def step(self, state: WorldState, actions: np.ndarray | Tensor) -> tuple[WorldState, Prediction]:
        """One latent frame for every lane in one batch. actions: (B, *codec.shape).

        Raises:
            ValueError: bad actions, or a state of another world.
        """
        state = self.adopt(state)
        expected = (state.num_lanes, *self.codec.shape)
        if tuple(np.shape(actions)) != expected:
            raise ValueError(f"actions have shape {tuple(np.shape(actions))}, expected {expected}")
        state = self._advance(state, self._checked(actions))
        return state, self.read(state.latent)

    def rollout(self, state: WorldState, actions: np.ndarray | Tensor) -> Prediction:
        """Imagine H steps without decoding. actions: (B, H, *codec.shape) -> Prediction over H."""
        state = self.adopt(state)
        shape = tuple(np.shape(actions))
        if shape[:1] != (state.num_lanes,) or shape[2:] != self.codec.shape or not shape[1]:
            raise ValueError(f"actions have shape {shape}, expected ({state.num_lanes}, H >= 1, *{self.codec.shape})")
        checked, latents = self._checked(actions), []
        for step in range(shape[1]):
            state = self._advance(state, checked[:, step], decode=False)
            latents.append(state.latent)
        return self.read(torch.stack(latents, dim=1))

    def adopt(self, state: WorldState) -> WorldState:
        """The state on this world's device.

        Raises:
            ValueError: a state of another world: of other shapes, or made by other weights.
        """
        empty = self.transformer.initial_state(0)
        shapes = [{k: (tuple(v.shape[1:]), v.dtype) for k, v in block.items()} for block in state.stream.blocks]
        expected = [{k: (tuple(v.shape[1:]), v.dtype) for k, v in block.items()} for block in empty.blocks]
        frames = state.carried.get("frames")
        fits = frames is not None and tuple(frames.shape[1:]) == (self.vae.stride, *self.config.resolution, 3)
        names = {name for name in state.carried if _tail(name) < 0}
        if shapes != expected or not fits or names != self._carried_names():
            raise ValueError(
                "this state belongs to another world: its memory has other shapes or another precision; "
                "begin() makes a fitting one"
            )
        if state.origin not in ("", self.fingerprint):
            raise ValueError(
                "this state belongs to another world, of the same shape but with other weights; begin() makes a "
                "fitting one"
            )
        state = state if state.origin else replace(state, origin=self.fingerprint)
        return state.to(self.device) if state.seeds.device != self.device else state

    def _carried_names(self) -> set[str]:
        camera = self._still(0) if isinstance(self.codec, ActionCodec) else self.codec.initial(0, self.device)
        return {"intrinsics", "text", "text_mask", "frames", *camera}

    def _checked(self, actions: np.ndarray | Tensor) -> Tensor:
        checked = self.codec.check(actions.cpu() if isinstance(actions, Tensor) else actions)
        return as_action_tensor(checked, self.device)

    @torch.no_grad()
    def _advance(self, state: WorldState, actions: Tensor, decode: bool = True) -> WorldState:
        """Denoise the next latent of every lane against its memory, commit it, and decode its raw frames."""
        carried = state.carried
        path, camera, action = self._advance_camera(carried, actions)
        conditions = self._conditions(carried, torch.cat([carried["pose"][:, None], path], dim=1), action)
        noise = lane_noise(state.seeds, state.frame, 0, tuple(state.latent.shape[1:]))[:, :, None]
        sigmas = few_step_schedule(self.config.timesteps)
        latents, stream = stream_chunk(self.transformer, state.stream, noise, conditions, sigmas)
        carried = carried | camera
        if decode:
            tails = tuple(carried[name] for name in sorted(carried, key=_tail) if _tail(name) >= 0)
            frames, tails = self.vae.decode_stream(latents, tails)
            carried |= _named(tails) | {"frames": frames}
        return WorldState(stream, latents[:, :, 0], state.seeds, carried, state.origin)

    def _advance_camera(self, carried: dict[str, Tensor], actions: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Poses of a step's raw frames (B, 8, 4, 4), what lanes carry then, what the network is told (B, 1, A)."""
        if isinstance(self.codec, ActionCodec):
            pose = carried["pose"]
            path = pose[:, None].expand(-1, self.vae.stride, -1, -1)
            return path, {"pose": pose}, self.codec.normalise(actions)[:, None]
        path, camera = self.codec.advance(carried, actions)
        return path, camera, actions.new_zeros(len(actions), 1, 0)

    def _conditions(self, told: dict[str, Tensor], poses: Tensor, actions: Tensor, first: bool = False) -> Conditions:
        """What the transformer is told of latent frames whose raw frames have these poses.

        Args:
            poses: (B, 8 n + 1, 4, 4), from the raw frame before the latents on. first: that frame is a latent itself.
        """
        c = self.transformer.config
        intrinsics = scale_intrinsics(told["intrinsics"], self.config.resolution, c.grid)
        intrinsics = intrinsics[:, None].expand(-1, poses.shape[1], -1)
        poses, start = poses.float(), 0 if first else 1
        camera = plucker = None
        if c.camera:
            camera = camera_vectors(poses, intrinsics, self.vae.stride)[:, start:]
        if c.plucker_channels:  # a first latent cannot know poses to come: an environment learns them step by step
            plucker = plucker_pack(poses, intrinsics, c.grid, self.vae.stride, look_ahead=False)[:, :, start:]
        text = self.transformer.encode_text(told["text"], told["text_mask"]) if c.text_dim else None
        return Conditions(text=text, camera=camera, plucker=plucker, actions=actions if c.action_dim else None)

    def _still(self, lanes: int) -> dict[str, Tensor]:
        """A camera that does not move: at the origin."""
        return {"pose": torch.eye(4, dtype=torch.float64, device=self.device).repeat(lanes, 1, 1)}

    def _intrinsics(self, intrinsics: Any, lanes: int) -> Tensor:
        values = self.config.intrinsics() if intrinsics is None else intrinsics
        return torch.from_numpy(as_intrinsics(values, lanes)).to(self.device)

    def _prompts(self, prompt: str | Sequence[str] | None, lanes: int) -> list[str]:
        prompts = [prompt or self.config.task] * lanes if prompt is None or isinstance(prompt, str) else list(prompt)
        if len(prompts) != lanes or not all(isinstance(text, str) for text in prompts):
            raise ValueError(
                f"got {len(prompts)} prompts {prompts!r:.200}, expected one text, or {lanes}, one per lane"
            )
        return prompts

    def _features(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Features (B, L, C) and mask (B, L); prompts that are new go through the text encoder once."""
        if new := [text for text in dict.fromkeys(prompts) if text not in self.prompts]:
            features, masks = self._encoder(new)(new)
            for text, row, mask in zip(new, features.to("cpu", self.transformer.dtype), masks.cpu(), strict=True):
                self.prompts[text] = row.clone(), mask.clone()
        features, masks = zip(*(self.prompts[text] for text in prompts), strict=True)
        return torch.stack(features).to(self.device), torch.stack(masks).to(self.device)

    def _encoder(self, new: list[str]) -> PromptEncoder:
        source = self.prompt_encoder
        if isinstance(source, PromptEncoder):
            return source
        if source is None or source.text_encoder is None:
            known = ", ".join(repr(text) for text in list(self.prompts)[:5]) or "none"
            where = f"; put it into {source.root / 'text_encoder'}" if source else ""
            raise ValueError(
                f"the prompt {new[0]!r} is new and this world has no text encoder; it knows {known}{where}"
            )
        tokenizer = source.tokenizer or source.text_encoder
        return PromptEncoder.from_pretrained(source.text_encoder, tokenizer, self.transformer.dtype).to(self.device)


def _named(tails: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"tail.{index}": tail for index, tail in enumerate(tails)}


def _tail(name: str) -> int:
    """Number of a decoder's tail in what a lane carries, -1 for anything else."""
    return int(name.removeprefix("tail.")) if name.startswith("tail.") else -1
