"""Features of prompts, encoded once, in place of the text encoder that memory no longer holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Encoder = Callable[[Sequence[str], bool], tuple[Tensor, Tensor]]


class KnownTexts:
    """(prompts, with the instruction?) -> features (B, L, E) and mask (B, L) on the CPU, of :meth:`encode`'s alone."""

    def __init__(self):
        self.texts: dict[tuple[str, bool], tuple[Tensor, Tensor]] = {}

    def encode(self, encoder: Encoder, wanted: Iterable[tuple[str, bool]], progress: Callable[[int], None]) -> None:
        """Read texts, each with or without the instruction, one after the other."""
        for text, instruct in wanted:
            features, mask = encoder([text], instruct)
            self.texts[text, instruct] = features[0].cpu(), mask[0].cpu()
            progress(len(self.texts))

    def __call__(self, prompts: Sequence[str], instruct: bool) -> tuple[Tensor, Tensor]:
        features, masks = zip(*(self.texts[text, instruct] for text in prompts), strict=True)
        return torch.stack(features), torch.stack(masks)
