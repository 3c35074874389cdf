"""The Wan 2.1 video autoencoder of SANA-Video and LongSANA at 480p, and loading whichever a release has (spec 7.4).

The network is diffusers' ``AutoencoderKLWan`` (the ``ltx`` extra). It is causal, and decodes latent after latent by
itself, each of its convolutions keeping its last inputs; here those are a value that is given and returned, so that a
stream can go on, or begin again, wherever its owner likes.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from sana_wm.models.video_vae import VideoVAE

Tail = Tensor | str | None  # what a convolution keeps: nothing yet, a mark of the first latent, or its last inputs


class WanVAE(VideoVAE):
    """F = 4 k + 1 raw frames <-> T = k + 1 latent frames of 16 channels and cells of 8 pixels.

    Its weights are float32: half precision shows in the pictures.
    """

    network = "AutoencoderKLWan"

    @staticmethod
    def _sizes(vae: nn.Module) -> tuple[int, int, int]:
        c = vae.config
        return c.z_dim, c.scale_factor_spatial, c.scale_factor_temporal

    def check_streams(self) -> None:
        """It always does."""

    def stream_pixels(self, latents: Tensor, tails: tuple[Tail, ...] | None = None) -> tuple[Tensor, tuple[Tail, ...]]:
        """Decode the next latents of a stream, one after the other: the numbers of :meth:`pixels`, at constant memory.

        Args:
            latents: (B, C, n, h, w) normalised. tails: what the call before returned; None at the start of a clip.
        Returns: (B, 3, F, H, W) in [-1, 1], F = 4 n (at the start 4 (n - 1) + 1), and the tails: of every convolution
            its last two inputs.
        """
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify

        # no decorator on this method: its wrapper would refer to the tails while they are replaced
        decoder, starts = self.vae.decoder, tails is None
        if starts:
            tails = (None,) * sum(isinstance(module, WanCausalConv3d) for module in decoder.modules())
        kept, pieces = list(tails), []  # the network puts new tensors in the list and leaves the old ones alone
        del tails  # where nothing else refers to them, each is let go of as it is replaced
        with torch.no_grad():
            for latent in self.vae.post_quant_conv(self._raw(latents)).split(1, dim=2):
                pieces.append(decoder(latent, feat_cache=kept, feat_idx=[0], first_chunk=starts))
                starts = False
            pixels = torch.cat(pieces, dim=2)
            if self.vae.config.patch_size is not None:
                pixels = unpatchify(pixels, patch_size=self.vae.config.patch_size)
            return pixels.clamp(-1, 1), tuple(kept)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        c = self.vae.config
        mean, std = (torch.tensor(s, device=self.device).view(1, -1, 1, 1, 1) for s in (c.latents_mean, c.latents_std))
        return mean.float(), std.float()


CLASSES = {cls.network: cls for cls in (VideoVAE, WanVAE)}


def vae_class(folder: str | Path) -> type[VideoVAE]:
    """Which of the two a folder holds, by the ``_class_name`` of its config.json.

    Raises:
        ValueError: no such file, or another class.
    """
    file = Path(folder) / "config.json"
    try:
        name = json.loads(file.read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file}: expected the config.json of {' or '.join(CLASSES)} ({error})") from error
    if name not in CLASSES:
        raise ValueError(f"{file}: _class_name={name!r}, expected {' or '.join(CLASSES)}")
    return CLASSES[name]


def vae_sizes(folder: str | Path) -> tuple[int, int, int]:
    """Channels of a latent, pixels of a cell's side and frames of a latent frame, from the config.json alone.

    Raises:
        ValueError: as :func:`vae_class`.
    """
    usual = {"z_dim": 16, "scale_factor_spatial": 8, "scale_factor_temporal": 4}
    if vae_class(folder) is not WanVAE:
        usual = {"latent_channels": 128, "spatial_compression_ratio": 32, "temporal_compression_ratio": 8}
    config = json.loads((Path(folder) / "config.json").read_text())
    channels, pixels, frames = (config.get(name) or value for name, value in usual.items())
    return channels, pixels, frames


def load_video_vae(folder: str | Path, dtype: torch.dtype | None = None) -> VideoVAE:
    """Read the autoencoder of a release; Wan's in float32 whatever ``dtype`` says.

    Raises:
        ValueError: as :func:`vae_class`, or a folder without weights. ImportError: no diffusers.
    """
    cls = vae_class(folder)
    return cls.from_pretrained(folder, torch.float32 if cls is WanVAE else dtype)
