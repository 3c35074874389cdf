"""diffusers' SanaWMTransformer3DModel and ours with the same random weights, and inputs for both."""

import logging
import tempfile
from contextlib import ExitStack
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from sana_wm.models.transformer import SanaTransformer

PLUCKER_CHANNELS, TEXT_DIM = 48, 2304  # as published


class Shape(NamedTuple):
    """What is measured: a network, and a clip of latent frames."""

    width: int
    heads: int
    depth: int
    grid: tuple[int, int]
    frames: int
    softmax_every: int = 4
    text_tokens: int = 300
    lanes: int = 1


def pair(shape: Shape, dtype: torch.dtype, **changes) -> tuple[nn.Module, SanaTransformer]:
    """The reference and ours, every tensor random; ``changes``: of our configuration."""
    from diffusers.models.transformers.transformer_sana_wm import SanaWMTransformer3DModel

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    theirs = SanaWMTransformer3DModel(
        num_layers=shape.depth, hidden_size=shape.width, num_attention_heads=shape.heads,
        linear_head_dim=shape.width // shape.heads, softmax_every_n=shape.softmax_every, caption_channels=TEXT_DIM,
        chunk_plucker_channels=PLUCKER_CHANNELS,
    ).eval().requires_grad_(False)  # fmt: skip
    for name, p in theirs.named_parameters():
        noise = torch.randn_like(p)
        if p.ndim > 1:
            p.copy_(noise / p[0].numel() ** 0.5)
        elif "bias" in name or "A_log" in name:
            p.copy_(0.2 * noise)
        else:
            p.copy_(1 + 0.2 * noise)  # norms
    theirs = theirs.to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = SanaTransformer.from_pretrained(folder, grid=shape.grid, dtype=dtype, **changes)
    return theirs, ours.eval().requires_grad_(False)


def inputs(shape: Shape, dtype: torch.dtype, in_channels: int = 128) -> dict[str, Tensor]:
    """Arguments of :meth:`SanaTransformer.forward`; cameras that turn and walk, in float32."""
    g = torch.Generator().manual_seed(1)
    lanes, frames, (height, width) = shape.lanes, shape.frames, shape.grid
    rotation, _ = torch.linalg.qr(torch.randn(lanes, frames, 3, 3, generator=g))
    c2w = torch.eye(4).repeat(lanes, frames, 1, 1)
    c2w[..., :3, :3] = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w[..., :3, 3] = torch.randn(lanes, frames, 3, generator=g)
    lens = torch.tensor([0.8 * width, 0.8 * width, width / 2, height / 2]).expand(lanes, frames, 4)
    mask = torch.ones(lanes, shape.text_tokens, dtype=torch.bool)
    mask[:, shape.text_tokens // 2 :] = False
    return {
        "latents": torch.randn(lanes, in_channels, frames, height, width, generator=g).to(dtype),
        "timestep": 1000 * torch.rand(lanes, frames, generator=g),
        "text": torch.randn(lanes, shape.text_tokens, TEXT_DIM, generator=g).to(dtype),
        "text_mask": mask,
        "camera": torch.cat([c2w.flatten(-2), lens], dim=-1),
        "plucker": torch.randn(lanes, PLUCKER_CHANNELS, frames, height, width, generator=g).to(dtype),
    }


def run_reference(net: nn.Module, given: dict[str, Tensor], exact: bool = False) -> Tensor:
    """Its velocity. It rounds queries, keys and values of softmax attention to bfloat16; ``exact``: not so.

    In bfloat16 it refuses bfloat16 cameras on a CPU, and float32 ones do not meet its features: they are rounded where
    they meet.
    """
    from diffusers.models.transformers import transformer_sana_wm as module

    transform = module._apply_ucpe_transform

    def rounded(feats, matrix, *args, **kwargs):
        return transform(feats, matrix.to(feats.dtype), *args, **kwargs)

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(module, "_apply_ucpe_transform", rounded))
        if exact:
            patches.enter_context(mock.patch.object(Tensor, "bfloat16", lambda tensor: tensor))
        return net(
            given["latents"], given["timestep"][:, None], given["text"][:, None], mask=given["text_mask"],
            camera_conditions=given["camera"], chunk_plucker=given["plucker"],
        ).sample  # fmt: skip
