"""Captions beside pictures: lines of a text file, or a JSON list or table with a score for each."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple


class Captions(NamedTuple):
    """texts, without blanks at their ends and each once; a score for each (such as CLIP's), or None."""

    texts: tuple[str, ...]
    scores: tuple[float, ...] | None = None


def read_captions(data: bytes, suffix: str) -> Captions:
    """Captions of one picture.

    Args:
        suffix: ``.txt``: one caption in each line. ``.json``: a list of captions; a table caption -> score; or a table
            with an entry ``caption`` or ``captions`` of either kind (or one text), whatever else it holds.

    Raises:
        ValueError: none in it, or another layout.
    """
    try:
        text = data.decode("utf-8-sig")
        told = text.splitlines() if suffix == ".txt" else json.loads(text)
    except ValueError as error:  # of the encoding, or of JSON
        raise ValueError(f"its {suffix} cannot be read ({error})") from None
    captions = _listed(told, suffix)
    if not captions.texts:
        raise ValueError(f"its {suffix} holds no caption")
    return captions


def _listed(told: Any, suffix: str) -> Captions:
    if isinstance(told, dict):
        named = [told[name] for name in ("captions", "caption") if name in told and not _is_score(told[name])]
        if named:
            return _listed([named[0]] if isinstance(named[0], str) else named[0], suffix)
        if told and all(map(_is_score, told.values())):
            scored: dict[str, float] = {}
            for caption, score in told.items():
                if caption.strip():
                    scored[caption.strip()] = float(score)
            return Captions(tuple(scored), tuple(scored.values()))
    if not isinstance(told, list) or not all(isinstance(line, str) for line in told):
        raise ValueError(
            f"its {suffix} is neither a list of captions, a table caption -> score, nor a table with 'caption'"
        )
    return Captions(tuple(dict.fromkeys(line.strip() for line in told if line.strip())))


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
