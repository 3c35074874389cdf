"""diffusers' image and video transformers with random weights, as oracles (see sana_reference for ``exact``)."""

import pytest
import torch

from sana_wm.models.transformer import SanaTransformer
from tests.models.sana_reference import exact

TEXT_DIM, TOKENS, LANES = 10, 6, 3
SIZES = {
    "in_channels": 3, "out_channels": 3, "num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 3,
    "num_cross_attention_heads": 2, "cross_attention_head_dim": 12, "cross_attention_dim": 24,
    "caption_channels": TEXT_DIM, "mlp_ratio": 2.5,
}  # fmt: skip
NORMED = {"qk_norm": "rms_norm_across_heads"}
IMAGES = {
    "plain": {},
    "normed": NORMED,
    "patches": {"patch_size": 2},
    "sincos": {"interpolation_scale": 2.0, "sample_size": 8},
    "sincos of patches": {"interpolation_scale": 1.5, "sample_size": 7, "patch_size": 2},
    "sprint": NORMED | {"guidance_embeds": True},
}
VIDEOS = {
    "pixels": {"patch_size": (1, 1, 1), "mlp_ratio": 3.0},
    "patches": {"patch_size": (1, 2, 2)},
    "without norms": {"qk_norm": None, "patch_size": (1, 1, 1)},
    "guided": {"guidance_embeds": True},
}


def reference(kind: str, dtype: torch.dtype = torch.float64, seed: int = 0, **changes):
    """``kind`` "image" or "video"; every tensor is random, nothing is at zero."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    build = diffusers.SanaTransformer2DModel if kind == "image" else diffusers.SanaVideoTransformer3DModel
    with exact(dtype), torch.no_grad():
        net = build(**(SIZES | changes)).to(dtype).eval()
        for name, p in net.named_parameters():
            if p.ndim == 1:
                p.copy_(0.2 * torch.randn_like(p) + (0 if "bias" in name else 1))
            else:
                p.copy_(torch.randn_like(p) / p[0].numel() ** 0.5)
    return net


def inputs(net: SanaTransformer, frames: int, grid: tuple[int, int], dtype=torch.float64, lanes=LANES, seed=1) -> dict:
    """Arguments of :meth:`SanaTransformer.forward`: a time per lane, prompts of several lengths."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(TOKENS) < torch.tensor([TOKENS, 2, 4])[torch.arange(lanes) % 3, None]
    shape = (lanes, net.config.in_channels, frames, *grid)
    given = {
        "latents": torch.randn(shape, generator=g, dtype=torch.float64).to(dtype),
        "timestep": 1000 * net.config.timestep_scale * torch.rand(lanes, generator=g),
        "text": torch.randn(lanes, TOKENS, net.config.text_dim, generator=g, dtype=torch.float64).to(dtype),
        "text_mask": mask,
    }
    return given | ({"guidance": torch.rand(lanes, generator=g)} if net.config.guidance else {})


@torch.no_grad()
def run_reference(net, given: dict) -> torch.Tensor:
    """(B, C, T, H, W). Times of frames become times of tokens, as the reference wants them."""
    latents, timestep = given["latents"], given["timestep"]
    video = type(net).__name__ == "SanaVideoTransformer3DModel"
    if timestep.ndim == 2:
        patch = net.config.patch_size[1]
        timestep = timestep.repeat_interleave(latents.shape[3] * latents.shape[4] // patch**2, dim=1)
    with exact(latents.dtype):
        out = net(
            latents if video else latents[:, :, 0], encoder_hidden_states=given["text"], timestep=timestep,
            encoder_attention_mask=given["text_mask"], guidance=given.get("guidance"),
        ).sample  # fmt: skip
    return out if video else out[:, :, None]
