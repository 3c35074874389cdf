"""How far a world is to be trusted at a step: four signals, each over what 99 % of held-out steps stay below.

``model_uncertainty`` asks the dynamics twice, ``ood_action`` and ``ood_state`` ask how far a step is from the training
data, ``drift`` asks whether the picture still says what the world believes. docs/trust.md has the formulas, what they
cost and how well they predict the true error. :mod:`sana_wm.world.trust_calibration` makes a :class:`Trust`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.diffusion.flow import TIMESTEPS, network_input, predicted_clean, start_point
from sana_wm.nn.proprio import unpack
from sana_wm.world.noise import lane_noise

if TYPE_CHECKING:
    from sana_wm.models.heads import Heads, HeadsConfig
    from sana_wm.world.world_model import WorldModel
    from sana_wm.world.world_state import WorldState

SIGNALS = ("model_uncertainty", "ood_action", "ood_state", "drift")
QUANTILE_LEVELS = tuple(i / 100 for i in range(100)) + (0.995, 0.999, 1.0)
THRESHOLD_LEVEL = 0.99
DOUBT = "doubt"  # what a watched state carries: (B,) float32, the squared doubts of its steps so far
PICTURE_JITTER, PROPRIO_JITTER = 0.1, 0.02  # deviation of the noise on a second look at the previous frame
JITTER_DRAW = 2  # of `lane_noise`: 0 starts a frame, 1 redraws it
POOLED_SIDE = 4  # larger grids of latents are averaged to this before places are compared
NEIGHBOUR = 4  # how far the 4th nearest known place is: the nearest alone may be chance


class Trust(nn.Module):
    """What calibration learned of a world's training data and of its held-out steps. No part of it is trained.

    Args:
        tensors: what a bundle stores, by name; :func:`trust_shapes` says which and how large.
        made_for: fingerprint of the weights that were calibrated.
    """

    def __init__(self, tensors: dict[str, Tensor], made_for: str = ""):
        super().__init__()
        self.made_for = made_for
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float())

    def tensors(self) -> dict[str, Tensor]:
        """Inverse of the constructor."""
        return {name: buffer.detach().cpu().contiguous().clone() for name, buffer in self.named_buffers()}

    @property
    def thresholds(self) -> dict[str, float]:
        """The raw score at which each signal is 1: what 99 % of the steps of held-out imagination stay below."""
        column = QUANTILE_LEVELS.index(THRESHOLD_LEVEL)
        return dict(zip(SIGNALS, self.quantiles[:, column].tolist(), strict=True))

    def signal(self, name: str, scores: Tensor) -> Tensor:
        """Raw scores (...) of a signal -> 1 at its threshold."""
        return scores / self.quantiles[SIGNALS.index(name), QUANTILE_LEVELS.index(THRESHOLD_LEVEL)]

    def percentile(self, name: str, signal: np.ndarray | float) -> np.ndarray:
        """Share in [0, 1] of held-out steps with a smaller value of the signal (as infos have it)."""
        table = self.quantiles[SIGNALS.index(name)].cpu().numpy().astype(np.float64)
        return np.interp(np.asarray(signal) * self.thresholds[name], table, QUANTILE_LEVELS)

    def uncertainty(self, doubt: Tensor) -> Tensor:
        """The signal (B,) from the summed squares that a state carries."""
        return self.signal("model_uncertainty", doubt.sqrt())

    def doubts(self, pairs: Tensor) -> Tensor:
        """Squared doubt (B,) of steps from the two disagreements (B, 2) of :func:`disagreements`."""
        return (pairs / self.disagreement_scale).square().sum(-1)

    def place(self, latents: Tensor, config: HeadsConfig) -> Tensor:
        """(..., C, h, w) -> (..., D + 1): where among the training frames, and how far off all that they span."""
        off = picture_features(latents, config) - self.place_mean
        along = off @ self.place_axes
        beside = (off - along @ self.place_axes.T).norm(dim=-1, keepdim=True)
        spread = along / (self.place_std * len(self.place_std) ** 0.5)
        return torch.cat([spread, (beside - self.beside_mean) / self.beside_std], dim=-1)

    def ood_state(self, latents: Tensor, config: HeadsConfig) -> Tensor:
        """The signal (B,): distance of the place of latents (B, C, h, w) to its 4th nearest training frame."""
        distance = torch.cdist(self.place(latents, config), self.places, compute_mode="donot_use_mm_for_euclid_dist")
        return self.signal("ood_state", distance.kthvalue(min(NEIGHBOUR, distance.shape[1]), dim=1).values)

    def ood_action(self, latents: Tensor, actions: Tensor, config: HeadsConfig) -> Tensor:
        """The signal (B,): Mahalanobis distance of normalised actions (B, A) to those that training took there.

        Their mean is linear in what the world reads there, their covariance one for all.
        """
        told = told_by(latents, config)
        expected = torch.cat([told, torch.ones_like(told[:, :1])], dim=1) @ self.action_mean
        return self.signal("ood_action", ((actions - expected) @ self.action_whiten).norm(dim=1))

    def drift(self, latents: Tensor, encoded: Tensor, config: HeadsConfig) -> Tensor:
        """The signal (B,): latents (B, C, h, w) against those of their own decoded frames."""
        return self.signal("drift", rms(told_by(latents, config) - told_by(encoded, config)))


def told_by(latents: Tensor, config: HeadsConfig) -> Tensor:
    """What latents (B, C, h, w) say, standardised: their proprioception (B, P), or the picture where there is none."""
    if config.proprio_dim:
        return unpack(latents[:, config.channels :], config.proprio_dim)
    return picture_features(latents, config)


def picture_features(latents: Tensor, config: HeadsConfig) -> Tensor:
    """Latents (..., C, h, w) -> (..., F): the picture, pooled to at most 4 x 4 cells, then proprioception."""
    lead = latents.shape[:-3]
    picture = latents[..., : config.channels, :, :].reshape(-1, config.channels, *latents.shape[-2:])
    cells = F.adaptive_avg_pool2d(picture, pooled_grid(config)).flatten(1).reshape(*lead, -1)
    if not config.proprio_dim:
        return cells
    return torch.cat([cells, unpack(latents[..., config.channels :, :, :], config.proprio_dim)], dim=-1)


def pooled_grid(config: HeadsConfig) -> tuple[int, int]:
    return tuple(min(side, POOLED_SIDE) for side in config.grid)


def feature_count(config: HeadsConfig) -> int:
    """F of :func:`picture_features`."""
    height, width = pooled_grid(config)
    return config.channels * height * width + config.proprio_dim


def rms(differences: Tensor) -> Tensor:
    """Root mean square over the last axis."""
    return differences.square().mean(-1).sqrt()


def disagreements(world: WorldModel, before: WorldState, after: Tensor, led_by: Tensor) -> Tensor:
    """Two disagreements (B, 2) about the step from ``before`` to the latents ``after`` (B, C, h, w).

    The dynamics predict the step once more from a previous frame with a little noise on it, in one denoising step
    whatever the sampler does. ``[:, 0]``: how far what this second prediction says lies from the first, the noise taken
    off again. Where a hair's breadth of the past decides (contact, an edge), that is large. ``[:, 1]``: how far the
    proprioception in it lies from what the heads read in its own picture, which blurs where several futures are
    possible (0 without proprioception).

    Args:
        led_by: (B, A) normalised actions.
    """
    config, flow = world.config.heads, world.config.flow
    shape = tuple(before.latent.shape[1:])
    jitter = lane_noise(before.seeds, before.frame, JITTER_DRAW, shape)
    jitter[:, : config.channels] *= PICTURE_JITTER
    jitter[:, config.channels :] *= PROPRIO_JITTER
    previous = (before.latent + jitter)[:, :, None]
    start = start_point(flow, previous, lane_noise(before.seeds, before.frame, JITTER_DRAW + 1, shape)[:, :, None])
    time = torch.full((before.num_lanes,), TIMESTEPS, device=before.latent.device)
    sigma = torch.ones((), device=before.latent.device)
    shown = network_input(flow, start, previous, sigma)
    out = world.transformer(shown, time, actions=led_by[:, None], source=previous, state=before.stream)
    second = predicted_clean(flow, out.velocity, start, previous, sigma)[:, :, 0]
    spread = rms(told_by(second - jitter, config) - told_by(after, config))
    return torch.stack([spread, dispute(world.heads, second)], dim=1)


def dispute(heads: Heads, latents: Tensor) -> Tensor:
    """(B,) proprioception that latents (B, C, h, w) carry against what the heads read in their picture."""
    config = heads.config
    if not config.proprio_dim:
        return latents.new_zeros(len(latents))
    return rms(heads(latents[:, : config.channels])["proprio"] - told_by(latents, config))


def trust_shapes(config: Any, places: int, axes: int) -> dict[str, tuple[int, ...]]:
    """What a :class:`Trust` of a world (its `WorldConfig`) holds, with M ``places`` and D ``axes``."""
    features = feature_count(config.heads)
    told = config.heads.proprio_dim or features
    width = config.codec.network_width
    return {
        "disagreement_scale": (2,),
        "place_mean": (features,),
        "place_axes": (features, axes),
        "place_std": (axes,),
        "beside_mean": (),
        "beside_std": (),
        "places": (places, axes + 1),
        "action_mean": (told + 1, width),
        "action_whiten": (width, width),
        "quantiles": (len(SIGNALS), len(QUANTILE_LEVELS)),
    }
