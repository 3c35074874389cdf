"""Which files of a folder hold its weights, where variants (``.fp16``, ``.int4``, ...) lie beside the plain ones."""

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_SHARD = re.compile(r"-\d+-of-\d+(?=\.|$)")
_INDEX = re.compile(r"(?P<name>.+)\.safetensors\.index(?:\.(?P<variant>[^.]+))?\.json")


def weight_files(folder: Path) -> list[Path]:
    """The .safetensors of the one set of weights in a folder, shards by their index; [] if there is none.

    A set ``X.<variant>`` gives way to the set ``X``; a variant that is alone is taken.

    Raises:
        ValueError: several sets, several files without an index, shards that are missing.
    """
    names = [file.name for file in folder.iterdir() if file.is_file()]
    dropped = set(variants_beside_plain(names))
    names = sorted(name for name in names if _set_of(name) is not None and name not in dropped)
    indices = [name for name in names if name.endswith(".json")]
    if len(indices) > 1:
        raise ValueError(f"{folder} has several indices ({', '.join(indices)}): leave one")
    if indices:
        shards = sorted(set(json.loads((folder / indices[0]).read_text())["weight_map"].values()))
        if lost := [name for name in shards if not (folder / name).exists()]:
            raise ValueError(f"{folder}: {indices[0]} names {', '.join(lost)}, which is not there")
        return [folder / name for name in shards]
    if len(names) > 1:
        raise ValueError(f"{folder} has {len(names)} .safetensors files and no index: name one of {', '.join(names)}")
    return [folder / name for name in names]


def variants_beside_plain(names: Iterable[str]) -> list[str]:
    """Of files (names, or paths in a repository), those of variants whose plain weights are in the same folder."""
    sets = {name: _set_of(name) for name in names}
    known = set(sets.values()) - {None}
    return [name for name, of in sets.items() if of is not None and _is_beside(*of, known)]


def _is_beside(folder: str, stem: str, known: set[tuple[str, str]]) -> bool:
    plain, dot, _ = stem.rpartition(".")
    return bool(dot) and (folder, plain) in known


def _set_of(name: str) -> tuple[str, str] | None:
    """Folder and stem with its variant of the set that a file or an index is of; None: it is of no weights."""
    path = PurePosixPath(name)
    if found := _INDEX.fullmatch(path.name):
        stem = found["name"] + (f".{found['variant']}" if found["variant"] else "")
    elif path.name.endswith(".safetensors"):
        stem = path.name.removesuffix(".safetensors")
    else:
        return None
    return str(path.parent), _SHARD.sub("", stem)
