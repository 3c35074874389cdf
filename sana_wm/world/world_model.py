"""WorldModel: begin from frames, step with actions, read what happened."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sana_wm.diffusion.flow import (
    TIMESTEPS,
    FlowConfig,
    euler_step,
    network_input,
    predicted_velocity,
    sigma_grid,
    start_point,
)
from sana_wm.models.heads import Heads
from sana_wm.models.refiner import Refiner
from sana_wm.models.transformer import SanaTransformer
from sana_wm.nn.proprio import pack, unpack
from sana_wm.world.action_codec import as_action_tensor
from sana_wm.world.bundle import CALIBRATE, load_part, load_starts, load_trust, locate, read_config, save_bundle
from sana_wm.world.config import WorldConfig
from sana_wm.world.fingerprint import fingerprint
from sana_wm.world.noise import lane_noise
from sana_wm.world.starts import Starts
from sana_wm.world.tokenizer import FrameTokenizer
from sana_wm.world.trust import DOUBT, SIGNALS, Trust, disagreements
from sana_wm.world.world_state import WorldState


@dataclass(frozen=True)
class Prediction:
    """What a world says about one step of B lanes, or about H steps (axis after B).

    Attributes:
        latents: (B, C, h, w) or (B, H, C, h, w).
        reward: (B,) or (B, H). terminated, success: probabilities, same shape. proprio: (..., P), dataset units.
        uncertainty: the signal `model_uncertainty` (docs/trust.md), where it was asked for: of steps from a watched
            state (`WorldModel.watch`) and of `rollout(..., uncertainty=True)`. Fields that a world has no head for are
            None.
    """

    latents: Tensor
    reward: Tensor | None = None
    terminated: Tensor | None = None
    success: Tensor | None = None
    proprio: Tensor | None = None
    uncertainty: Tensor | None = None


class WorldModel:
    """A trained world.

    ``state = world.begin(frames, actions, seeds=[...])``, then ``state, prediction = world.step(state, actions)``. A
    state is a value: keep it, fork it (``state.repeat(n)``), go back to it.
    """

    def __init__(
        self,
        config: WorldConfig,
        transformer: SanaTransformer,
        tokenizer: FrameTokenizer,
        heads: Heads,
        starts: Starts,
        card: str = "",
        refiner: Refiner | None = None,
        trust: Trust | None = None,
    ):
        self.config, self.codec, self.starts, self.card = config, config.codec, starts, card
        self.transformer = transformer.eval().requires_grad_(False)
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.heads = heads.eval().requires_grad_(False)
        self.refiner = refiner.eval().requires_grad_(False) if refiner is not None else None
        self.trust = trust

    @classmethod
    def from_pretrained(
        cls, name_dir_or_repo: str | os.PathLike, device: Any = None, *, trust: bool = True
    ) -> WorldModel:
        """Load a bundle: a folder, the name of a shipped world, or a hub repository.

        trust: whether to load the trust data as well, where there are any.

        Raises:
            ValueError: unknown world, or files that are missing, damaged or do not fit each other.
        """
        folder = locate(name_dir_or_repo)
        config = read_config(folder)
        transformer = SanaTransformer(config.transformer)
        tokenizer = FrameTokenizer(config.tokenizer, config.resolution)
        heads = Heads(config.heads)
        refiner = Refiner(config.refiner) if config.refiner else None
        card = folder / "card.md"
        text = card.read_text() if card.is_file() else ""
        world = cls(config, transformer, tokenizer, heads, load_starts(folder), text, refiner)
        for name, module in world.parts.items():
            load_part(module, folder / f"{name}.safetensors")
        world.trust = load_trust(folder, config) if trust else None
        if world.trust is not None:
            world.trust.made_for = world.fingerprint
        return world.to(device) if device is not None else world

    def save_pretrained(self, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Write the bundle, whole or not at all. ``dtype``: precision of the stored weights (default: as they are).

        Trust data that were calibrated for other weights are left out, with a warning.
        """
        trust = self.trust
        if trust is not None and trust.made_for != fingerprint(self.parts):  # not the cached one: weights may be new
            warnings.warn(f"the weights are not those that trust was calibrated for; {CALIBRATE}", stacklevel=2)
            trust = None
        save_bundle(Path(folder), self.config, self.parts, self.starts, self.card, dtype, trust)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks by name, as a bundle stores them."""
        parts = {"transformer": self.transformer, "tokenizer": self.tokenizer, "heads": self.heads}
        return parts | ({"refiner": self.refiner} if self.refiner is not None else {})

    @cached_property
    def fingerprint(self) -> str:
        """Identifies its weights, as they were when it was first asked."""
        return fingerprint(self.parts)

    def to(self, device: Any) -> WorldModel:
        """Move the networks, in place; "auto" takes CUDA where there is one."""
        if str(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        for module in self.parts.values():
            module.to(device)
        self.tokenizer.to(memory_format=torch.channels_last)
        if self.trust is not None:
            self.trust.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @torch.no_grad()
    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3) -> latents (B, T, C, h, w): of the tokenizer, then proprioception read from them."""
        frames = torch.as_tensor(frames)
        if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise ValueError(
                f"frames are {frames.dtype} of shape {tuple(frames.shape)}, expected uint8 (B, T, H, W, 3)"
            )
        latents = self.tokenizer.encode(frames.to(self.device))
        if not self.config.heads.proprio_dim:
            return latents
        return torch.cat([latents, pack(self.heads(latents)["proprio"], self.config.heads.grid)], dim=-3)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """latents (..., C, h, w) -> uint8 (..., H, W, 3)."""
        return self.tokenizer.decode(latents.to(self.device)[..., : self.config.heads.channels, :, :])

    def frames(self, state: WorldState) -> np.ndarray:
        """The raw frames that the last step made, uint8 (B, n, H, W, 3): here n = 1; video worlds make several."""
        return self.decode(state.latent)[:, None]

    def read(self, latents: Tensor) -> Prediction:
        """What given latents (..., C, h, w) say, imagined ones or those of ``encode``.

        Differentiable where the latents carry a gradient.
        """
        with torch.set_grad_enabled(_wants_grad(latents)):
            return self._read(latents)

    def _read(self, latents: Tensor) -> Prediction:
        latents, c = latents.to(self.device), self.config.heads
        image, rest = latents[..., : c.channels, :, :], latents[..., c.channels :, :, :]
        out = self.heads(image, unpack(rest, c.proprio_dim) if c.proprio_dim else None)
        return Prediction(
            latents,
            out["reward"] if c.reward else None,
            out["terminated"].sigmoid() if c.terminated else None,
            out["success"].sigmoid() if c.success else None,
            unpack(rest, c.proprio_dim) * self.heads.proprio_std + self.heads.proprio_mean if c.proprio_dim else None,
        )

    @torch.no_grad()
    def begin(
        self,
        frames: np.ndarray | Tensor,
        actions: np.ndarray | Tensor | None = None,
        prompt: str | None = None,
        seeds: Sequence[int] | Tensor | None = None,
    ) -> WorldState:
        """Lanes that have seen their context frames.

        Args:
            frames: uint8 (B, T, H, W, 3). actions: (B, T - 1, A) in dataset units, number k leads from k to k + 1;
                may be left out for a single frame. prompt: worlds without a text encoder take none.
            seeds: (B,) int64, one per lane; default 0, 1, ...
        Raises:
            ValueError: shapes, units or a prompt that the world cannot take.
        """
        if prompt is not None:
            raise ValueError("this world was trained without text: leave prompt out")
        if 0 in np.shape(frames)[:2]:
            raise ValueError(f"frames have shape {tuple(np.shape(frames))}: begin needs at least one frame per lane")
        latents = self.encode(frames).transpose(1, 2)  # B C T h w
        lanes, count = latents.shape[0], latents.shape[2]
        seeds = torch.arange(lanes) if seeds is None else torch.as_tensor(seeds, dtype=torch.int64)
        if seeds.shape != (lanes,):
            raise ValueError(f"seeds have shape {tuple(seeds.shape)}, expected ({lanes},): one per lane")
        led_by = torch.zeros(lanes, count, self.codec.width, device=self.device)
        if count > 1:
            expected = (lanes, count - 1, self.codec.width)
            got = None if actions is None else tuple(np.shape(actions))
            if got != expected:
                raise ValueError(f"actions have shape {got}, expected {expected}: one between any two context frames")
            led_by[:, 1:] = self.codec.normalise(as_action_tensor(self.codec.check(actions), self.device))
        before = torch.cat([torch.zeros_like(latents[:, :, :1]), latents[:, :, :-1]], dim=2)
        still = torch.zeros(lanes, count, device=self.device)
        shown = network_input(self.config.flow, latents, before, 0.0)
        out = self.transformer(shown, still, actions=led_by, source=before, commit=True)
        return WorldState(out.state, latents[:, :, -1], seeds.to(self.device), origin=self.fingerprint)

    @torch.no_grad()
    def step(self, state: WorldState, actions: np.ndarray | Tensor) -> tuple[WorldState, Prediction]:
        """One step of every lane in one batch. actions: (B, A) in dataset units.

        Raises:
            ValueError: bad actions, or a state of another world.
        """
        state = self.adopt(state)
        if tuple(np.shape(actions)) != (state.num_lanes, self.codec.width):
            raise ValueError(
                f"actions have shape {tuple(np.shape(actions))}, expected {(state.num_lanes, self.codec.width)}"
            )
        checked = self.codec.check(actions.detach().cpu() if isinstance(actions, Tensor) else actions)
        led_by = self.codec.normalise(as_action_tensor(checked, self.device))
        before, state = state, self._advance(state, led_by)
        if self.trust is None or DOUBT not in before.carried:
            return state, self.read(state.latent)
        state = self._doubted(before, state, led_by)
        return state, replace(self.read(state.latent), uncertainty=self.trust.uncertainty(state.carried[DOUBT]))

    def rollout(self, state: WorldState, actions: np.ndarray | Tensor, uncertainty: bool = False) -> Prediction:
        """Imagine H steps without decoding. actions: (B, H, A) in dataset units -> Prediction over H.

        uncertainty: whether the prediction says it, at the cost of half as much again.

        Differentiable with respect to actions that are a tensor with ``requires_grad`` (unless gradients are off): the
        prediction then carries the graph of all H steps. The weights stay frozen, and uncertainty has no gradient.
        """
        state = self.adopt(state)
        state = self.watch(state) if uncertainty else state
        shape = tuple(np.shape(actions))
        if len(shape) != 3 or shape[0] != state.num_lanes or shape[1] < 1 or shape[2] != self.codec.width:
            raise ValueError(f"actions have shape {shape}, expected ({state.num_lanes}, H >= 1, {self.codec.width})")
        checked = self.codec.check(actions.detach().cpu() if isinstance(actions, Tensor) else actions)
        latents, doubts = [], []
        with torch.set_grad_enabled(_wants_grad(actions)):
            kept = actions.to(self.device) if _wants_grad(actions) else as_action_tensor(checked, self.device)
            led_by = self.codec.normalise(kept)
            for k in range(shape[1]):
                before, state = state, self._advance(state, led_by[:, k], last=k == shape[1] - 1)
                latents.append(state.latent)
                if uncertainty:
                    state = self._doubted(before, state, led_by[:, k])
                    doubts.append(state.carried[DOUBT])
            prediction = self.read(torch.stack(latents, dim=1))
        if not uncertainty:
            return prediction
        return replace(prediction, uncertainty=self.trust.uncertainty(torch.stack(doubts, dim=1)))

    @property
    def signal_names(self) -> tuple[str, ...]:
        """The trust signals that the world can tell: all of docs/trust.md, or none if it was never calibrated."""
        return SIGNALS if self.trust is not None else ()

    def watch(self, state: WorldState, on: bool = True) -> WorldState:
        """The state with a count of its doubts, from here on where it has none, or (``on=False``) without.

        Steps of a watched state predict twice and fill ``Prediction.uncertainty``.

        Raises:
            ValueError: the world was never calibrated.
        """
        if not on:
            return replace(state, carried={}) if state.carried else state
        if self.trust is None:
            raise ValueError(
                "this world has no trust data: calibrate it (python -m sana_wm.calibrate), or ask for no uncertainty"
            )
        if DOUBT in state.carried:
            return state
        return replace(state, carried={DOUBT: torch.zeros(state.num_lanes, device=state.seeds.device)})

    @torch.no_grad()
    def signals(
        self,
        state: WorldState | None,
        prediction: Prediction,
        actions: np.ndarray | Tensor | None,
        frames: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """The trust signals of a step, name -> float32 (B,); 1 is what 99 % of held-out steps stay below.

        Args:
            state: before the step, and ``actions`` (B, A) in dataset units: for ``ood_action``. None: of no step, but
                of the latents of ``prediction`` alone.
            prediction: of the step. ``model_uncertainty`` is its ``uncertainty``.
            frames: uint8 (B, n, H, W, 3) as decoded after the step: for ``drift``, which encodes the last again.
        Returns: those whose arguments are there; nothing for a world that was never calibrated.
        """
        if self.trust is None:
            return {}
        heads, found = self.config.heads, {}
        if prediction.uncertainty is not None:
            found["model_uncertainty"] = prediction.uncertainty
        if state is not None:
            led_by = self.codec.normalise(as_action_tensor(actions, self.device))
            found["ood_action"] = self.trust.ood_action(state.latent, led_by, heads)
        found["ood_state"] = self.trust.ood_state(prediction.latents, heads)
        if frames is not None:
            again = self.encode(np.ascontiguousarray(frames[:, -1:]))[:, 0]
            found["drift"] = self.trust.drift(prediction.latents, again, heads)
        return {name: signal.float().cpu().numpy() for name, signal in found.items()}

    @torch.no_grad()
    def _doubted(self, before: WorldState, after: WorldState, led_by: Tensor) -> WorldState:
        """The state after a step, with what is to be doubted of that step on top of what was before."""
        doubt = self.trust.doubts(disagreements(self, before, after.latent, led_by))
        return replace(after, carried={DOUBT: before.carried[DOUBT] + doubt})

    def _advance(self, state: WorldState, actions: Tensor, last: bool = False) -> WorldState:
        """Denoise the next frame of every lane against the memory, then commit it (not needed after the last one)."""
        flow: FlowConfig = self.config.flow
        previous = state.latent[:, :, None]
        noise = lane_noise(state.seeds, state.frame, 0, tuple(state.latent.shape[1:]))[:, :, None]
        x = start_point(flow, previous, noise)
        sigmas = sigma_grid(flow.steps, flow.shift, self.device)
        led_by = actions[:, None]
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            time = (sigma * TIMESTEPS).expand(state.num_lanes)
            shown = network_input(flow, x, previous, sigma)
            out = self.transformer(shown, time, actions=led_by, source=previous, state=state.stream)
            velocity = predicted_velocity(flow, out.velocity, x, previous, sigma)
            x = euler_step(x, velocity, sigma, following)
        x = self._refine(x[:, :, 0], state)[:, :, None]
        if last:
            return WorldState(state.stream, x[:, :, 0], state.seeds, origin=state.origin)
        still = torch.zeros(state.num_lanes, device=self.device)
        shown = network_input(flow, x, previous, 0.0)
        out = self.transformer(shown, still, actions=led_by, source=previous, state=state.stream, commit=True)
        return WorldState(out.state, x[:, :, 0], state.seeds, origin=state.origin)

    def _refine(self, latent: Tensor, state: WorldState) -> Tensor:
        """The picture of new latents (B, C, h, w) drawn again by the second stage, where the world has one."""
        if self.refiner is None:
            return latent
        shape = (self.refiner.config.channels, *latent.shape[2:])
        return self.refiner.redraw(latent, lane_noise(state.seeds, state.frame, 1, shape))

    def adopt(self, state: WorldState) -> WorldState:
        """The state on this world's device.

        Raises:
            ValueError: a state of another world: of other shapes, or made by other weights.
        """
        empty = self.transformer.initial_state(0)
        shapes = [{k: (tuple(v.shape[1:]), v.dtype) for k, v in block.items()} for block in state.stream.blocks]
        expected = [{k: (tuple(v.shape[1:]), v.dtype) for k, v in block.items()} for block in empty.blocks]
        latent = (self.config.transformer.in_channels, *self.config.transformer.grid)
        if shapes != expected or tuple(state.latent.shape[1:]) != latent:
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


def _wants_grad(values: np.ndarray | Tensor) -> bool:
    return torch.is_grad_enabled() and isinstance(values, Tensor) and values.requires_grad
