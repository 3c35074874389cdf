"""The tokenizer: the autoencoder, on single frames."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sana_wm.data.arrays import EpisodeArrays
from sana_wm.evaluation.fidelity import psnr
from sana_wm.models.heads import Heads, HeadsConfig
from sana_wm.training.batches import batch_rng, noise_generator, take_frames
from sana_wm.training.loop import autocast
from sana_wm.world.tokenizer import FrameTokenizer


@dataclass(frozen=True)
class TokenizerLoss:
    """Weights of the loss.

    Pixels that differ from the background weigh ``1 + foreground``: what moves is a few percent of a frame and all
    that matters. ``latent_noise`` (in standard deviations of the latents) makes the decoder forgive imperfect latents.
    ``proprio`` asks a small network to read the robot's state from the latents, so that they hold it plainly.
    """

    batch_size: int = 32
    foreground: float = 8.0
    latent_noise: float = 0.1
    proprio: float = 0.1


class TokenizerTraining(nn.Module):
    """The tokenizer and its probe, trained together; the probe is left behind afterwards."""

    def __init__(
        self,
        tokenizer: FrameTokenizer,
        arrays: EpisodeArrays,
        proprio: np.ndarray,
        train_rows: np.ndarray,
        loss: TokenizerLoss,
        seed: int,
        bf16: str,
    ):
        super().__init__()
        self.tokenizer, self.config, self.seed, self.bf16 = tokenizer, loss, seed, bf16
        self.arrays, self.proprio, self.train_rows = arrays, proprio, train_rows
        dcae = tokenizer.dcae.config
        grid = tuple(side // dcae.compression for side in tokenizer.background.shape[1:])
        self.probe = Heads(HeadsConfig(dcae.latent_channels, grid, proprio.shape[1], hidden=256))
        self.probe.proprio_mean.copy_(torch.from_numpy(proprio[train_rows].mean(0)))
        self.probe.proprio_std.copy_(torch.from_numpy(proprio[train_rows].std(0) + 1e-6))

    def losses(self, step: int, progress: float) -> dict[str, torch.Tensor]:
        device, c = self.tokenizer.background.device, self.config
        rows = batch_rng(self.seed, step).choice(self.train_rows, c.batch_size)
        pixels = self.tokenizer.pixels(take_frames(self.arrays.frames, rows, device))
        noise = noise_generator(self.seed, step, device)
        with autocast(device, self.bf16):
            latents = self.tokenizer.dcae.encode(pixels)
            spread = latents.detach().std(dim=(0, 2, 3), keepdim=True)
            noisy = latents + c.latent_noise * spread * torch.randn(
                latents.shape, generator=noise, device=device, dtype=latents.dtype
            )
            decoded = self.tokenizer.dcae.decode(noisy)
        result = pixel_losses(decoded, pixels, c.foreground)
        if self.proprio.shape[1]:
            target = {"proprio": torch.from_numpy(self.proprio[rows]).to(device)}
            result["proprio"] = self.probe.loss(latents.float(), target)["proprio"]
            result["loss"] = result["loss"] + c.proprio * result["proprio"]
        return result


def pixel_losses(decoded: torch.Tensor, pixels: torch.Tensor, foreground: float) -> dict[str, torch.Tensor]:
    """Squared error of (B, 3, H, W), plain ("mse") and with what differs from the background weighted ("loss")."""
    weight = 1 + foreground * (pixels.abs().amax(1, keepdim=True) * 5).clamp(max=1)
    error = (decoded.float() - pixels).pow(2)
    return {"mse": error.mean(), "loss": (weight * error).mean()}


def median_background(frames: np.ndarray, rows: np.ndarray, count: int = 400) -> torch.Tensor:
    """Per-pixel median over frames spread evenly over ``rows``: (3, H, W) float."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
    return torch.from_numpy(np.median(frames[chosen], axis=0).astype(np.float32)).permute(2, 0, 1)


@torch.no_grad()
def reconstruction_psnr(tokenizer: FrameTokenizer, frames: np.ndarray, rows: np.ndarray, batch: int = 64) -> float:
    """Mean over frames of the PSNR (dB) of decode(encode(frame)), in 8 bit."""
    scores = []
    for part in np.array_split(rows, max(1, len(rows) // batch)):
        true = frames[part]
        decoded = tokenizer.decode(tokenizer.encode(torch.from_numpy(true).to(tokenizer.background.device)))
        scores.append(psnr(decoded, true))
    return float(np.concatenate(scores).mean())


@torch.no_grad()
def calibrate(tokenizer: FrameTokenizer, frames: np.ndarray, rows: np.ndarray, count: int = 2000) -> None:
    """Measure the mean and standard deviation of every latent channel on training frames, in place."""
    tokenizer.latent_mean.zero_()
    tokenizer.latent_std.fill_(1.0)
    chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
    parts = [
        tokenizer.encode(torch.from_numpy(frames[part]).to(tokenizer.background.device))
        for part in np.array_split(chosen, max(1, len(chosen) // 64))
    ]
    latents = torch.cat(parts)
    tokenizer.latent_mean.copy_(latents.mean(dim=(0, 2, 3))[:, None, None])
    tokenizer.latent_std.copy_(latents.std(dim=(0, 2, 3))[:, None, None] + 1e-6)
