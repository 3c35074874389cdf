"""Where the published SANA-WM releases keep their components, as NVlabs' own inference scripts fetch them.

Only the bidirectional one is also there as one folder of diffusers. The others share Gemma-2 and parts with it, and the
streaming one has its transformer as a pickle.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sana_wm.models.hub import fetch
from sana_wm.models.pickles import CONVERSION, PICKLES

GEMMA = "Efficient-Large-Model/gemma-2-2b-it"
BIDIRECTIONAL = "Efficient-Large-Model/SANA-WM_bidirectional"
CHUNK_CAUSAL = "Efficient-Large-Model/SANA-WM_chunk_causal"
STREAMING = "Efficient-Large-Model/SANA-WM_streaming"


class Place(NamedTuple):
    """A folder of a repository ("": all of it), or a file that is a pickle; and folders that belong to it."""

    repo: str
    path: str = ""
    beside: tuple[str, ...] = ()

    @property
    def patterns(self) -> list[str] | None:
        return [f"{path}/*" for path in (self.path, *self.beside)] if self.path else None


_SHARED = {"text_encoder": Place(GEMMA), "tokenizer": Place(GEMMA)}
PLACES: dict[str, dict[str, Place]] = {
    BIDIRECTIONAL: _SHARED | {name: Place(BIDIRECTIONAL, path) for name, path in
                              (("transformer", "dit"), ("vae", "vae"), ("refiner", "refiner"))},
    CHUNK_CAUSAL: _SHARED | {"transformer": Place(CHUNK_CAUSAL, "dit"), "vae": Place(BIDIRECTIONAL, "vae"),
                             "refiner": Place(BIDIRECTIONAL, "refiner")},
    STREAMING: _SHARED | {"transformer": Place(STREAMING, "sana_dit/model.pt"),
                          "vae": Place(STREAMING, "ltx2_causal_vae"),
                          "refiner": Place(STREAMING, "refiner_diffusers", beside=("gemma3_12b",))},
}  # fmt: skip
# What a component's folder is called: first as diffusers has it, then as these repositories do.
FOLDERS = {
    "transformer": ("transformer", "dit", "sana_dit"),
    "vae": ("vae", "ltx2_causal_vae"),
    "refiner": ("refiner", "refiner_diffusers"),
}


def fetch_components(name: str, repo: str, wanted: Iterable[str]) -> dict[str, Path]:
    """Folders of the wanted components of a repository of :data:`PLACES`, fetched where they are not there yet.

    Raises:
        ValueError: no network, or a component that is published as a pickle, with how to convert it.
    """
    places = {component: PLACES[repo][component] for component in wanted}
    for component, place in places.items():
        if place.path.endswith(PICKLES):
            raise ValueError(_pickled(name, component, place))
    return {component: fetch(name, place.repo, place.patterns) / place.path for component, place in places.items()}


def _pickled(name: str, component: str, place: Place) -> str:
    file = Path("<folder>") / place.path
    target = file.with_suffix(".safetensors")
    return (
        f"{name}: the {component} of {place.repo} is {place.path}, and {CONVERSION.format(path=file, target=target)}. "
        f"(`hf download {place.repo} {place.path} --local-dir <folder>` fetches it.) Then add {component}={target} "
        "preset=sana-wm-streaming"
    )
