"""A LeWM-style JEPA: an encoder and a predictor of latents, end to end from pixels, without a decoder.

After LeWorldModel (arXiv:2603.19312): a causal transformer that the actions modulate predicts the next latent from the
last few, with a squared error through both sides. Collapse is kept away by SIGReg of LeJEPA (Balestriero and LeCun
2025, arXiv:2511.08544), which asks the latents to be an isotropic Gaussian. Nothing else is trained, but for one
addition: a small network tells the action from two latents (as PLDM does, Sobal et al. 2025, arXiv:2502.14819). Door
and goal stand still in an episode and fill a Gaussian with no prediction error at all, so that without it nothing asks
the latents to hold the agent. The planner looks for the smallest distance to the latent of a goal image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class JEPAConfig:
    """Encoder, predictor and the weight of the regulariser."""

    latent: int = 128
    context: int = 4  # latents that the predictor sees
    actions: int = 2
    encoder_width: int = 48  # of the first of three levels
    width: int = 192
    depth: int = 3
    heads: int = 4
    regulariser: float = 0.1
    inverse: float = 1.0  # weight of telling the action from two latents; 0: LeWM as published
    projections: int = 256
    size: tuple[int, int] = (64, 64)

    def __post_init__(self):
        object.__setattr__(self, "size", tuple(self.size))


def sigreg(z: Tensor, directions: Tensor, knots: int = 17, reach: float = 3.0) -> Tensor:
    """How far the rows of ``z`` (N, D) are from N(0, I): Epps-Pulley's statistic on one-dimensional projections.

    For each unit direction (columns of ``directions``, D x M) the empirical characteristic function of the projected
    samples is held against exp(-t^2 / 2), squared and integrated over t under the same Gaussian weight; the result is
    the mean over directions, times N as in the test, which makes it about constant for true Gaussian samples.
    """
    t = torch.linspace(-reach, reach, knots, device=z.device)
    angle = (z @ directions)[..., None] * t  # N M T
    target = torch.exp(-t.square() / 2)
    error = (angle.cos().mean(0) - target).square() + angle.sin().mean(0).square()
    return len(z) * torch.trapezoid(error * target, t, dim=-1).mean()


def random_directions(dim: int, count: int, rng: torch.Generator) -> Tensor:
    """Unit vectors as columns (dim, count), uniform on the sphere."""
    return F.normalize(torch.randn(dim, count, generator=rng, device=rng.device), dim=0)


class Encoder(nn.Module):
    """A residual CNN from scaled frames (N, 3, H, W) to latents (N, D).

    The last layer is a batch norm, as in LeWM: a layer norm would put latents on a sphere, where no Gaussian is.
    """

    def __init__(self, config: JEPAConfig):
        super().__init__()
        width = config.encoder_width
        widths = (width, 2 * width, 2 * width)
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, width, 3, padding=1))
        self.blocks = nn.ModuleList()
        for level, (a, b) in enumerate(zip((width, *widths[:-1]), widths, strict=True)):
            stride = 2 if level else 1
            self.blocks.append(
                nn.ModuleDict(
                    {
                        "body": nn.Sequential(
                            nn.GroupNorm(4, a), nn.SiLU(), nn.Conv2d(a, b, 3, stride, 1),
                            nn.GroupNorm(4, b), nn.SiLU(), nn.Conv2d(b, b, 3, 1, 1),
                        ),
                        "skip": nn.Conv2d(a, b, stride, stride) if a != b or stride > 1 else nn.Identity(),
                    }
                )
            )  # fmt: skip
        cells = (config.size[0] // 16) * (config.size[1] // 16)
        self.out = nn.Sequential(
            nn.GroupNorm(4, widths[-1]), nn.SiLU(), nn.Flatten(), nn.Linear(cells * widths[-1], 512), nn.SiLU(),
            nn.Linear(512, config.latent), nn.BatchNorm1d(config.latent, affine=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block["skip"](x) + block["body"](x)
        return self.out(x)


class PredictorBlock(nn.Module):
    """Causal attention and an MLP under scale, shift and gate of the action (AdaLN-zero)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulate = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x_BTC: Tensor, action_BTC: Tensor) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulate(action_BTC).chunk(6, dim=-1)
        h = F.layer_norm(x_BTC, x_BTC.shape[-1:]) * (1 + scale1) + shift1
        q, k, v = rearrange(self.qkv(h), "b t (n h d) -> n b h t d", n=3, h=self.heads)
        h = rearrange(F.scaled_dot_product_attention(q, k, v, is_causal=True), "b h t d -> b t (h d)")
        x = x_BTC + gate1 * self.mixed(h)
        return x + gate2 * self.mlp(F.layer_norm(x, x.shape[-1:]) * (1 + scale2) + shift2)


class Predictor(nn.Module):
    """Latents (B, T, D) and the actions (B, T, A) that follow them -> the next latent after each, (B, T, D)."""

    def __init__(self, config: JEPAConfig):
        super().__init__()
        self.given = nn.Linear(config.latent, config.width)
        self.place = nn.Parameter(0.02 * torch.randn(config.context, config.width))
        self.action = nn.Sequential(
            nn.Linear(config.actions, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.blocks = nn.ModuleList(PredictorBlock(config.width, config.heads) for _ in range(config.depth))
        self.out = nn.Linear(config.width, config.latent)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        x, condition = self.given(latents) + self.place[: latents.shape[1]], F.silu(self.action(actions))
        for block in self.blocks:
            x = block(x, condition)
        return latents + self.out(F.layer_norm(x, x.shape[-1:]))


class JEPA(nn.Module):
    """Encoder and predictor, trained together."""

    def __init__(self, config: JEPAConfig):
        super().__init__()
        self.config, self.encoder, self.predictor = config, Encoder(config), Predictor(config)
        self.inverse = nn.Sequential(
            nn.Linear(2 * config.latent, config.width), nn.SiLU(), nn.Linear(config.width, config.actions)
        )

    def encode(self, x: Tensor) -> Tensor:
        """Scaled frames (..., 3, H, W) -> latents (..., D)."""
        return self.encoder(x.flatten(0, -4)).unflatten(0, x.shape[:-3])

    def loss(self, x: Tensor, actions: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Windows (B, T, 3, H, W) of context + 1 frames or more, with T - 1 actions, unrolled beyond the context.

        Up to the context every latent predicts the next (teacher forcing); frames beyond it are predicted from
        predictions.
        """
        context = self.config.context
        z = self.encode(x)  # B T D
        predicted = self.predictor(z[:, :context], actions[:, :context])
        errors = [(predicted - z[:, 1 : context + 1]).square().mean()]
        window = torch.cat([z[:, 1:context], predicted[:, -1:]], dim=1)
        for k in range(1, x.shape[1] - context):
            new = self.predictor(window, actions[:, k : k + context])[:, -1:]
            errors.append((new - z[:, context + k : context + k + 1]).square().mean())
            window = torch.cat([window[:, 1:], new], dim=1)
        directions = random_directions(self.config.latent, self.config.projections, rng)
        spread = torch.stack([sigreg(z[:, t], directions) for t in range(0, z.shape[1], 2)]).mean()
        prediction = torch.stack(errors).mean()
        told = self.inverse(torch.cat([z[:, :-1], z[:, 1:]], dim=-1))
        parts = {"prediction": prediction, "sigreg": spread, "inverse": F.mse_loss(told, actions)}
        loss = prediction + self.config.regulariser * spread + self.config.inverse * parts["inverse"]
        return {"loss": loss} | parts
