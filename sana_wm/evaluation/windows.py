"""Held-out windows of a dataset, and what a world imagines from their first frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sana_wm.data.arrays import resize_frames
from sana_wm.evaluation.progress import track

if TYPE_CHECKING:
    from sana_wm.data import LeRobotDataset
    from sana_wm.world import WorldModel

SIM_STATE = "observation.sim_state"


@dataclass(frozen=True)
class Windows:
    """N windows of C context frames and H frames to predict; actions[:, k] leads from frame k to frame k + 1."""

    frames: np.ndarray  # uint8 (N, C + H, height, width, 3)
    actions: np.ndarray  # float32 (N, C + H - 1, A) in the dataset's units
    sim_states: np.ndarray | None  # float64 (N, C + H, D), where the dataset records its simulator
    context: int
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)  # (N, C + H - 1) what followed every action

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def horizon(self) -> int:
        return self.frames.shape[1] - self.context

    @property
    def last_seen(self) -> np.ndarray:
        """The last context frame (N, height, width, 3)."""
        return self.frames[:, self.context - 1]

    @property
    def future(self) -> np.ndarray:
        """What truly followed (N, H, height, width, 3)."""
        return self.frames[:, self.context :]

    @property
    def future_actions(self) -> np.ndarray:
        return self.actions[:, self.context - 1 :]

    @property
    def future_states(self) -> np.ndarray:
        return self.sim_states[:, self.context :]

    @cached_property
    def shuffled(self) -> "Windows":
        """The same windows with the future actions of one another: each gets those of another one."""
        order = np.random.default_rng(0).permutation(len(self))
        donor = np.empty(len(self), np.int64)
        donor[order] = np.roll(order, 1)  # a single cycle: nobody keeps their own
        actions = self.actions.copy()
        actions[:, self.context - 1 :] = self.future_actions[donor]
        return replace(self, actions=actions)


def cut_windows(
    dataset: "LeRobotDataset",
    episodes: Sequence[int],
    *,
    count: int,
    context: int,
    horizon: int,
    camera: str,
    action: str = "action",
    labels: Mapping[str, str] | None = None,
    resolution: tuple[int, int] | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Windows:
    """Cut `count` windows, as evenly as possible from all the given episodes, at random places.

    Args:
        camera, action: columns of the dataset.
        labels: what else to cut, name -> column with one number per row, about the step that follows the row.
        resolution: (height, width) to bring frames to, as training does; as recorded by default.

    Raises:
        ValueError: if no episode is long enough, or the dataset lacks one of the columns.
    """
    labels = dict(labels or {})
    for key in (camera, action, *labels.values()):
        if key not in dataset.features:
            raise ValueError(f"the dataset has no {key!r}; it has {sorted(dataset.features)}")
    length = context + horizon
    long_enough = [e for e in episodes if dataset.episode_lengths[e] >= length]
    if not long_enough:
        raise ValueError(f"none of the {len(episodes)} held-out episodes has the {length} frames a window needs")
    share = np.diff(np.linspace(0, count, len(long_enough) + 1).round().astype(int))
    rng = np.random.default_rng(seed)
    of_steps = {action, *labels.values()}
    keys = [camera, *of_steps] + ([SIM_STATE] if SIM_STATE in dataset.features else [])
    cut = {key: [] for key in keys}
    for episode, windows in track(list(zip(long_enough, share, strict=True)), "held-out windows", show_progress):
        if windows == 0:
            continue
        rows = dict(dataset.episode(int(episode), keys=keys))
        if resolution is not None:
            rows[camera] = resize_frames(rows[camera], *resolution)
        for start in rng.integers(0, dataset.episode_lengths[episode] - length + 1, windows):
            for key in keys:
                stop = start + length - (key in of_steps)
                cut[key].append(rows[key][start:stop])
    states = np.stack(cut[SIM_STATE]) if SIM_STATE in cut else None
    known = {name: np.stack(cut[key]).reshape(count, length - 1).astype(np.float64) for name, key in labels.items()}
    return Windows(np.stack(cut[camera]), np.stack(cut[action]).astype(np.float32), states, context, known)


OUTCOMES = ("reward", "terminated", "success")


@dataclass(frozen=True)
class Imagined:
    frames: np.ndarray  # uint8 (N, H, height, width, 3)
    latents: np.ndarray  # float32 (N, H, C, h, w)
    proprio: np.ndarray | None  # float32 (N, H, P) read from the latents, if the world can
    outcomes: Mapping[str, np.ndarray] = field(default_factory=dict)  # (N, H) of every head among OUTCOMES

    @classmethod
    def collect(cls, parts: list[tuple]) -> "Imagined":
        """Join batches of (frames, what was predicted)."""
        frames, predictions = zip(*parts, strict=True)

        def join(name: str) -> np.ndarray | None:
            values = [getattr(prediction, name, None) for prediction in predictions]
            return None if values[0] is None else np.concatenate([to_numpy(value) for value in values])

        outcomes = {name: values for name in OUTCOMES if (values := join(name)) is not None}
        return cls(np.concatenate(frames), join("latents"), join("proprio"), outcomes)


def imagine(
    world: "WorldModel",
    windows: Windows,
    *,
    lanes: int = 64,
    what: str = "imagining",
    show_progress: bool = False,
) -> Imagined:
    """Roll every window out open loop: the world sees the context frames and then only actions.

    Windows are independent of each other and of `lanes`, how many run in one batch.
    """
    parts = []
    for first in track(range(0, len(windows), lanes), what, show_progress):
        lane = slice(first, first + lanes)
        seen = windows.frames[lane, : windows.context]
        state = world.begin(
            seen, windows.actions[lane, : windows.context - 1], seeds=np.arange(first, first + len(seen))
        )
        prediction = world.rollout(state, windows.future_actions[lane])
        parts.append((decode(world, prediction.latents), prediction))
    return Imagined.collect(parts)


def reconstruct(world: "WorldModel", frames: np.ndarray, *, lanes: int = 8, show_progress: bool = False) -> Imagined:
    """Encode and decode true frames (N, T, height, width, 3): the best a world with this tokenizer could show."""
    parts = []
    for first in track(range(0, len(frames), lanes), "reconstructing", show_progress):
        prediction = world.read(world.encode(frames[first : first + lanes]))
        parts.append((decode(world, prediction.latents), prediction))
    return Imagined.collect(parts)


def decode(world: "WorldModel", latents) -> np.ndarray:
    """Latents (N, ..., C, h, w) as frames; a few lanes at a time, for frames outweigh latents by far."""
    return np.concatenate([world.decode(some) for some in latents.split(8)])


def to_numpy(value) -> np.ndarray:
    """A tensor or an array as an array on the CPU."""
    return value if isinstance(value, np.ndarray) else value.detach().float().cpu().numpy()
