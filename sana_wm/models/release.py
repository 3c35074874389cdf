"""Where the components of a SANA-WM release lie: on disk, or in the hub's cache (spec section 1)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from sana_wm.models.hub import check_repo, fetch
from sana_wm.models.published import CHUNK_CAUSAL, FOLDERS, GEMMA, PLACES, STREAMING, fetch_components

# Hub repositories of the published releases.
RELEASES = {
    "sana-wm": "Efficient-Large-Model/SANA-WM_bidirectional-diffusers",
    "sana-wm-bidirectional": "Efficient-Large-Model/SANA-WM_bidirectional-diffusers",
    "sana-wm-chunk-causal": CHUNK_CAUSAL,
    "sana-wm-streaming": STREAMING,
}
SETTINGS = "sana_wm.json"  # our own settings beside the components
NEEDS = {
    "transformer": "the SANA-WM transformer (config.json + .safetensors of diffusers or of save_pretrained, or one "
    ".safetensors file with NVlabs' names)",
    "vae": "the LTX-2 video autoencoder (config.json + .safetensors of diffusers' AutoencoderKLLTX2Video)",
    "text_encoder": f"Gemma-2-2b-it (config.json + .safetensors of transformers: {GEMMA})",
    "tokenizer": "its tokenizer (tokenizer.json of the same)",
    "refiner": "the LTX-2 refiner (transformer/, connectors/, text_encoder/, tokenizer/, scheduler/ of diffusers' "
    "SanaWMLTX2Refiner)",
}
OPTIONAL = ("text_encoder", "tokenizer", "refiner")


@dataclass(frozen=True)
class Release:
    """A release's components; what is None was not there.

    Attributes:
        root: the folder. settings: what its ``sana_wm.json`` says, {} without one.
    """

    root: Path
    transformer: Path
    vae: Path
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    refiner: Path | None = None
    settings: dict | None = None

    def need(self, *names: str) -> None:
        """Raise ValueError unless these components are there, saying where they belong."""
        if lost := [name for name in names if getattr(self, name) is None]:
            raise ValueError(_lacking(self.root, lost))


def is_release(folder: str | os.PathLike) -> bool:
    """Whether a folder looks like a SANA-WM release: it has an index of diffusers, or the folder of a transformer."""
    folder = Path(folder)
    return any((folder / name).exists() for name in ("model_index.json", SETTINGS, *FOLDERS["transformer"]))


def locate_release(
    name_dir_or_repo: str | os.PathLike, *, refine: bool = False, **components: str | os.PathLike | None
) -> Release:
    """Find a release's components: in a folder, or fetched from the hub where they are not in its cache yet.

    Args:
        name_dir_or_repo: one of :data:`RELEASES`, a folder, or a hub repository.
        refine: whether the refiner is to be fetched as well, which is larger than everything else.
        components: paths that replace a component of the release, such as ``vae=...``; these are not fetched.

    Raises:
        ValueError: no such release, or components that are missing, each with the place where it belongs.
    """
    if unknown := sorted(set(components) - set(NEEDS)):
        raise ValueError(f"unknown components {unknown}; a release has {sorted(NEEDS)}")
    given = {name: Path(path) for name, path in components.items() if path is not None}
    if absent := [f"{name}={path}" for name, path in given.items() if not path.exists()]:
        raise ValueError(f"{', '.join(absent)}: no such file or folder")
    root, found = Path(name_dir_or_repo), {}
    if not root.is_dir() and not {"transformer", "vae"} <= set(given):
        wanted = [name for name in NEEDS if name not in given and (refine or name != "refiner")]
        root, found = _fetched(str(name_dir_or_repo), wanted)
    found = {name: _component(root, name) for name in NEEDS} | found | given
    if lost := [name for name in NEEDS if found[name] is None and name not in OPTIONAL]:
        raise ValueError(_lacking(root, lost))
    file = root / SETTINGS
    try:
        settings = json.loads(file.read_text()) if file.is_file() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    return Release(root, **found, settings=settings)


def _fetched(name: str, wanted: list[str]) -> tuple[Path, dict[str, Path]]:
    """A folder of the hub's cache, and the wanted components that do not lie in it under their own names."""
    repo = RELEASES.get(name, name)
    check_repo(name, repo, RELEASES)
    try:
        if repo in PLACES:
            found = fetch_components(name, repo, wanted)
            return Path(name), found
        return fetch(name, repo, without=() if "refiner" in wanted else ("refiner/*",)), {}
    except ValueError as error:
        places = "\n".join(f"  <folder>/{component}: {what}" for component, what in NEEDS.items())
        raise ValueError(
            f"{error}. A release holds:\n{places}\nThe text encoder is not needed where prompts are encoded already, "
            f"the refiner only with refine=true; known names: {', '.join(RELEASES)}"
        ) from error


def _component(root: Path, name: str) -> Path | None:
    for folder in FOLDERS.get(name, (name,)):
        if (root / folder).is_dir():
            return root / folder
    if name == "transformer":
        files = sorted(root.glob("*.safetensors")) if root.is_dir() else []
        return files[0] if len(files) == 1 else None
    return None


def _lacking(root: Path, names: list[str]) -> str:
    places = "\n".join(f"  {root / name}: {NEEDS[name]}" for name in names)
    options = ", ".join(f"{name}=<path>" for name in names)
    return f"{root} lacks parts of a SANA-WM release; put them there, or say where they are ({options}):\n{places}"
