"""Calibration of a world's trust signals: places and actions from training clips, thresholds from held-out ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sana_wm.world.action_codec import as_action_tensor
from sana_wm.world.fingerprint import fingerprint
from sana_wm.world.trust import (
    QUANTILE_LEVELS,
    SIGNALS,
    Trust,
    disagreements,
    feature_count,
    picture_features,
    told_by,
)

if TYPE_CHECKING:
    from sana_wm.world.world_model import WorldModel

PLACES, AXES = 2048, 16  # training frames that are remembered, and the axes in which they are compared
DRIFT_EVERY = 4  # steps: decoding and encoding take most of the time
RIDGE = 1e-3  # of the action's mean, in units of the features' variance


@dataclass(frozen=True)
class Clips:
    """N clips of C context frames and H steps, as training cuts them. `sana_wm.evaluation.windows.Windows` will do too.

    Attributes:
        frames: uint8 (N, C + H, height, width, 3). actions: (N, C + H - 1, *action shape) in dataset units, number k
            leads from frame k to k + 1. context: C.
    """

    frames: np.ndarray
    actions: np.ndarray
    context: int


@torch.no_grad()
def calibrate(
    world: WorldModel,
    train: Clips,
    held_out: Clips,
    *,
    lanes: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Trust:
    """What it takes to say of a step of ``world`` whether it can be trusted.

    From the clips of the training split: the places (frames as latents) that the world knows, and what actions are
    taken where. From held-out clips, imagined open loop with their own actions: the distribution of each signal. A
    signal is 1 at its 99 % quantile there. ``model_uncertainty`` grows along an imagination, so its threshold is that
    of imaginations as long as the held-out clips.

    Args:
        lanes: clips that are imagined in one batch. progress: called with (done, in all).
    Returns: the calibration; ``world.trust = calibrate(...)`` and ``world.save_pretrained`` keep it.

    Raises:
        ValueError: no clips, or clips without a step to imagine.
    """
    for name, clips in (("train", train), ("held_out", held_out)):
        if not len(clips.frames) or clips.frames.shape[1] <= clips.context or clips.context < 1:
            raise ValueError(
                f"{name} clips have frames {clips.frames.shape} and context {clips.context}: expected at least one "
                "clip of more frames than its context"
            )
    total, done = -(-len(train.frames) // lanes) - (-len(held_out.frames) // lanes), 0
    encoded, followed, pairs, drifts, imagined, led = [], [], [], [], [], []
    for first in range(0, len(train.frames), lanes):
        frames = train.frames[first : first + lanes]
        encoded.append(torch.stack([world.encode(frames[:, k : k + 1])[:, 0] for k in range(frames.shape[1])], dim=1))
        followed.append(_normalised(world, train.actions[first : first + lanes]))
        done += 1
        if progress:
            progress(done, total)
    for first in range(0, len(held_out.frames), lanes):
        made = _imagine(world, held_out, slice(first, first + lanes))
        for kept, part in zip((pairs, drifts, imagined, led), made, strict=True):
            kept.append(part)
        done += 1
        if progress:
            progress(done, total)
    tensors = _places(world, torch.cat(encoded), seed) | _actions(world, torch.cat(encoded), torch.cat(followed))
    pairs = torch.cat(pairs)
    tensors["disagreement_scale"] = _positive(pairs.flatten(0, 1).median(dim=0).values)
    tensors["quantiles"] = torch.ones(len(SIGNALS), len(QUANTILE_LEVELS), device=world.device)
    trust, heads = Trust(tensors, fingerprint(world.parts)), world.config.heads
    latents, actions = torch.cat(imagined), torch.cat(led)
    scores = {
        "model_uncertainty": trust.doubts(pairs).cumsum(dim=1).sqrt(),
        "ood_action": trust.ood_action(latents[:, :-1].flatten(0, 1), actions.flatten(0, 1), heads),
        "ood_state": torch.cat([trust.ood_state(some, heads) for some in latents[:, 1:].flatten(0, 1).split(4096)]),
        "drift": torch.cat(drifts),
    }
    levels = np.array(QUANTILE_LEVELS)
    table = np.stack([np.quantile(scores[name].double().cpu().numpy(), levels) for name in SIGNALS])
    trust.quantiles.copy_(_positive(torch.from_numpy(table).float()))
    # as a bundle stores them
    trust.places.copy_(trust.places.half().float())
    return trust.to(world.device)


def _normalised(world: WorldModel, actions: np.ndarray) -> Tensor:
    return world.codec.normalise(as_action_tensor(world.codec.check(actions), world.device))


def _imagine(world: WorldModel, clips: Clips, some: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Open-loop steps of ``some`` clips: disagreements (B, H, 2), drift scores (n,), latents (B, H + 1, C, h, w) from
    the last context frame on, and the normalised actions (B, H, A)."""
    context, heads = clips.context, world.config.heads
    frames, actions = clips.frames[some], clips.actions[some]
    led_by, seeds = _normalised(world, actions), np.arange(some.start, some.start + len(frames))
    state = world.begin(frames[:, :context], actions[:, : context - 1], seeds=seeds)
    unit = Trust({"quantiles": torch.ones(len(SIGNALS), len(QUANTILE_LEVELS), device=world.device)})
    pairs, drifts, latents = [], [], [state.latent]
    for k in range(context - 1, led_by.shape[1]):
        before = state
        state, _ = world.step(before, actions[:, k])
        pairs.append(disagreements(world, before, state.latent, led_by[:, k]))
        latents.append(state.latent)
        if (k - context + 1) % DRIFT_EVERY == 0:
            again = world.encode(world.frames(state))[:, -1]
            drifts.append(unit.drift(state.latent, again, heads))
    return torch.stack(pairs, dim=1), torch.cat(drifts), torch.stack(latents, dim=1), led_by[:, context - 1 :]


