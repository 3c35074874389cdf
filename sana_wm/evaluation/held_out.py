"""Where held-out episodes come from: a split of a dataset that the world was not fitted to, or fresh ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sana_wm.data import LeRobotDataset
from sana_wm.data.splits import split_episodes

FRESH_SEED = 2_000_000  # added to the seed; collections for training use small seeds, `sana_wm.plan` from a million
FRESH_EPISODES = 40


def held_out(
    made_of: dict[str, Any],
    dataset: str | Path | None,
    split: str,
    out: str | Path,
    *,
    episodes: int = FRESH_EPISODES,
    seed: int = 0,
    workers: int | str = 0,
) -> tuple[LeRobotDataset, Sequence[int], str]:
    """A dataset, which of its episodes to measure on, and words that say so.

    Without a dataset: the split of the one that the world was fitted to, where it is on disk; else fresh episodes of
    the same simulator under the same policies, recorded into `out`/held_out with a seed that no training uses.

    Args:
        made_of: what the world's config says of its data (`config.extra["data"]`).
        split: "test" or "validation".
        episodes, seed, workers: of fresh episodes.

    Raises:
        ValueError: episodes that the world was trained on, or no dataset and no simulator to record one.
    """
    if dataset is not None:
        found = LeRobotDataset(dataset)
        chosen = split_episodes(found.num_episodes)[split]
        if seen := trained_on(made_of, found, chosen):
            raise ValueError(
                f"{len(seen)} of the {len(chosen)} {split} episodes of {dataset} are among those that the world was "
                f"trained on (a shorter collection with the same seed); pass dataset=null for fresh ones"
            )
        return found, chosen, f"{split} split of {dataset}, {len(chosen)} episodes"
    root = made_of.get("root")
    if root and (Path(root) / "meta" / "info.json").is_file():
        found = LeRobotDataset(root)
        chosen = split_episodes(found.num_episodes)[split]
        if not trained_on(made_of, found, chosen):
            return found, chosen, f"{split} split of {root}, {len(chosen)} episodes"
    if not made_of.get("collect"):
        raise ValueError(
            f"this world was fitted to {made_of.get('name', 'a dataset')} ({root or 'place unknown'}), which is not "
            "here, nor is there a simulator to record fresh episodes from: pass dataset=<folder or hub id of a LeRobot "
            "dataset>"
        )
    from sana_wm.collect import collect  # records in the simulator

    how = {"simulator": "pusht"} | made_of["collect"]
    folder = collect(
        Path(out) / "held_out", episodes=episodes, steps=how["steps"], seed=FRESH_SEED + seed, mix=how["mix"],
        near_goal=how["near_goal"], simulator=how["simulator"], workers=workers,
    )  # fmt: skip
    found = LeRobotDataset(folder)
    return found, range(episodes), f"{episodes} fresh episodes of {how['simulator']}, seed {FRESH_SEED + seed}"


def trained_on(made_of: dict[str, Any], dataset: LeRobotDataset, episodes: Sequence[int]) -> list[int]:
    """Which of the episodes the world was trained on: those of the same collection, in its training split.

    Only collections of `sana_wm.collect` can be told: there episode i depends on the settings and i alone.
    """
    note, made = dataset.root / "meta" / "collect.json", made_of.get("collect")
    if not made or not note.is_file():
        return []
    mine, its = ({"simulator": "pusht"} | settings for settings in (made, json.loads(note.read_text())))
    if any(mine.get(key) != its.get(key) for key in ("simulator", "seed", "steps", "mix", "near_goal")):
        return []
    return [index for index in episodes if index in split_episodes(made["episodes"])["train"]]
