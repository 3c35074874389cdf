"""Pictures with captions: files of one stem in a folder, or members of one key in tar shards (webdataset).

Shards are read where they lie, by the offsets of their members: nothing is unpacked, so that no name in a tar can lead
anywhere, and pictures are read in any order. That takes the standard library's tarfile and no more; the package
``webdataset`` streams shards in their own order, which sorting into buckets has no use for.
"""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

from sana_wm.data.captions import Captions, read_captions

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_PICTURES = (".avif", ".bmp", ".gif", ".heic", ".jxl", ".tif", ".tiff")
CAPTIONS = (".txt", ".json")  # the first that there is


@dataclass(frozen=True)
class Piece:
    """Bytes of a file. stamp: when they were written, in ns (of a member of a tar: when the tar was)."""

    path: Path
    offset: int
    size: int
    stamp: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    @property
    def identity(self) -> str:
        return f"{self.offset} {self.size} {self.stamp}"


@dataclass(frozen=True)
class CaptionedPicture:
    """name: the path below the folder without suffix; of a shard, the shard's and then the key."""

    name: str
    picture: Piece
    captions: Captions


def list_pictures(root: str | Path) -> tuple[list[CaptionedPicture], list[tuple[str, str]]]:
    """Every picture with captions below a folder or in a .tar, by name; and what cannot be used, each with the reason.

    Raises:
        ValueError: no such folder or .tar, one without a picture, a tar that is damaged or compressed.
    """
    root = Path(root).expanduser()
    if root.is_dir():
        files = sorted(Path(place) / name for place, _, names in os.walk(root) for name in names)
        files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    elif root.is_file() and root.suffix == ".tar":
        files, root = [root], root.parent
    else:
        raise ValueError(f"data={root}: expected a folder of pictures and captions or of .tar shards, or one .tar")
    pieces: dict[str, dict[str, Piece]] = {}
    lost: list[tuple[str, str]] = []
    for file in files:
        if file.suffix == ".tar":
            found = _members(file, "" if len(files) == 1 else file.relative_to(root).with_suffix("").as_posix() + "/")
        else:
            told, name = file.stat(), file.relative_to(root)
            found = [(name.with_suffix("").as_posix(), name.suffix, Piece(file, 0, told.st_size, told.st_mtime_ns))]
        for name, suffix, piece in found:
            suffix = suffix.lower()
            if suffix in OTHER_PICTURES:
                lost.append((name + suffix, f"not one of {', '.join(PICTURES)}"))
            elif suffix in PICTURES + CAPTIONS:
                here = pieces.setdefault(name, {})
                if suffix in PICTURES and (twin := next((s for s in PICTURES if s in here), None)):
                    lost.append((name + suffix, f"there is a {twin} of the same name"))
                else:
                    here[suffix] = piece
    listed = []
    for name in sorted(pieces):
        reason = _reason(listed, name, pieces[name])
        if reason:
            lost.append((name, reason))
    if not listed and not lost:
        raise ValueError(f"data={root}: holds no picture ({', '.join(PICTURES)})")
    return listed, lost


def _reason(listed: list[CaptionedPicture], name: str, pieces: dict[str, Piece]) -> str | None:
    """Append the picture to ``listed``, or tell why not."""
    picture = next((pieces[suffix] for suffix in PICTURES if suffix in pieces), None)
    suffix = next((suffix for suffix in CAPTIONS if suffix in pieces), None)
    if picture is None:
        return "captions without a picture"
    if suffix is None:
        return f"no captions ({' or '.join(CAPTIONS)})"
    try:
        listed.append(CaptionedPicture(name, picture, read_captions(pieces[suffix].read(), suffix)))
    except ValueError as error:
        return str(error)
    return None


def _members(file: Path, prefix: str) -> list[tuple[str, str, Piece]]:
    """(name, suffix, bytes) of the files in a tar; a name ends at the first dot, as webdataset has it."""
    stamp, found = file.stat().st_mtime_ns, []
    try:
        with tarfile.open(file, "r:") as shard:
            for member in shard:
                path = PurePosixPath(member.name)
                if member.isreg() and not path.name.startswith("."):
                    stem, _, suffix = path.name.partition(".")
                    piece = Piece(file, member.offset_data, member.size, stamp)
                    key = (path.parent / stem).as_posix()
                    found.append((prefix + key, "." + suffix, piece))
    except tarfile.TarError as error:
        raise ValueError(
            f"{file}: expected a whole, uncompressed tar ({error}); write it again, or remove it"
        ) from None
    return found


def open_picture(data: bytes) -> Image.Image:
    """RGB, upright as its EXIF says, what is transparent on white; decoded whole.

    Raises:
        ValueError: damaged, or with other than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"mode {opened.mode}, expected 8 bits a channel")
            picture = ImageOps.exif_transpose(opened)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("RGB")
    except Exception as error:  # decoders of broken files raise anything
        raise ValueError(
            f"cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from None
