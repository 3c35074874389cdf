"""Features of prompts kept on disk, which spares reading a language model for a known prompt."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana_wm.models.prompt_encoder import MAX_TOKENS, PromptEncoder


def files_identity(*folders: str | Path) -> str:
    """A name for the saved model and tokenizer in ``folders``, without reading the weights through.

    It depends on the text of every JSON file and, of every other file, on its name, its size and its first and last
    megabyte. A change in the middle of a large file only is not seen.
    """
    digest, piece = hashlib.sha256(), 1 << 20
    for folder in map(Path, folders):
        for path in sorted(file for file in folder.iterdir() if file.is_file()):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(size if path.suffix == ".json" else piece))
                file.seek(max(0, size - piece))
                digest.update(file.read(piece))
    return digest.hexdigest()


class PromptCache:
    """Features of prompts on disk, one safetensors file each, made by an encoder that is read when it is first needed.

    300 tokens of Gemma-2-2B take 1.4 MB in bfloat16 and 2.8 MB in float32; padding is kept, since guidance with the
    prompt's mask reads the negative prompt's padding. A file appears whole or not at all, whatever stops the process,
    so processes may share a folder. What was used least recently goes when the folder grows past ``max_bytes``.

    Args:
        folder: of the files. load: makes the encoder. identity: names the encoder's weights, tokenizer and dtype, so
            that features of another one are never taken for these; :func:`files_identity`.
        prefix, max_tokens: of the encoder; they are part of the name too.
        max_bytes: of all files together.
    """

    def __init__(
        self,
        folder: str | Path,
        load: Callable[[], PromptEncoder],
        identity: str,
        prefix: str,
        max_tokens: int = MAX_TOKENS,
        max_bytes: int = 2_000_000_000,
    ):
        self.folder, self.load, self.identity = Path(folder), load, identity
        self.prefix, self.max_tokens, self.max_bytes = prefix, max_tokens, max_bytes
        self._encoder: PromptEncoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        model: str | Path,
        tokenizer: str | Path | None = None,
        dtype: torch.dtype | None = None,
        *,
        prefix: str,
        max_tokens: int = MAX_TOKENS,
        device: torch.device | str = "cpu",
        max_bytes: int = 2_000_000_000,
        quantise: str | None = None,
    ) -> PromptCache:
        """In front of :meth:`PromptEncoder.from_pretrained`, which takes the same; ``device`` is where it computes."""

        def load() -> PromptEncoder:
            how = {"prefix": prefix, "max_tokens": max_tokens, "quantise": quantise}
            return PromptEncoder.from_pretrained(model, tokenizer, dtype, **how).to(device)

        sources = [model] if tokenizer is None else [model, tokenizer]
        identity = f"{files_identity(*sources)} {dtype}" + (f" {quantise}" if quantise else "")
        return cls(folder, load, identity, prefix, max_tokens, max_bytes)

    def __call__(self, prompts: Sequence[str], instruct: bool = True) -> tuple[Tensor, Tensor]:
        """As :meth:`PromptEncoder.forward`, on the CPU: features (B, L, C), mask (B, L) bool."""
        paths = [self._path(prompt, instruct) for prompt in prompts]
        found = {path: self._read(path) for path in dict.fromkeys(paths)}
        new = {path: prompt for path, prompt in zip(paths, prompts, strict=True) if found[path] is None}
        if new:
            features, masks = self._loaded()(list(new.values()), instruct)
            for path, feature, mask in zip(new, features.cpu(), masks.cpu(), strict=True):
                found[path] = feature, mask
                self._write(path, feature, mask)
            self._shrink(keep=set(paths))
        features, masks = zip(*(found[path] for path in paths), strict=True)
        return torch.stack(features), torch.stack(masks)

    def release(self) -> None:
        """Let the encoder go; a new prompt reads it again."""
        self._encoder = None

    def _loaded(self) -> PromptEncoder:
        if self._encoder is None:
            encoder = self.load()
            if (encoder.prefix, encoder.max_tokens) != (self.prefix, self.max_tokens):
                raise ValueError("the encoder has another prefix or max_tokens than its cache: give both the same")
            self._encoder = encoder
        return self._encoder

    def _path(self, prompt: str, instruct: bool) -> Path:
        key = [self.identity, self.prefix if instruct else None, self.max_tokens, prompt]
        return self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.safetensors"

    @staticmethod
    def _read(path: Path) -> tuple[Tensor, Tensor] | None:
        try:
            tensors = load_file(path)
            os.utime(path)  # used now
        except FileNotFoundError:
            return None
        return tensors["features"], tensors["mask"].bool()

    def _write(self, path: Path, features: Tensor, mask: Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=path.stem, suffix=".partial", dir=self.folder)
        os.close(handle)
        try:
            save_file({"features": features.contiguous(), "mask": mask.to(torch.uint8)}, partial)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def _shrink(self, keep: set[Path]) -> None:
        """Remove the files used longest ago until the rest fit; those of this call stay."""
        files = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another process shrinks the folder too
                told = path.stat()
                files.append((told.st_mtime_ns, told.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                return
            if path not in keep:
                path.unlink(missing_ok=True)
                total -= size
