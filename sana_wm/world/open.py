"""Open whatever kind of world a name stands for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sana_wm.models.release import RELEASES, is_release
from sana_wm.world.bundle import locate
from sana_wm.world.video_world import VideoWorld
from sana_wm.world.world_model import WorldModel


def open_world(name_dir_or_repo: str | os.PathLike, device: Any = None, **settings: Any) -> WorldModel | VideoWorld:
    """A world from its name, folder or hub repository: a bundle, or a SANA-WM release.

    Args:
        settings: of :meth:`VideoWorld.from_pretrained`; a bundle takes none.

    Raises:
        ValueError: there is no such world, or it takes no such settings.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    path = Path(name_dir_or_repo)
    if str(name_dir_or_repo) in RELEASES or (is_release(path) and not (path / "config.json").is_file()):
        return VideoWorld.from_pretrained(name_dir_or_repo, device, **settings)
    folder = locate(name_dir_or_repo)
    if is_release(folder) and not (folder / "config.json").is_file():
        return VideoWorld.from_pretrained(folder, device, **settings)
    if settings:
        raise ValueError(f"{sorted(settings)}: only for SANA-WM releases, and {name_dir_or_repo} is a fitted world")
    return WorldModel.from_pretrained(folder, device)
