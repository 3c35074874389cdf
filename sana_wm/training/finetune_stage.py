"""Fine-tuning SANA-WM to a robot: flow matching on clips, every latent frame against the clean ones before it.

What a step of the world does is what is trained: one latent frame is one chunk, it is denoised against the memory of
the frames before it, which stand clean at timestep 0, and eight raw actions lead to it. The first frame of a clip is
given: at timestep 0 and out of the loss (spec section 9.3). The camera stands still, in training as in the world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sana_wm.diffusion.flow import TIMESTEPS, interpolate, shift_sigma
from sana_wm.models.transformer import CleanPast, SanaTransformer
from sana_wm.nn.camera import camera_vectors, plucker_pack, scale_intrinsics
from sana_wm.training.batches import batch_rng, noise_generator
from sana_wm.training.loop import autocast


@dataclass(frozen=True)
class FinetuneLoss:
    """batch_size: clips of an update. class_dropout: share of them that are told no text.

    past_noise: largest standard deviation of the noise on the frames that are seen; each clip draws its own.
    """

    batch_size: int = 2
    class_dropout: float = 0.1
    past_noise: float = 0.0


def still_camera(
    transformer: SanaTransformer, intrinsics: np.ndarray, resolution: tuple[int, int], frames: int, stride: int
) -> tuple[Tensor | None, Tensor | None]:
    """What the network is told of a camera that does not move, as VideoWorld tells it.

    Args:
        intrinsics: (4,) in pixels. frames: latent frames T.
    Returns: camera (1, T, 20) and Plücker pack (1, 6 stride, T, h, w), or None where the network takes none.
    """
    c = transformer.config
    raw = stride * (frames - 1) + 1
    pose = torch.eye(4, device=transformer.device).expand(1, raw, 4, 4)
    lens = torch.from_numpy(intrinsics).to(transformer.device).expand(1, raw, 4)
    lens = scale_intrinsics(lens, resolution, c.grid)
    camera = camera_vectors(pose, lens, stride) if c.camera else None
    return camera, plucker_pack(pose, lens, c.grid, stride, look_ahead=False) if c.plucker_channels else None


def recompute_activations(transformer: SanaTransformer) -> None:
    """Keep no activations inside blocks: the backward pass computes them again, block by block."""
    for block in transformer.blocks:
        forward = block.forward
        block.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)


class FinetuneTraining:
    """The transformer on clips.

    Args:
        latents: (N, C, T + 1, h, w), a memory map. actions: (N, T, A) as the network sees them; row i - 1 leads to
            latent i. texts: (N,) number of each clip's text.
        text: features (K, L, E) and masks (K, L) of the texts; the last one is the text of no prompt if
            ``has_null``. None: the network takes no text.
        camera, plucker: of :func:`still_camera`, T + 1 frames.
        train: numbers of the clips to train on.
    """

    def __init__(
        self,
        transformer: SanaTransformer,
        loss: FinetuneLoss,
        shift: float,
        latents: np.ndarray,
        actions: np.ndarray,
        texts: np.ndarray,
        text: tuple[Tensor, Tensor] | None,
        has_null: bool,
        camera: Tensor | None,
        plucker: Tensor | None,
        train: np.ndarray,
        seed: int,
        bf16: str,
    ):
        self.transformer, self.config, self.shift = transformer, loss, shift
        self.latents, self.actions, self.texts = latents, actions, texts
        self.text, self.has_null, self.camera, self.plucker = text, has_null, camera, plucker
        self.train, self.seed, self.bf16 = train, seed, bf16

    def predict(
        self, clip: Tensor, past: Tensor, noisy: Tensor, sigma: Tensor, actions: Tensor, texts: Tensor | None
    ) -> Tensor:
        """Velocity (B, C, T, h, w) of latents 1 ... T.

        Args:
            clip: (B, C, T + 1, h, w) for its shape. past: (B, C, T, h, w) latents 0 ... T - 1 as they are seen.
            noisy: latents 1 ... T at sigma (B, T). actions: (B, T, A). texts: (B,) numbers.
        """
        lanes, width = len(clip), actions.shape[-1]
        before = torch.cat([actions.new_zeros(lanes, 1, width), actions[:, :-1]], dim=1)  # nothing led to latent 0
        camera = self._cut(self.camera, lanes, 1)
        plucker = self._cut(self.plucker, lanes, 2)
        stream = CleanPast(past, before, None, camera[0], plucker[0])
        features, mask = (None, None) if self.text is None else (part[texts] for part in self.text)
        with autocast(clip.device, self.bf16):
            out = self.transformer(
                noisy, sigma * TIMESTEPS, features, mask, camera=camera[1], plucker=plucker[1], actions=actions,
                past=stream,
            )  # fmt: skip
        return out.velocity.float()

    @staticmethod
    def _cut(told: Tensor | None, lanes: int, time: int) -> tuple[Tensor | None, Tensor | None]:
        """Conditions of the frames that are seen, and of those that are denoised."""
        if told is None:
            return None, None
        told, frames = told.expand(lanes, *told.shape[1:]), told.shape[time] - 1
        return told.narrow(time, 0, frames), told.narrow(time, 1, frames)

    def flow_loss(self, rows: np.ndarray, noise: torch.Generator, dropped: np.ndarray | None = None) -> Tensor:
        """Mean squared error of the velocity on clips ``rows``. dropped: (B,) bool, clips that are told no text."""
        device = self.transformer.device
        clip = torch.from_numpy(self.latents[rows].astype(np.float32)).to(device)
        actions = torch.from_numpy(self.actions[rows]).to(device)
        texts = self.texts[rows]
        if dropped is not None and self.has_null:
            texts = np.where(dropped, -1, texts)
        past, target = clip[:, :, :-1], clip[:, :, 1:]
        level = self.config.past_noise * torch.rand(len(clip), 1, 1, 1, 1, generator=noise, device=device)
        past = past + level * torch.randn(past.shape, generator=noise, device=device)
        draw = torch.randn(target.shape, generator=noise, device=device)
        logit = torch.randn(len(clip), target.shape[2], generator=noise, device=device)
        sigma = shift_sigma(logit.sigmoid(), self.shift)
        noisy = interpolate(target, draw, sigma[:, None, :, None, None])
        texts = None if self.text is None else torch.from_numpy(texts).to(device)
        return (self.predict(clip, past, noisy, sigma, actions, texts) - (draw - target)).pow(2).mean()

    def losses(self, step: int, progress: float) -> dict[str, Tensor]:
        """The batch of a step, a pure function of it."""
        rng, c = batch_rng(self.seed, step), self.config
        rows = rng.choice(self.train, c.batch_size)
        dropped = rng.random(c.batch_size) < c.class_dropout
        return {"loss": self.flow_loss(rows, noise_generator(self.seed, step, self.transformer.device), dropped)}

    @torch.no_grad()
    def held_out(self, rows: np.ndarray, most: int = 32) -> float:
        """Flow loss on clips ``rows`` (at most ``most`` of them, evenly), with the same noise every time."""
        rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)]
        noise = noise_generator(0, 0, self.transformer.device)
        size = self.config.batch_size
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        return float(sum(len(part) * self.flow_loss(part, noise) for part in parts) / len(rows))
