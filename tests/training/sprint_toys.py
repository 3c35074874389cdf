"""A teacher of Sprint in miniature, and pictures told by numbers."""

import numpy as np
import torch

from sana_wm.models.transformer import SanaConfig, SanaTransformer
from sana_wm.training.image_set import Bucket, ImageSet

CHANNELS, TEXT_DIM, TOKENS, COUNT, GRID = 3, 5, 4, 23, (2, 3)


def teacher(dense: bool = True, depth: int = 3, width: int = 16, seed: int = 0) -> SanaTransformer:
    """With weights everywhere, the zero ones of a new network included."""
    modes = {"qk_norm": True, "timestep_scale": 0.001} if dense else {"qk_norm": False, "integer_timesteps": True}
    config = SanaConfig(
        in_channels=CHANNELS, grid=None, width=width, depth=depth, heads=2, mlp_ratio=1.5, mixer="relu",
        softmax_every=0, temporal="bidirectional", temporal_conv=False, positions="none", text_dim=TEXT_DIM, **modes,
    )  # fmt: skip
    torch.manual_seed(seed)
    network = SanaTransformer(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.requires_grad_(False).eval()


def pictures(spread: float = 1.0) -> ImageSet:
    """COUNT pictures, the last token of every text is padding."""
    rng = np.random.default_rng(0)
    latents = (spread * rng.normal(size=(COUNT, CHANNELS, *GRID))).astype(np.float16)
    text = rng.normal(size=(COUNT, TOKENS, TEXT_DIM)).astype(np.float32)
    mask = np.tile(np.arange(TOKENS) < TOKENS - 1, (COUNT, 1))
    null = rng.normal(size=(TOKENS, TEXT_DIM)).astype(np.float32)
    return ImageSet((Bucket(latents, np.arange(COUNT)[:, None]),), text, mask, null, mask[0])
