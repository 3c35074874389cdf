"""A world as a LeRobot EnvHub folder: upload it, and `lerobot-eval` evaluates any LeRobot policy inside the world."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sana_wm

if TYPE_CHECKING:
    from sana_wm.world import VideoWorld, WorldModel

ENV_PY = '''"""{title}

An environment of LeRobot's EnvHub, written by sana_wm.export_env: every observation is imagined by a world model.
"""

from pathlib import Path

from sana_wm.envs.hub_env import make_hub_env

HERE = Path(__file__).absolute().parent  # not resolved: the hub's cache keeps files elsewhere and links to them here
SETTINGS = {settings}


def world_folder() -> Path:
    """The world beside this file. LeRobot fetches this file alone; the world then comes from the same repository."""
    if not (HERE / "world").is_dir():
        from huggingface_hub import snapshot_download

        cache, repo = HERE.parents[2], HERE.parents[1].name.removeprefix("models--").replace("--", "/")
        snapshot_download(repo, revision=HERE.name, cache_dir=cache, allow_patterns=["world/*", "start.png"])
    return HERE / "world"


def make_env(n_envs: int = 1, use_async_envs: bool = False, cfg=None):
    """`{{suite: {{0: vector environment}}}}`. All lanes step in one forward pass, so there are no worker processes."""
    world, start = world_folder(), HERE / "start.png"
    image = {{"image": start}} if start.is_file() else {{}}
    return make_hub_env(world, n_envs, device="auto", **image, **SETTINGS)
'''

README = """---
library_name: lerobot
tags: [LeRobot, envhub, world-model, sana-wm]
---

# {title}

An environment for [LeRobot](https://github.com/huggingface/lerobot) in which every frame is imagined by a world model.
`world/card.md` says what it was trained on and how well it predicts.

```bash
pip install -r requirements.txt
```

```python
from lerobot.envs.factory import make_env

envs = make_env("<user>/<this repository>", n_envs=4, trust_remote_code=True)
```

Observations are {observations}; actions are {actions}. Episodes end after {steps} steps at the latest.
"""


def export_env(
    world: WorldModel | VideoWorld | str | os.PathLike,
    folder: str | os.PathLike,
    *,
    task: str | None = None,
    agent_pos: Sequence[str] | None = None,
    max_episode_steps: int | None = None,
    image: Any = None,
    prompt: str | None = None,
) -> Path:
    """Writes `env.py` (with `make_env`), `world/`, `README.md` and `requirements.txt` into a folder.

    Args:
        world: a world, or the name, folder or hub repository of one.
        folder: written to; may hold an earlier export, which is replaced.
        task: what policies are told; None: the world's own.
        agent_pos: names of the proprioceptive columns that policies see as `agent_pos`, the others are
            `environment_state`; None: all.
        max_episode_steps: None: the world's own; must be given where that has none.
        image, prompt: what a world without starts of its own begins in (see `SanaWMEnv`); only for video worlds.

    Raises:
        ValueError: a folder that holds something else, a world whose episodes have no length or nowhere to begin, or
            columns that it does not have.
    """
    from sana_wm.envs.hub_env import make_hub_env
    from sana_wm.envs.lanes import load_world

    folder = Path(folder)
    if folder.exists() and not (folder / "env.py").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty and no exported environment; choose a new folder")
    world = load_world(world)
    begin = {name: value for name, value in (("image", image), ("prompt", prompt)) if value is not None}
    settings = {
        "suite": "sana_wm",
        "task": task or world.config.task,
        "agent_pos": None if agent_pos is None else list(agent_pos),
        "max_episode_steps": max_episode_steps,
    }
    [[env]] = [suite.values() for suite in make_hub_env(world, 1, **settings, **begin).values()]
    env.reset(seed=0)  # what cannot begin here could not begin there; and a prompt becomes one that the world knows
    settings["max_episode_steps"] = env.call("_max_episode_steps")[0]
    settings |= {"prompt": prompt} if prompt is not None else {}
    folder.mkdir(parents=True, exist_ok=True)
    world.save_pretrained(folder / "world")
    start = folder / "start.png"
    start.unlink(missing_ok=True)
    if image is not None:
        env.unwrapped.lanes.defaults["image"][0].save(start)
    title = (settings["task"] or "A SANA-WM world").rstrip(".")
    video = hasattr(world.config, "fov")
    shown = {key: space.shape for key, space in env.single_observation_space.items()}
    observations = " and ".join(f"`{key}` {shape}" for key, shape in shown.items())
    text = README.format(
        title=title,
        observations=observations,
        actions=f"{env.single_action_space.shape}: {', '.join(world.codec.names)}",
        steps=settings["max_episode_steps"],
    )
    (folder / "README.md").write_text(text)
    (folder / "requirements.txt").write_text(f"sana-wm{'[ltx]' if video else ''}>={sana_wm.__version__}\n")
    code = ENV_PY.format(title=json.dumps(title)[1:-1], settings=_literal(settings))
    (folder / "env.py").write_text(code)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return folder


def _literal(settings: dict[str, Any]) -> str:
    """A dictionary of plain values as Python."""
    lines = [f"    {name!r}: {value!r},\n" for name, value in settings.items()]
    return "{\n" + "".join(lines) + "}"
