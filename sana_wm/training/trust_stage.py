"""Trust signals of a finished world: nothing is trained, clips of the dataset are imagined and compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sana_wm.data.splits import split_episodes
from sana_wm.evaluation.windows import cut_windows
from sana_wm.world.trust_calibration import calibrate

if TYPE_CHECKING:
    from sana_wm.data import LeRobotDataset
    from sana_wm.world import WorldModel
    from sana_wm.world.trust import Trust

LANES = 64


@dataclass(frozen=True)
class TrustSettings:
    """How many clips of the training and of the validation split, and how many steps each is imagined for."""

    train_clips: int = 160
    held_out_clips: int = 600
    horizon: int = 25

    def __post_init__(self):
        if min(self.train_clips, self.held_out_clips, self.horizon) < 1:
            raise ValueError(f"recipe.trust: clips and horizon must be at least 1, got {self}")

    @property
    def batches(self) -> int:
        return -(-self.train_clips // LANES) - (-self.held_out_clips // LANES)


def calibrated(
    world: "WorldModel",
    dataset: "LeRobotDataset",
    settings: TrustSettings | None = None,
    *,
    camera: str,
    action: str = "action",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> "Trust":
    """The trust of ``world`` in its ``dataset``: places and actions of the training split, thresholds of validation.

    Where episodes are shorter than the horizon, clips are as long as the longest.

    Args:
        camera, action: columns of the dataset. progress: as in :func:`sana_wm.world.trust_calibration.calibrate`.

    Raises:
        ValueError: a dataset without these columns, or with held-out episodes of no more frames than the context.
    """
    settings = settings or TrustSettings()
    split, context = split_episodes(dataset.num_episodes), world.config.context
    clips = {}
    for part, count in (("train", settings.train_clips), ("validation", settings.held_out_clips)):
        longest = int(dataset.episode_lengths[split[part].start : split[part].stop].max())
        horizon = min(settings.horizon, longest - context)
        if horizon < 1:
            raise ValueError(
                f"the longest {part} episode has {longest} frames, trust needs more than the {context} of the context"
            )
        clips[part] = cut_windows(
            dataset, split[part], count=count, context=context, horizon=horizon, camera=camera, action=action,
            resolution=tuple(world.config.resolution), seed=seed,
        )  # fmt: skip
    return calibrate(world, clips["train"], clips["validation"], lanes=LANES, seed=seed, progress=progress)
