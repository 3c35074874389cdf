"""A folder of captioned pictures as training takes it: checked, sorted into buckets, encoded once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sana_wm.data.latent_cache import load_latents
from sana_wm.data.picture_files import CaptionedPicture, list_pictures, open_picture
from sana_wm.generation.aspect import nearest_bin
from sana_wm.generation.image_file import to_pixels
from sana_wm.models.dc_ae import DCAE
from sana_wm.training.image_set import Bucket

Progress = Callable[[int, int], None]  # done, in all
AT_ONCE = 2**21  # pixels that are encoded together


@dataclass(frozen=True)
class ImageData:
    """Which pictures, and how they are taken.

    Attributes:
        root: a folder, or one .tar; see :func:`sana_wm.data.picture_files.list_pictures`.
        square: every picture is cropped to the base's square; else to the nearest of its bins.
        upscale: take pictures that are smaller than their bin too.
        held_out: share of the pictures that is not trained on.
        score_temperature: captions with scores are taken with odds softmax(score / temperature).
        least_score: captions below it are left out, and pictures that have no other.
    """

    root: str
    square: bool = False
    upscale: bool = False
    held_out: float = 0.02
    score_temperature: float = 0.1
    least_score: float | None = None

    def __post_init__(self):
        if not 0 < self.held_out < 1 or not self.score_temperature > 0:
            raise ValueError(
                f"data.held_out={self.held_out}, score_temperature={self.score_temperature}: expected a share between "
                "0 and 1, and more than 0"
            )


@dataclass(frozen=True)
class Told:
    """A picture's captions after the choice by score, with how often each is taken; None: all alike."""

    texts: tuple[str, ...]
    weights: tuple[float, ...] | None


@dataclass(frozen=True)
class SortedPictures:
    """Pictures that are whole and large enough, by the (height, width) of their bin.

    Within a bin they stand in the order of a hash of their names: the first ``held_out`` of the bin are not trained on,
    and which pictures these are changes little with what is added to the folder.

    Attributes:
        lost: what is left out, by name, with the reason.
    """

    bins: dict[tuple[int, int], list[tuple[CaptionedPicture, Told]]]
    held_out: dict[tuple[int, int], int]
    lost: list[tuple[str, str]]

    def __len__(self) -> int:
        return sum(map(len, self.bins.values()))

    def texts(self) -> list[str]:
        """Every caption once."""
        told = (told.texts for size in self.bins for _, told in self.bins[size])
        return list(dict.fromkeys(text for texts in told for text in texts))


def sort_pictures(data: ImageData, base: int, cell: int, notes: Path, progress: Progress) -> SortedPictures:
    """Decode every picture once to see that it is whole (what is known of it is in ``notes``), and choose its bin.

    Raises:
        ValueError: fewer than two pictures are left, naming what is wrong with the others.
    """
    listed, lost = list_pictures(data.root)
    sizes = _sizes(listed, notes, progress)
    bins: dict[tuple[int, int], list] = {}
    for one in listed:
        size, told = sizes[one.name], _choose(one, data)
        if isinstance(size, str):
            lost.append((one.name, size))
            continue
        height, width = size
        bin_ = (base, base) if data.square else nearest_bin(height, width, base, cell)
        if not data.upscale and (height < bin_[0] or width < bin_[1]):
            wanted = f"{bin_[0]}x{bin_[1]} (data.upscale=true takes it all the same)"
            lost.append((one.name, f"{height}x{width} pixels are too few for {wanted}"))
        elif told is None:
            lost.append((one.name, f"no caption with a score of data.least_score={data.least_score} or more"))
        else:
            bins.setdefault(bin_, []).append((one, told))
    lost.sort()
    count = sum(map(len, bins.values()))
    if count < 2:
        raise ValueError(
            f"data={data.root}: {count} usable pictures, expected 2 or more; {summary(lost) or 'there are no more'}"
        )
    for pictures in bins.values():
        pictures.sort(key=lambda pair: _hash(pair[0].name))
    apart = min(count - 1, max(1, round(data.held_out * count)))
    last = sorted(_hash(one.name) for pictures in bins.values() for one, _ in pictures)[apart - 1]
    held_out = {size: sum(_hash(one.name) <= last for one, _ in pictures) for size, pictures in bins.items()}
    return SortedPictures({size: bins[size] for size in sorted(bins)}, held_out, lost)


def summary(lost: list[tuple[str, str]], shown: int = 3) -> str:
    """What is left out, in a line: how many, and the first ones with their reasons."""
    if not lost:
        return ""
    first = "; ".join(f"{name}: {reason}" for name, reason in lost[:shown])
    return f"{len(lost):,} left out ({first}{'; ...' if len(lost) > shown else ''})"


