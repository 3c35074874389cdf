"""A world of random weights and a dataset of a moving dot, both small enough for a test."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from sana_wm.data import LeRobotWriter
from sana_wm.diffusion.flow import FlowConfig
from sana_wm.models.dc_ae import DCAEConfig
from sana_wm.models.heads import Heads, HeadsConfig
from sana_wm.models.refiner import Refiner, RefinerConfig
from sana_wm.models.transformer import SanaConfig, SanaTransformer
from sana_wm.nn.proprio import proprio_channels
from sana_wm.world import ActionCodec, Starts, WorldConfig, WorldModel
from sana_wm.world.tokenizer import FrameTokenizer

SIDE, CHANNELS, GRID, CONTEXT = 32, 4, (8, 8), 3
LOW, HIGH = (-2.0, 0.0), (2.0, 8.0)
TWO_STEPS = FlowConfig(steps=2)

DCAE_SETTINGS = {
    "latent_channels": CHANNELS,
    "head_dim": 8,
    "widths": (8, 8, 16),
    "encoder_layers": (0, 1, 1),
    "decoder_layers": (0, 1, 1),
    "block_types": ("res", "res", "vit"),
    "multiscales": ((), (), ()),
    "upsample": "pixel_shuffle",
    "scaling_factor": 1.0,
}

FEATURES = {
    "observation.image": {"dtype": "video", "shape": (SIDE, SIDE, 3)},
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    "action": {"dtype": "float32", "shape": (2,), "names": ["dx", "dy"]},
    "next.reward": {"dtype": "float32", "shape": (1,)},
    "next.done": {"dtype": "bool", "shape": (1,)},
    "next.success": {"dtype": "bool", "shape": (1,)},
}


@torch.no_grad()
def randomise(module: nn.Module, seed: int, std: float = 0.15) -> None:
    """Random weights everywhere, zero-initialised layers among them; vectors (norms, biases) stay near their start."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        noise = std * torch.randn(p.shape, generator=generator)
        p.copy_(noise if p.ndim > 1 else p + noise)


def tiny_transformer(**changes) -> SanaTransformer:
    settings = {
        "in_channels": CHANNELS, "grid": GRID, "patch_size": 4, "width": 24, "depth": 2, "softmax_every": 2,
        "heads": 2, "window": 4, "action_dim": 2, "source": True,
    } | changes  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SanaTransformer(SanaConfig(**settings))


def tiny_frames(lanes: int, frames: int, seed: int = 0) -> np.ndarray:
    """uint8 (B, T, H, W, 3): noise, so that no two are alike."""
    return np.random.default_rng(seed).integers(0, 256, (lanes, frames, SIDE, SIDE, 3), dtype=np.uint8)


def tiny_actions(*lead: int, seed: int = 0) -> np.ndarray:
    """float32 (*lead, 2) in dataset units, inside the bounds."""
    return np.random.default_rng(seed).uniform(LOW, HIGH, (*lead, 2)).astype(np.float32)


def tiny_world(
    seed: int = 0, flow: FlowConfig = TWO_STEPS, heads: dict | None = None, refined: bool = True, **transformer
) -> WorldModel:
    """A world of 32x32 frames with every head and a refiner; nothing in it is zero or trained."""
    codec = ActionCodec(("dx", "dy"), LOW, HIGH, (0.2, 3.0), (0.9, 2.0), "cells")
    heads = {"proprio_dim": 2, "reward": True, "terminated": True, "success": True} if heads is None else heads
    channels = CHANNELS + proprio_channels(heads.get("proprio_dim", 0), GRID)
    net = tiny_transformer(**{"in_channels": channels} | transformer)
    refiner = RefinerConfig(CHANNELS, GRID, heads.get("proprio_dim", 0), hidden=16, depth=1) if refined else None
    config = WorldConfig(
        fps=5.0,
        resolution=(SIDE, SIDE),
        context=CONTEXT,
        max_episode_steps=6,
        tokenizer=DCAEConfig(**DCAE_SETTINGS),
        transformer=net.config,
        heads=HeadsConfig(CHANNELS, GRID, hidden=16, max_side=4, **heads),
        refiner=refiner,
        flow=flow,
        codec=codec,
        proprio_names=("x", "y")[: heads.get("proprio_dim", 0)],
        task="follow the dot",
        extra={"note": "random weights"},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer, head = FrameTokenizer(config.tokenizer, config.resolution), Heads(config.heads)
        second = Refiner(refiner) if refiner else None
    for number, module in enumerate((net, tokenizer, head, *([second] if second else []))):
        randomise(module, 10 * seed + number)
    generator = torch.Generator().manual_seed(seed)
    tokenizer.background.copy_(255 * torch.rand(3, SIDE, SIDE, generator=generator))
    tokenizer.latent_std.fill_(1.5)
    if config.heads.proprio_dim:
        head.proprio_mean.copy_(torch.tensor([100.0, -50.0]))
        head.proprio_std.copy_(torch.tensor([10.0, 3.0]))
    starts = Starts(tiny_frames(5, CONTEXT, seed=seed + 1), tiny_actions(5, CONTEXT - 1, seed=seed + 1))
    return WorldModel(config, net, tokenizer, head, starts, card="# tiny\n", refiner=second)


def begun(world: WorldModel, lanes: int = 3, seed: int = 0):
    """A state of `lanes` lanes with seeds 100, 101, ... after the context."""
    frames, actions = tiny_frames(lanes, CONTEXT, seed), tiny_actions(lanes, CONTEXT - 1, seed=seed)
    return world.begin(frames, actions, seeds=np.arange(100, 100 + lanes))


def tensors_of(state) -> list[torch.Tensor]:
    """Every tensor of a WorldState, in a fixed order."""
    blocks = [block[name] for block in state.stream.blocks for name in sorted(block)]
    return [state.latent, state.seeds, state.stream.frame, *blocks]


def identical(a, b) -> bool:
    """Bitwise equality of two states."""
    pairs = list(zip(tensors_of(a), tensors_of(b), strict=True))
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def dot_episode(episode: int, length: int = 24) -> dict[str, np.ndarray]:
    """A 6x6 dot that the action moves; row t's action leads from frame t to t + 1."""
    rng = np.random.default_rng(episode)
    actions = rng.integers(-3, 4, (length, 2)).astype(np.float32)
    place = np.zeros((length, 2), np.float32)
    place[0] = rng.integers(4, SIDE - 10, 2)
    for t in range(length - 1):
        place[t + 1] = np.clip(place[t] + actions[t], 0, SIDE - 6)
    frames = np.full((length, SIDE, SIDE, 3), 40, np.uint8)
    for frame, (x, y) in zip(frames, place.astype(int), strict=True):
        frame[y : y + 6, x : x + 6] = (230, 120, 60)
    return {
        "observation.image": frames,
        "observation.state": place,
        "action": actions,
        "next.reward": np.arange(length, dtype=np.float32) + 100 * episode,  # tells row and episode
        "next.done": np.arange(length) == length - 1,
        "next.success": np.arange(length) % 5 == 0,
    }


def write_dots(root: Path, episodes: int = 8, length: int = 24) -> Path:
    with LeRobotWriter(root, 5, FEATURES) as writer:
        for episode in range(episodes):
            writer.add_episode(dot_episode(episode, length), "follow the dot")
    return root
