"""What an observation is: decoded pixels, pixels with proprioception, or the latents that the world thinks in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    from sana_wm.envs.lanes import Lanes
    from sana_wm.world import VideoWorld, WorldModel

KINDS = ("pixels", "dict", "latents")


def check_kind(obs: str) -> None:
    """Raises ValueError for a kind of observation that there is not."""
    if obs not in KINDS:
        raise ValueError(f"got obs={obs!r}, expected one of {KINDS}")


def observation_space(obs: str, world: WorldModel | VideoWorld) -> spaces.Space:
    """Of one lane.

    - "pixels": uint8 (H, W, 3).
    - "dict": `pixels`, and where the world reads it `proprio`, float32 (P,) in dataset units. A world that had further
      cameras would put each beside `pixels` under its own name.
    - "latents": float32 (C, h, w), as `world.encode` makes them; nothing is decoded in a step
      (but a video world decodes in its own step: its decoder is a stream that cannot skip a latent).
    """
    pixels = spaces.Box(0, 255, (*world.config.resolution, 3), np.uint8)
    if obs == "pixels":
        return pixels
    if obs == "latents":
        config = world.transformer.config
        return spaces.Box(-np.inf, np.inf, (config.in_channels, *config.grid), np.float32)
    parts = {"pixels": pixels}
    if world.config.proprio_names:
        parts["proprio"] = spaces.Box(-np.inf, np.inf, (len(world.config.proprio_names),), np.float32)
    return spaces.Dict(parts)


def observe(obs: str, lanes: Lanes) -> Any:
    """What all lanes see now, the lane axis first; arrays of the caller's own."""
    if obs == "latents":
        return lanes.state.world.latent.detach().cpu().float().numpy().copy()
    if obs == "pixels":
        return lanes.frames.copy()
    return {"pixels": lanes.frames.copy()} | (
        {"proprio": lanes.proprio.copy()} if lanes.world.config.proprio_names else {}
    )


def of_lane(observations: Any, lane: int) -> Any:
    """The observation of one lane out of those of all."""
    if isinstance(observations, dict):
        return {name: values[lane].copy() for name, values in observations.items()}
    return observations[lane].copy()