def _places(world: WorldModel, encoded: Tensor, seed: int) -> dict[str, Tensor]:
    """Principal axes of training frames, latents (N, T, C, h, w), and where some of them lie."""
    heads = world.config.heads
    features = picture_features(encoded.flatten(0, 1), heads)
    mean = features.mean(dim=0)
    axes = min(AXES, feature_count(heads))
    off = features - mean
    variances, directions = torch.linalg.eigh((off.T @ off / len(off)).double().cpu())
    directions = directions[:, -axes:].float().to(off.device)
    beside = (off - off @ directions @ directions.T).norm(dim=1)
    tensors = {
        "place_mean": mean,
        "place_axes": directions,
        "place_std": _positive(variances[-axes:].float().sqrt().to(off.device)),
        "beside_mean": beside.mean(),
        "beside_std": _positive(beside.std(correction=0)),
    }
    chosen = np.sort(np.random.default_rng(seed).permutation(len(features))[:PLACES])
    some = encoded.flatten(0, 1)[torch.from_numpy(chosen).to(encoded.device)]
    return tensors | {"places": Trust(tensors).place(some, heads)}


def _actions(world: WorldModel, encoded: Tensor, led_by: Tensor) -> dict[str, Tensor]:
    """The actions (N, T - 1, A) given what their frames, latents (N, T, C, h, w), say: mean and whitening."""
    told = told_by(encoded[:, :-1].flatten(0, 1), world.config.heads).double().cpu()
    actions = led_by.flatten(0, 1).double().cpu()
    known = torch.cat([told, torch.ones(len(told), 1, dtype=told.dtype)], dim=1)
    gram = known.T @ known / len(known)
    mean = torch.linalg.solve(gram + RIDGE * torch.eye(len(gram), dtype=told.dtype), known.T @ actions / len(known))
    left = actions - known @ mean
    variances, directions = torch.linalg.eigh(left.T @ left / len(left))
    # columns that never vary (a masked action) are given a little, so that a change of them counts
    whiten = directions * variances.clamp(min=1e-4 * float(variances.max().clamp(min=1e-6))).rsqrt() @ directions.T
    return {"action_mean": mean.float().to(led_by.device), "action_whiten": whiten.float().to(led_by.device)}


def _positive(values: Tensor) -> Tensor:
    """Values that something is divided by: a world that stands still has zeros among them."""
    return values.clamp(min=1e-6)
