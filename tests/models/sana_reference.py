"""diffusers' SanaWMTransformer3DModel with random weights, as an oracle.

As published it rounds: softmax attention is done in bfloat16, rotations and the recurrence in float32. ``exact`` lifts
that, so that what is compared is the mathematics.
"""

import importlib
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from sana_wm.nn.embeddings import sinusoidal_embedding

TEXT_DIM, TOKENS = 10, 6


def reference_module():
    return pytest.importorskip("diffusers.models.transformers.transformer_sana_wm")


class _Torch:
    """The module ``torch`` with float32 standing for float64."""

    def __getattr__(self, name):
        return getattr(torch, "float64" if name == "float32" else name)


class _Sinusoids(torch.nn.Module):
    def forward(self, timestep):
        return sinusoidal_embedding(timestep.to(torch.float32), 256)


@contextmanager
def exact(dtype: torch.dtype):
    """No rounding to bfloat16; in float64 none to float32 either."""
    module, to_float = reference_module(), torch.Tensor.float

    def wide(tensor, *args, **kwargs):
        return tensor if tensor.dtype == torch.float64 else to_float(tensor, *args, **kwargs)

    with mock.patch.object(torch.Tensor, "bfloat16", lambda tensor: tensor):
        if dtype != torch.float64:
            yield
            return
        norms = importlib.import_module("diffusers.models.normalization")
        with mock.patch.object(torch.Tensor, "float", wide), mock.patch.object(module, "torch", _Torch()):
            with mock.patch.object(norms, "torch", _Torch()):
                yield


def reference(dtype: torch.dtype = torch.float64, seed: int = 0, **changes):
    """A small network whose every tensor is random; nothing is at zero."""
    settings = {
        "in_channels": 3, "num_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "linear_head_dim": 16,
        "softmax_every_n": 2, "caption_channels": TEXT_DIM, "chunk_plucker_channels": 12, "mlp_ratio": 2.5,
    } | changes  # fmt: skip
    torch.manual_seed(seed)
    with exact(dtype):
        net = reference_module().SanaWMTransformer3DModel(**settings).to(dtype).eval()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.ndim == 1 and "bias" not in name and "A_log" not in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))  # norms
            elif "A_log" in name or "dt_bias" in name:
                p.copy_(0.5 * torch.randn_like(p) - 1)
            elif p.ndim == 1:
                p.copy_(0.2 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) / max(p[0].numel(), 1) ** 0.5)
    if dtype == torch.float64:
        net.time_proj = _Sinusoids()
    return net


def poses(lanes: int, frames: int, reach: float, generator: torch.Generator) -> torch.Tensor:
    """(B, T, 4, 4) float64, turned anyhow and ``reach`` away from the origin."""
    rotation, _ = torch.linalg.qr(torch.randn(lanes, frames, 3, 3, generator=generator, dtype=torch.float64))
    c2w = torch.eye(4, dtype=torch.float64).repeat(lanes, frames, 1, 1)
    c2w[..., :3, :3] = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w[..., :3, 3] = reach * torch.randn(lanes, frames, 3, generator=generator, dtype=torch.float64)
    return c2w


def inputs(config, lanes: int, frames: int, seed: int = 1, dtype: torch.dtype = torch.float64, reach: float = 1.0):
    """Inputs of SanaTransformer.forward for one of our configurations, by name."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    mask = torch.rand(lanes, TOKENS, generator=g) < 0.7
    mask[:, 0] = True
    height, width = config.grid
    lens = torch.rand(lanes, frames, 4, generator=g, dtype=torch.float64) + 0.4
    lens = lens * torch.tensor([width, height, width / 2, height / 2])
    given = {
        "latents": normal(lanes, config.in_channels, frames, *config.grid),
        "timestep": 1000 * torch.rand(lanes, frames, generator=g, dtype=torch.float64),
        "text": normal(lanes, TOKENS, config.text_dim),
        "text_mask": mask,
        "camera": torch.cat([poses(lanes, frames, reach, g).flatten(-2), lens], dim=-1),
        "plucker": normal(lanes, config.plucker_channels, frames, *config.grid),
    }
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in given.items()}


@torch.no_grad()
def run_reference(net, given: dict, frame_mask=None, rounded: bool = False) -> torch.Tensor:
    def call():
        return net(
            given["latents"], given["timestep"][:, None], given["text"][:, None], mask=given["text_mask"],
            camera_conditions=given.get("camera"), chunk_plucker=given.get("plucker"), frame_valid_mask=frame_mask,
        ).sample  # fmt: skip

    if rounded:
        return call()
    with exact(given["latents"].dtype):
        return call()
