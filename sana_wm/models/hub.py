"""Repositories of the hub, without what is never read: pickles, and variants that lie beside plain weights."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from sana_wm.models.pickles import PICKLES
from sana_wm.models.weight_files import variants_beside_plain


def check_repo(name: str, repo: str, known: object) -> None:
    """Raise ValueError unless ``repo`` can be that of a hub; ``name`` is what was asked for, ``known`` are names."""
    if repo.count("/") != 1 or repo.startswith((".", "/")):
        raise ValueError(f"{name!r} is neither a folder nor a hub repository; known names: {', '.join(known)}")


def fetch(name: str, repo: str, only: Sequence[str] | None = None, without: Sequence[str] = ()) -> Path:
    """The folder of a repository in the hub's cache, after fetching what is not there yet.

    Args:
        name: what was asked for, for the error. only: patterns of paths in the repository; None: all of it.
        without: patterns that are left out.

    Raises:
        ValueError: it could not be fetched, with what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    chosen = {} if only is None else {"allow_patterns": list(only)}
    try:
        return Path(snapshot_download(repo, **chosen, ignore_patterns=[*_ignored(repo), *without]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name!r} is not a folder here and {repo} could not be fetched from the hub ({reason}). Where there is a "
            f"network, `hf download {repo} --local-dir <folder>` fetches it; then give model=<folder>"
        ) from error


def _ignored(repo: str) -> list[str]:
    """Patterns of the files of a repository that are never read."""
    from huggingface_hub import HfApi

    try:
        listed = [file.rfilename for file in HfApi().model_info(repo, timeout=10).siblings or ()]
    except Exception:  # without a network; what the hub's cache holds is still found
        listed = []
    return [*(f"*{suffix}" for suffix in PICKLES), *map(glob.escape, variants_beside_plain(listed))]