def encode_pictures(
    pictures: SortedPictures, dcae: Callable[[], DCAE], identity: str, folder: Path, progress: Progress
) -> dict[tuple[int, int], np.ndarray]:
    """Latents of every bin, scaling factor included, from ``folder`` where they were encoded before.

    A bin is encoded anew when one of its files or the autoencoder is another; an interrupted one is gone on with.

    Args:
        dcae: the autoencoder, asked for when it is first needed. identity: names its weights and settings.
    Returns:
        (N, C, h, w) float16 memory maps by bin.
    """
    made, before = {}, 0
    for size, bin_ in pictures.bins.items():
        files = [f"{one.name} {one.picture.identity}" for one, _ in bin_]
        fingerprint = hashlib.sha256(json.dumps([identity, size, files]).encode()).hexdigest()

        def encode(part: torch.Tensor) -> np.ndarray:
            network = dcae()
            weight = next(network.parameters())
            with torch.no_grad():
                latents = network.encode(part.to(weight)).float() * network.scaling_factor
            if not bool(latents.isfinite().all()) or float(latents.abs().max()) > 6e4:
                raise ValueError("the autoencoder gives latents that are not finite or beyond float16's range")
            return latents.cpu().numpy()

        made[size] = load_latents(
            _Pixels([one for one, _ in bin_], size), encode, fingerprint, folder / f"{size[0]}x{size[1]}",
            lambda done, _, before=before: progress(before + done, len(pictures)),
            batch=max(1, AT_ONCE // (size[0] * size[1])),
        )  # fmt: skip
        before += len(bin_)
    return made


def make_buckets(
    pictures: SortedPictures, latents: dict[tuple[int, int], np.ndarray], rows: dict[str, int]
) -> tuple[tuple[Bucket, ...], tuple[Bucket, ...]]:
    """Buckets to train on, and of what is held out; ``rows``: caption -> its row of the features."""
    parts: tuple[list[Bucket], list[Bucket]] = ([], [])
    for size, bin_ in pictures.bins.items():
        most = max(len(told.texts) for _, told in bin_)
        captions = np.full((len(bin_), most), -1, np.int64)
        weights = np.zeros((len(bin_), most), np.float32)
        for number, (_, told) in enumerate(bin_):
            captions[number, : len(told.texts)] = [rows[text] for text in told.texts]
            weights[number, : len(told.texts)] = told.weights or 1 / len(told.texts)
        weights = weights if any(told.weights for _, told in bin_) else None
        cut = pictures.held_out[size]
        for part, here in zip(parts, (slice(cut, None), slice(cut)), strict=True):
            if len(captions[here]):
                part.append(Bucket(latents[size][here], captions[here], None if weights is None else weights[here]))
    return tuple(parts[0]), tuple(parts[1])


class _Pixels:
    """Pictures of a bin as a sequence that decodes what is asked for: a slice gives (B, 3, H, W) in [-1, 1]."""

    def __init__(self, pictures: list[CaptionedPicture], size: tuple[int, int]):
        self.pictures, self.size = pictures, size

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        opened = (open_picture(one.picture.read()) for one in self.pictures[rows])
        return torch.cat([to_pixels(picture, *self.size) for picture in opened])


def _sizes(listed: list[CaptionedPicture], notes: Path, progress: Progress) -> dict[str, tuple[int, int] | str]:
    """Height and width of every picture by name, or what is wrong with it."""
    known = json.loads(notes.read_text()) if notes.is_file() else {}
    found: dict[str, list] = {}
    finished = False
    try:
        for number, one in enumerate(listed, 1):
            identity, told = known.get(one.name, (None, None))
            if identity != one.picture.identity:
                try:
                    picture = open_picture(one.picture.read())
                    told = [picture.height, picture.width]
                except ValueError as error:
                    told = str(error)
            found[one.name] = [one.picture.identity, told]
            progress(number, len(listed))
        finished = True
    finally:
        notes.parent.mkdir(parents=True, exist_ok=True)
        partial = notes.with_name(notes.name + ".partial")
        partial.write_text(json.dumps(found if finished else known | found))
        os.replace(partial, notes)
    return {name: told if isinstance(told, str) else tuple(told) for name, (_, told) in found.items()}


def _choose(one: CaptionedPicture, data: ImageData) -> Told | None:
    """Captions by their scores, as SANA chooses (spec section 12); None: none is good enough."""
    texts, scores = one.captions
    if scores is None:
        return Told(texts, None)
    kept = [(t, s) for t, s in zip(texts, scores, strict=True) if data.least_score is None or s >= data.least_score]
    if not kept:
        return None
    odds = np.exp((np.array([score for _, score in kept]) - max(score for _, score in kept)) / data.score_temperature)
    return Told(tuple(text for text, _ in kept), tuple((odds / odds.sum()).tolist()))


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
