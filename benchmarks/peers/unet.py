"""A DIAMOND-style denoiser: the next frame by diffusion, from the last four frames and actions.

DIAMOND (Alonso et al. 2024, arXiv:2405.12399) is a U-Net on pixels with the preconditioning of EDM (Karras et al. 2022,
arXiv:2206.00364): past frames join the noisy one as channels, actions and noise level modulate group norms, and three
Euler steps make a frame. This one is small enough for one CPU core: 2x2 pixels are folded into channels before the
first convolution, without loss, and unfolded after the last.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SIGMA_DATA = 0.5  # frames are scaled to this deviation


@dataclass(frozen=True)
class DenoiserConfig:
    """The U-Net and its diffusion; noise levels and their training distribution are DIAMOND's."""

    context: int = 4  # frames seen, and as many actions
    actions: int = 2  # width of an action
    channels: int = 3
    fold: int = 2  # pixels a side that become channels
    widths: tuple[int, ...] = (32, 48, 64)  # one level each, half the resolution of the one before
    condition: int = 128  # width of what modulates
    log_sigma_mean: float = -0.4
    log_sigma_std: float = 1.2
    sigma_min: float = 2e-3
    sigma_max: float = 5.0
    rho: float = 7.0
    steps: int = 3  # Euler steps that make a frame

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))


def preconditioning(sigma: Tensor, sigma_data: float = SIGMA_DATA) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_in, c_skip, c_out, c_noise of EDM (its table 1) at noise levels ``sigma``."""
    total = sigma**2 + sigma_data**2
    return total.rsqrt(), sigma_data**2 / total, sigma * sigma_data * total.rsqrt(), sigma.log() / 4


def sigma_schedule(config: DenoiserConfig, steps: int, device: torch.device | None = None) -> Tensor:
    """Noise levels (steps + 1,) from ``sigma_max`` down to ``sigma_min`` and 0 (EDM, equation 5)."""
    low, high = (s ** (1 / config.rho) for s in (config.sigma_min, config.sigma_max))
    share = torch.linspace(0, 1, steps, device=device) if steps > 1 else torch.zeros(1, device=device)
    return F.pad((high + share * (low - high)) ** config.rho, (0, 1))


class AdaptiveNorm(nn.Module):
    """Group norm whose scale and shift come from the condition."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.norm = nn.GroupNorm(max(1, width // 16), width, affine=False)
        self.modulate = nn.Linear(condition, 2 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x_BCHW: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulate(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(x_BCHW), 1 + scale)


class Block(nn.Module):
    """Two convolutions, each after an adaptive norm, around a residual."""

    def __init__(self, given: int, width: int, condition: int):
        super().__init__()
        self.norm1, self.norm2 = AdaptiveNorm(given, condition), AdaptiveNorm(width, condition)
        self.conv1, self.conv2 = nn.Conv2d(given, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(given, width, 1) if given != width else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, condition)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h, condition)))


class Attention(nn.Module):
    """Self-attention over places, at the lowest resolution only."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.GroupNorm(1, width), nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x_BCHW)), "b (n h d) y x -> n b h (y x) d", n=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x_BCHW + self.out(rearrange(mixed, "b h (y x) d -> b (h d) y x", y=x_BCHW.shape[2]))


class UNet(nn.Module):
    """One block a level on the way down, one on the way up, two with attention between at the bottom."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config, widths, condition = config, config.widths, config.condition
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(condition // 2))
        self.embed_actions = nn.Linear(config.context * config.actions, condition)
        self.embed = nn.Sequential(
            nn.Linear(condition, condition), nn.SiLU(), nn.Linear(condition, condition), nn.SiLU()
        )
        pixels = config.fold**2 * config.channels
        self.stem = nn.Conv2d((config.context + 1) * pixels, widths[0], 3, padding=1)
        before = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(Block(a, b, condition) for a, b in zip(before, widths, strict=True))
        self.middle = nn.ModuleList(
            [Block(widths[-1], widths[-1], condition), Block(widths[-1], widths[-1], condition)]
        )
        self.attention = Attention(widths[-1])
        above = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(Block(a + b, b, condition) for a, b in zip(above, widths, strict=True))
        self.norm_out = nn.GroupNorm(max(1, widths[0] // 16), widths[0])
        self.out = nn.Conv2d(widths[0], pixels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, noisy: Tensor, noise_level: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """F of EDM. noisy: (B, C, H, W); noise_level: (B,); past: (B, K, C, H, W); actions: (B, K, A)."""
        angle = noise_level[:, None] * self.frequencies
        condition = self.embed(torch.cat([angle.cos(), angle.sin()], -1) + self.embed_actions(actions.flatten(1)))
        x = torch.cat([past.flatten(1, 2), noisy], dim=1)
        x = self.stem(F.pixel_unshuffle(x, self.config.fold).contiguous(memory_format=torch.channels_last))
        kept = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x, condition)
            kept.append(x)
        x = self.middle[1](self.attention(self.middle[0](x, condition)), condition)
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat([x, kept[level]], dim=1), condition)
            if level:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
        return F.pixel_shuffle(self.out(F.silu(self.norm_out(x))), self.config.fold)


class Denoiser(nn.Module):
    """EDM around the U-Net; frames here are float, scaled to a deviation of `SIGMA_DATA`."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config, self.unet = config, UNet(config)

    def network(self, noisy: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """F of EDM, to which the U-Net adds itself: the last frame, the more of it the more noise hides the next.

        So the first guess from pure noise is that nothing moves, and the U-Net learns what does.
        """
        c_in, _, c_out, c_noise = (c[:, None, None, None] for c in preconditioning(sigma))
        change = self.unet(noisy * c_in, c_noise.flatten(), past / SIGMA_DATA, actions)
        return change + c_out / SIGMA_DATA**2 * past[:, -1]

    def forward(self, noisy: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The clean frame (B, C, H, W) that is expected behind a noisy one. sigma: (B,)."""
        _, c_skip, c_out, _ = (c[:, None, None, None] for c in preconditioning(sigma))
        return c_skip * noisy + c_out * self.network(noisy, sigma, past, actions)

    def loss(self, clean: Tensor, past: Tensor, actions: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Error of F (EDM's weighting makes it flat over noise levels), and the denoised frames, detached."""
        config, lanes = self.config, len(clean)
        draw = torch.randn(lanes, generator=rng, device=clean.device)
        sigma = (config.log_sigma_mean + config.log_sigma_std * draw).exp()
        sigma = sigma.clamp(config.sigma_min, 2 * config.sigma_max)
        noise = torch.randn(clean.shape, generator=rng, device=clean.device)
        _, c_skip, c_out, _ = (c[:, None, None, None] for c in preconditioning(sigma))
        noisy = clean + sigma[:, None, None, None] * noise
        guess = self.network(noisy, sigma, past, actions)
        error = F.mse_loss(guess, (clean - c_skip * noisy) / c_out)
        return error, (c_skip * noisy + c_out * guess).detach()

    @torch.no_grad()
    def sample(self, past: Tensor, actions: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        """The next frame (B, C, H, W) by Euler steps from ``noise`` (B, C, H, W), standard normal."""
        sigmas = sigma_schedule(self.config, steps or self.config.steps, noise.device)
        x = noise * sigmas[0]
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            slope = (x - self(x, sigma.expand(len(x)), past, actions)) / sigma
            x = x + (following - sigma) * slope
        return x
