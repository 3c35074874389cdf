"""Inputs of a transformer, and what is wrong with them."""

from typing import NamedTuple

from torch import Tensor

from sana_wm.models.sana_config import SanaConfig


class CleanPast(NamedTuple):
    """The clean stream of training: frames that later frames read. Shapes as in :meth:`SanaTransformer.forward`."""

    latents: Tensor
    actions: Tensor | None = None
    source: Tensor | None = None
    camera: Tensor | None = None
    plucker: Tensor | None = None


def check_frames(config: SanaConfig, latents: Tensor, actions: Tensor | None) -> None:
    """Refuse latents and actions that do not fit the configuration."""
    c = config
    sides = ("H", "W") if c.grid is None else c.grid
    if latents.ndim != 5 or latents.shape[1] != c.in_channels or c.grid not in (None, tuple(latents.shape[3:])):
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}, expected (B, {c.in_channels}, T, {sides[0]}, {sides[1]})"
        )
    expected = (latents.shape[0], latents.shape[2], c.action_dim)
    if c.action_dim and (actions is None or tuple(actions.shape) != expected):
        got = None if actions is None else tuple(actions.shape)
        raise ValueError(f"actions have shape {got}, expected {expected}: one per frame, leading to it")


def check_camera(config: SanaConfig, latents: Tensor, camera: Tensor | None, plucker: Tensor | None) -> None:
    """Refuse cameras that the configuration has no use for, or that are not one per frame."""
    lanes, frames = latents.shape[0], latents.shape[2]
    for name, given, taken, expected, meaning in (
        ("camera", camera, config.camera, (lanes, frames, 20), "pose and intrinsics of every frame"),
        ("plucker", plucker, config.plucker_channels, (lanes, config.plucker_channels, frames, *latents.shape[3:]),
         "the rays of the raw frames of every latent frame"),
    ):  # fmt: skip
        if given is not None and not taken:
            raise ValueError(f"got {name} of shape {tuple(given.shape)}, but this transformer was built without it")
        if given is not None and tuple(given.shape) != expected:
            raise ValueError(f"{name} has shape {tuple(given.shape)}, expected {expected}: {meaning}")


def check_pass(
    config: SanaConfig,
    latents: Tensor,
    *,
    has_text: bool,
    camera: Tensor | None,
    plucker: Tensor | None,
    actions: Tensor | None,
    past: CleanPast | None,
    streams: bool,
    frame_mask: Tensor | None,
    guidance: Tensor | None = None,
) -> None:
    """Refuse inputs of :meth:`SanaTransformer.forward` that do not fit the configuration or each other."""
    check_frames(config, latents, actions)
    check_camera(config, latents, camera, plucker)
    if past is not None:
        check_frames(config, past.latents, past.actions)
        check_camera(config, past.latents, past.camera, past.plucker)
        if (camera is None) != (past.camera is None) or (plucker is None) != (past.plucker is None):
            raise ValueError("camera and plucker: give them for the frames and for their past, or for neither")
    if has_text != bool(config.text_dim):
        raise ValueError(f"got {'' if has_text else 'no '}text, but this transformer has text_dim={config.text_dim}")
    expected = (latents.shape[0],) if config.guidance else None
    if (None if guidance is None else tuple(guidance.shape)) != expected:
        got = None if guidance is None else tuple(guidance.shape)
        raise ValueError(f"guidance has shape {got}, expected {expected}: 0.1 times the scale, for every lane")
    if streams and config.camera and camera is None:
        raise ValueError("a stream needs camera=(B, T, 20) for every frame: what it remembers depends on the camera")
    if frame_mask is not None:
        expected = (latents.shape[0], latents.shape[2])
        if tuple(frame_mask.shape) != expected:
            raise ValueError(f"frame_mask has shape {tuple(frame_mask.shape)}, expected {expected}")
        if streams or past is not None:
            raise ValueError("frame_mask is for whole clips: leave padding out of a stream, and out of past")
