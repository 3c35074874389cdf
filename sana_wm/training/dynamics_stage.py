"""The dynamics: the transformer on cached latents, trained on exactly what a rollout does.

Every frame is denoised against the clean, committed past: a clean stream (writers) and a noisy stream (readers) in one
forward pass make that parallel over frames. Two things fight drift: the past carries a little noise, and in a growing
share of steps the past is the model's own prediction of it ("self-forcing"), made without gradient by earlier passes.
And as a rollout begins from frames alone, the proprioception of a window's first frames is at times what the heads read
from them in place of what was recorded.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from sana_wm.diffusion.flow import TIMESTEPS, FlowConfig, interpolate, network_input, predicted_clean, start_point
from sana_wm.models.refiner import Refiner
from sana_wm.models.transformer import CleanPast, SanaTransformer
from sana_wm.training.batches import batch_rng, noise_generator
from sana_wm.training.loop import autocast, compiled


@dataclass(frozen=True)
class DynamicsLoss:
    """Weights and augmentations.

    Attributes:
        frames: window length T + 1: T predictions.
        start_share: share of predictions trained at sigma = 1, where every rollout step begins.
        motion_share: share of windows drawn in proportion to how far proprioception moves in them, the rest evenly:
            where things only move when touched, most windows say little.
        past_noise: largest standard deviation of the noise on the past's image latents; each window draws its own.
        past_proprio_noise: the same for proprioception. Small: contact is a matter of a hundredth of its spread.
        read_share: share of windows whose first ``context`` frames carry proprioception as read from the image.
        movement: tokens weigh ``1 + movement * min(1, |change| / change_scale)``: what moves is what matters.
        self_forcing: share of steps at the end of training whose past is predicted by the model itself.
        self_forcing_from: progress at which self-forcing sets in (it grows linearly to the end).
        self_forcing_depth: how many predictions in a row the past is at most made of.
        image, proprio: weights of the error of image latents and of proprioception.
    """

    batch_size: int = 16
    frames: int = 17
    start_share: float = 0.5
    motion_share: float = 0.0
    past_noise: float = 0.1
    past_proprio_noise: float = 0.01
    read_share: float = 0.5
    movement: float = 6.0
    change_scale: float = 0.5
    self_forcing: float = 0.8
    self_forcing_from: float = 0.3
    self_forcing_depth: int = 3
    image: float = 1.0
    proprio: float = 10.0


def motion_of_windows(proprio: np.ndarray, starts: np.ndarray, frames: int) -> np.ndarray:
    """How far proprioception moves in the windows of ``frames`` rows at ``starts``, summed up over the windows.

    Args:
        proprio: (N, K, h, w) standardised.
    Returns:
        (len(starts),) float64, ascending: entry i less entry i - 1 is what moves in window i.
    Raises:
        ValueError: there is no proprioception, or nothing moves.
    """
    moved = np.zeros(len(proprio))  # from the first row to each
    if proprio.shape[1]:
        moved[1:] = np.cumsum(
            np.abs(np.diff(proprio.astype(np.float32), axis=0)).mean(axis=(1, 2, 3)), dtype=np.float64
        )
    total = np.cumsum(moved[starts + frames - 1] - moved[starts])
    if not total[-1] > 0:
        raise ValueError("motion_share draws windows in which proprioception moves, and none does: set it to 0")
    return total


class DynamicsTraining(nn.Module):
    """The transformer on windows of latents and actions.

    Args:
        latents: (N, C, h, w). actions: (N, A) normalised, row t leads from t to t + 1.
        starts: rows at which windows may start.
        image_channels: so many of the channels are the image's; the rest is proprioception (`sana_wm.nn.proprio`).
        read: (N, K, h, w) the proprioceptive channels as the heads read them from the image. context: how many frames a
            rollout begins from. refiner: draws pictures again in a rollout, and so in the model's own past.
    """

    def __init__(
        self,
        transformer: SanaTransformer,
        flow: FlowConfig,
        loss: DynamicsLoss,
        latents: np.ndarray,
        actions: np.ndarray,
        starts: np.ndarray,
        image_channels: int,
        seed: int,
        bf16: str,
        read: np.ndarray | None = None,
        context: int = 1,
        refiner: Refiner | None = None,
        compile: str = "off",
    ):
        super().__init__()
        self.transformer, self.flow, self.config = transformer, flow, loss
        self.latents, self.actions, self.starts = latents, actions, starts
        self.image_channels, self.seed, self.bf16 = image_channels, seed, bf16
        self.read, self.context = read, context
        self.motion = motion_of_windows(latents[:, image_channels:], starts, loss.frames) if loss.motion_share else None
        self.denoise = compiled(transformer.forward, compile, transformer.device)
        self.redraw = None if refiner is None else refiner.redraw  # a function: the refiner is not trained here

    def draw_windows(self, rng: np.random.Generator) -> np.ndarray:
        """Rows (B,) at which the windows of a batch start."""
        count = self.config.batch_size
        rows = rng.choice(self.starts, count)
        if self.motion is None:
            return rows
        places = np.searchsorted(self.motion, rng.random(count) * self.motion[-1], side="right")
        return np.where(rng.random(count) < self.config.motion_share, self.starts[places], rows)

    def window(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Rows (B,) -> latents (B, C, T, h, w), actions (B, T, A) leading to each frame (first: zeros)."""
        device, frames = self.transformer.device, self.config.frames
        index = rows[:, None] + np.arange(frames)
        latents = torch.from_numpy(self.latents[index].astype(np.float32)).to(device).transpose(1, 2)
        actions = torch.zeros(*index.shape, self.actions.shape[-1])
        actions[:, 1:] = torch.from_numpy(self.actions[index[:, :-1]])
        return latents, actions.to(device)

    def begun_from_frames(self, past: Tensor, rows: np.ndarray, lanes: np.ndarray) -> Tensor:
        """The past of windows at ``rows``; the ``lanes`` (a mask) begin with proprioception as the heads read it."""
        frames = min(self.context, past.shape[2])
        read = self.read[rows[lanes, None] + np.arange(frames)].astype(np.float32)  # lanes, frames, K, h, w
        past = past.clone()
        past[lanes, self.image_channels :, :frames] = torch.from_numpy(read).to(past.device).transpose(1, 2)
        return past

    def predict(self, past: Tensor, actions: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Network output for frames 1..T given the past 0..T-1, which is also their source.

        past, noisy: (B, C, T, h, w). sigma: (B, T).
        """
        before = torch.cat([torch.zeros_like(past[:, :, :1]), past[:, :, :-1]], dim=2)
        stream = CleanPast(network_input(self.flow, past, before, 0.0), actions[:, :-1], before)
        shown = network_input(self.flow, noisy, past, sigma[:, None, :, None, None])
        with autocast(past.device, self.bf16):
            out = self.denoise(shown, sigma * TIMESTEPS, actions=actions[:, 1:], source=past, past=stream)
        return out.velocity.float()

    @torch.no_grad()
    def own_past(self, past: Tensor, actions: Tensor, depth: int, noise: torch.Generator) -> Tensor:
        """Replace frames 1..T-1 of the past by predictions, ``depth`` times over: errors as a rollout makes them."""
        made = past
        for _ in range(depth):
            draw = torch.randn(made.shape, generator=noise, device=made.device)
            begin = start_point(self.flow, made, draw)
            sigma = torch.ones(made.shape[0], made.shape[2], device=made.device)
            output = self.predict(made, actions, begin, sigma)
            frames = predicted_clean(self.flow, output, begin, made, sigma.new_tensor(1.0))
            if self.redraw is not None:
                flat = rearrange(frames, "b c t h w -> (b t) c h w")
                picture = (len(flat), self.image_channels, *flat.shape[2:])
                drawn = torch.randn(picture, generator=noise, device=flat.device)
                frames = rearrange(self.redraw(flat, drawn), "(b t) c h w -> b c t h w", b=len(frames))
            made = torch.cat([past[:, :, :1], frames[:, :, :-1]], dim=2)
        return made

    def losses(self, step: int, progress: float) -> dict[str, Tensor]:
        c, image = self.config, self.image_channels
        rng = batch_rng(self.seed, step)
        device = self.transformer.device
        noise = noise_generator(self.seed, step, device)
        rows = self.draw_windows(rng)
        clip, actions = self.window(rows)
        past, target = clip[:, :, :-1], clip[:, :, 1:]
        if self.read is not None:
            past = self.begun_from_frames(past, rows, rng.random(c.batch_size) < c.read_share)

        forcing = c.self_forcing * max(0.0, (progress - c.self_forcing_from) / (1 - c.self_forcing_from))
        if rng.random() < forcing:
            past = self.own_past(past, actions, int(rng.integers(1, c.self_forcing_depth + 1)), noise)
        largest = torch.full((past.shape[1], 1, 1, 1), c.past_proprio_noise, device=device)
        largest[:image] = c.past_noise
        level = largest * torch.rand(len(clip), 1, 1, 1, 1, generator=noise, device=device)
        past = past + level * torch.randn(past.shape, generator=noise, device=device)

        draw = torch.randn(target.shape, generator=noise, device=device)
        begin = start_point(self.flow, past, draw)
        sigma = torch.rand(target.shape[0], target.shape[2], generator=noise, device=device)
        at_start = torch.rand(sigma.shape, generator=noise, device=device) < c.start_share
        sigma = torch.where(at_start, torch.ones_like(sigma), sigma)
        sigma_wide = sigma[:, None, :, None, None]
        noisy = interpolate(target, begin, sigma_wide)
        output = self.predict(past, actions, noisy, sigma)
        predicted = predicted_clean(self.flow, output, noisy, past, sigma_wide)

        change = (target - clip[:, :, :-1])[:, :image].abs().mean(dim=1, keepdim=True)
        weight = 1 + c.movement * (change / c.change_scale).clamp(max=1)
        # velocity models are weighed in v, change models in x0 (their v error is the same divided by sigma)
        velocity_model = self.flow.prediction == "velocity"
        error = (output - (begin - target)).pow(2) if velocity_model else (predicted - target).pow(2)
        result = {"image": (weight * error[:, :image]).mean()}
        total = c.image * result["image"]
        if predicted.shape[1] > image:
            # close to L1: a millimetre of the block matters as much when most of the world stands still
            result["proprio"] = smooth_l1_loss(predicted[:, image:], target[:, image:], beta=0.05)
            total = total + c.proprio * result["proprio"]
        return result | {"loss": total}
