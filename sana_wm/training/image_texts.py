"""Captions of a set, encoded once: the encoder is as large as the transformer and gone before training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sana_wm.data.latent_cache import load_latents
from sana_wm.models.prompt_cache import files_identity
from sana_wm.models.prompt_encoder import MAX_TOKENS, PromptEncoder, prepare_prompt
from sana_wm.training.claim import weights_fingerprint
from sana_wm.training.image_data import Progress


@dataclass(frozen=True)
class ImageTexts:
    """Features of captions, and of none, on disk: no longer than the longest caption of the set has tokens.

    What is past a caption's tokens is padding, which no network reads through the mask; so that cutting it off changes
    nothing, and saves most of the 1.4 MB that 300 tokens of Gemma-2-2B take.

    Attributes:
        rows: caption -> row. text (M, L, E) float16 and mask (M, L) bool; null_text (L, E), null_mask (L,).
        cut: captions of more than 300 tokens, whose end is not read.
    """

    rows: dict[str, int]
    text: np.ndarray
    mask: np.ndarray
    null_text: np.ndarray
    null_mask: np.ndarray
    cut: int


def encode_captions(
    captions: list[str],
    text_encoder: Path,
    tokenizer: Path,
    prefix: str,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    batch: int = 32,
) -> ImageTexts:
    """Features of captions behind the instruction, from ``folder`` where the same were encoded before.

    An interrupted call is gone on with by the next.

    Args:
        prefix: the instruction. dtype: that the encoder computes in.

    Raises:
        ValueError: folders without an encoder; features that float16 cannot hold.
    """
    from transformers import AutoTokenizer

    if not tokenizer.is_dir():
        raise ValueError(f"tokenizer={tokenizer}: no such folder")
    words = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    prepared = [prepare_prompt(caption) for caption in captions]
    lengths, cut = _lengths(words, prefix, prepared)
    longest = int(lengths.max())
    identity = [weights_fingerprint(text_encoder), files_identity(text_encoder, tokenizer), prefix, str(dtype), longest]
    encoder: list[PromptEncoder] = []

    def encode(texts: list[str], instruct: bool) -> np.ndarray:
        if not encoder:
            loaded = PromptEncoder.from_pretrained(text_encoder, tokenizer, dtype, prefix=prefix)
            encoder.append(loaded.to(device))
        features = encoder[0](texts, instruct)[0][:, :longest].float()
        if not float(features.abs().max()) < 6e4:  # nan too
            raise ValueError(f"{text_encoder} gives features that are not finite or beyond float16's range")
        return features.cpu().numpy()

    def kept(name: str, texts: list[str], instruct: bool, tell: Progress | None = None) -> np.ndarray:
        fingerprint = hashlib.sha256(json.dumps([identity, texts, instruct]).encode()).hexdigest()
        return load_latents(texts, lambda part: encode(part, instruct), fingerprint, folder / name, tell, batch)

    text = kept("captions", prepared, True, progress)
    null = kept("no-caption", [""], False)[0]
    rows = {caption: row for row, caption in enumerate(captions)}
    mask = np.arange(longest) < lengths[:, None]
    null_mask = np.arange(longest) < len(words.encode(""))
    return ImageTexts(rows, text, mask, null, null_mask, cut)


def _lengths(words, prefix: str, captions: list[str]) -> tuple[np.ndarray, int]:
    """How many of the kept tokens are no padding, of every caption; and how many captions are cut.

    As :meth:`PromptEncoder.forward` keeps them: the first, and the last 299 of the instruction's and 298 more.
    """
    before = len(words.encode(prefix))
    counts = np.array([len(words.encode(prefix + caption)) for caption in captions])
    room = before + MAX_TOKENS - 2 if prefix else MAX_TOKENS
    return 1 + np.clip(np.minimum(counts, room) - (room - MAX_TOKENS + 1), 0, None), int((counts > room).sum())
