"""Texts of a dataset, encoded once: the encoder is as large as the transformer and gone before training."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sana_wm.models.prompt_encoder import PromptEncoder
from sana_wm.models.release import Release
from sana_wm.world.prompts import Features, read_prompts, write_prompts


def encode_texts(
    texts: list[str], release: Release, folder: Path, dtype: torch.dtype, device: torch.device
) -> tuple[dict[str, Features], Features | None]:
    """Features of texts, and those of no prompt; from ``folder`` where they were encoded before.

    Returns: text -> features; features of no prompt, None where the release has no text encoder to make them with.

    Raises:
        ValueError: a text that is new, and no text encoder.
    """
    known = read_prompts(release.root) | read_prompts(folder)
    null = folder / "no-prompt.safetensors"
    new = [text for text in dict.fromkeys(texts) if text not in known]
    has_encoder = release.text_encoder is not None
    if new and not has_encoder:
        raise ValueError(
            f"{release.root} has no text_encoder/ to encode the dataset's task {new[0]!r} with"
            + (f"; it knows {', '.join(map(repr, list(known)[:5]))}: choose one with data.task=..." if known else "")
        )
    if new or (has_encoder and not null.is_file()):
        tokenizer = release.tokenizer or release.text_encoder
        encoder = PromptEncoder.from_pretrained(release.text_encoder, tokenizer, dtype).to(device)
        for text in new:
            features, mask = encoder([text])
            known[text] = features[0].cpu(), mask[0].cpu()
        features, mask = encoder([""], instruct=False)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"features": features.cpu().contiguous(), "mask": mask.cpu().to(torch.uint8)}, null)
        write_prompts(folder, known)
        del encoder
        if device.type == "cuda":
            torch.cuda.empty_cache()
    found = {text: known[text] for text in dict.fromkeys(texts)}
    if not null.is_file():
        return found, None
    tensors = load_file(null)
    return found, (tensors["features"][0], tensors["mask"][0].bool())
