"""Pictures as training sees them: cached latents in buckets of one size each, and the features of their captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class ImageBatch(NamedTuple):
    """latents (B, C, h, w), scaling factor included; text (B, L, E) and text_mask (B, L) bool."""

    latents: Tensor
    text: Tensor
    text_mask: Tensor


@dataclass(frozen=True)
class Bucket:
    """Pictures of one size.

    Attributes:
        latents: (N, C, h, w), scaling factor included; float16, may be a memory map.
        captions: (N, K) rows of the set's features: K captions of each picture, -1 where it has fewer, never in the
            first column.
        weights: (N, K) how often each caption is taken, rows sum to 1; None: all of a picture's alike.
    """

    latents: np.ndarray
    captions: np.ndarray
    weights: np.ndarray | None = None

    def draw_captions(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A caption of each picture of ``rows``: rows of the set's features."""
        known = (self.captions[rows] >= 0).sum(1)
        if self.weights is None:
            columns = rng.integers(known)
        else:
            columns = (self.weights[rows].cumsum(1) <= rng.random((len(rows), 1))).sum(1).clip(max=known - 1)
        return self.captions[rows, columns]


@dataclass(frozen=True)
class ImageSet:
    """Buckets of pictures with text, or with any other condition that is written as tokens.

    Attributes:
        text, mask: (M, L, E) features, and (M, L) bool where they are tokens; may be memory maps.
        null_text, null_mask: (L, E) and (L,): of no caption, for classifier-free guidance.
    """

    buckets: tuple[Bucket, ...]
    text: np.ndarray
    mask: np.ndarray
    null_text: np.ndarray
    null_mask: np.ndarray

    def __len__(self) -> int:
        return sum(len(bucket.latents) for bucket in self.buckets)

    def draw(self, rng: np.random.Generator, size: int, device: torch.device | str = "cpu") -> ImageBatch:
        """A batch from one bucket, chosen by its share of the pictures; one caption of each picture."""
        share = np.array([len(bucket.latents) for bucket in self.buckets], np.float64)
        bucket = self.buckets[rng.choice(len(self.buckets), p=share / share.sum())]
        rows = np.sort(rng.integers(len(bucket.latents), size=size))
        return self.take(bucket, rows, bucket.draw_captions(rows, rng), device)

    def take(
        self, bucket: Bucket, rows: np.ndarray, captions: np.ndarray, device: torch.device | str = "cpu"
    ) -> ImageBatch:
        """Pictures ``rows`` (B,) of a bucket with the features ``captions`` (B,)."""
        latents = torch.from_numpy(np.asarray(bucket.latents[rows], np.float32))
        text = torch.from_numpy(np.asarray(self.text[captions], np.float32))
        return ImageBatch(*(part.to(device) for part in (latents, text, torch.from_numpy(self.mask[captions]))))

    def without_text(self, batch: ImageBatch, dropped: Tensor) -> ImageBatch:
        """The batch with the text of lanes ``dropped`` (B,) bool replaced by that of no caption.

        Which tokens are read stays as the caption has it, as NVlabs drops captions and as samplers guide by default
        (``null_mask="prompt"``, sana_family spec sections 12 and 22.2).
        """
        null = torch.from_numpy(np.asarray(self.null_text, np.float32)).to(batch.text)
        return batch._replace(text=torch.where(dropped[:, None, None], null, batch.text))
