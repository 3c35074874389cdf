"""Do the trust signals of a world predict its true error? Rank correlations, with what says as much for nothing.

Error grows with every step of an imagination, and so does anything that counts steps. Two things keep the numbers
honest: the baselines stand in the same table, and `spearman_within_step` compares windows at the same step only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sana_wm.evaluation.progress import track
from sana_wm.evaluation.tasks import SimulatedTask
from sana_wm.evaluation.windows import SIM_STATE, Windows, cut_windows

if TYPE_CHECKING:
    from rich.table import Table

    from sana_wm.data import LeRobotDataset
    from sana_wm.world import WorldModel

DRAWS = 300  # of the bootstrap over windows
HELD = 5  # steps for which an extreme action is held
BASELINES = ("elapsed_steps", "moved")


@dataclass(frozen=True)
class Told:
    """N imagined windows of H steps.

    Attributes:
        signals: name -> (N, H): the world's, then the `BASELINES`. latents: float32 (N, H, F), pictures.
        proprio: float32 (N, H, P), dataset units, or None.
    """

    signals: dict[str, np.ndarray]
    latents: np.ndarray
    proprio: np.ndarray | None


def trust_correlation(
    world: "WorldModel",
    dataset: "LeRobotDataset",
    episodes: Sequence[int],
    *,
    windows: int = 100,
    horizon: int = 25,
    task: SimulatedTask | None = None,
    seed: int = 0,
    show_progress: bool = False,
    camera: str | None = None,
    action: str | None = None,
    lanes: int = 64,
) -> dict:
    """How well each trust signal ranks imagined steps by their true error, open loop on held-out windows.

    Args:
        episodes: held-out ones, not those of the calibration (the test split).
        task: the simulator that the dataset recorded, to replay actions in it: then the error is that of the places of
            all that moves, and each window is also imagined with actions that nobody recorded (half of the windows
            uniform in the action space, half at its corners, held for 5 steps).
        camera, action: columns; those of the world's recipe by default, else the first camera and "action".

    Returns:
        `sets`: for each of `recorded`, `off_distribution`, `mixed` (both; these two with a simulator only) and `latent`
        (recorded actions, error in the picture's latents; needs no simulator) a dict of

        * `rows`: signal -> `spearman` over all steps, `spearman_within_step` (of windows at the same step, averaged
          over steps), `auroc` (of whether the error is above `error.above`; None where it never or always is), each
          {mean, low, high}, a bootstrap over windows; and `exceeds`, the share of steps where the signal is above 1;
        * `baseline`: the same for `elapsed_steps` and for `moved`, the length of the path that what the world tells
          has come so far;
        * `error`: its `unit`, `mean`, and `above`.

        At the top `rows`, `baseline` and `error` of `mixed`, or without a simulator of `latent`.

    Raises:
        ValueError: a world that was never calibrated, or a dataset that did not record its simulator.
    """
    if not world.signal_names:
        raise ValueError(
            "this world has no trust data: calibrate it (python -m sana_wm.calibrate) before asking what they are worth"
        )
    if task is not None and SIM_STATE not in dataset.features:
        raise ValueError(f"the dataset has no {SIM_STATE!r} to compare with: leave task out")
    if task is not None and not task.reads(world):
        raise ValueError(
            f"the world reads {tuple(world.config.proprio_names)}, which says nothing of {task.proprio_names}: leave "
            "task out"
        )
    columns = world.config.extra.get("data", {}).get("columns", {})
    cut = cut_windows(
        dataset,
        episodes,
        count=windows,
        context=world.config.context,
        horizon=horizon,
        camera=camera or columns.get("camera") or dataset.cameras[0],
        action=action or columns.get("action", "action"),
        resolution=tuple(world.config.resolution),
        seed=seed,
        show_progress=show_progress,
    )
    recorded = imagined_signals(world, cut, cut.future_actions, lanes=lanes, show_progress=show_progress)
    true = np.concatenate([_pictures(world, cut.future[i : i + lanes]) for i in range(0, len(cut), lanes)])
    latent_error = np.sqrt(np.square(recorded.latents - true).mean(-1))
    above = float(np.quantile(latent_error, 0.9))
    sets = {"latent": _measured([recorded.signals], [latent_error], "standard deviations", above)}
    if task is not None:
        simulate, unit, above = task.make_env(world.config.resolution[0]).simulate, _unit(task), task.much
        unusual = unusual_actions(world, cut, seed)
        starts = cut.sim_states[:, cut.context - 1]
        after = np.stack([simulate(s, a.astype(np.float64)) for s, a in zip(starts, unusual, strict=True)])
        off = imagined_signals(
            world, cut, unusual, lanes=lanes, what="imagining the unusual", show_progress=show_progress
        )
        errors = [_errors(task, recorded.proprio, cut.future_states), _errors(task, off.proprio, after)]
        sets["recorded"] = _measured([recorded.signals], errors[:1], unit, above)
        sets["off_distribution"] = _measured([off.signals], errors[1:], unit, above)
        sets["mixed"] = _measured([recorded.signals, off.signals], errors, unit, above)
    top = sets["mixed" if task is not None else "latent"]
    return {"windows": len(cut), "horizon": horizon, "simulator": task is not None, **top, "sets": sets}


def imagined_signals(
    world: "WorldModel",
    windows: Windows,
    actions: np.ndarray,
    *,
    lanes: int = 64,
    what: str = "imagining",
    show_progress: bool = False,
) -> Told:
    """Imagine every window from its context with `actions` (N, H, A), and keep what is told of each step."""
    parts = []
    for first in track(range(0, len(windows), lanes), what, show_progress):
        some = slice(first, first + lanes)
        seen = windows.frames[some, : windows.context]
        before = windows.actions[some, : windows.context - 1]
        state = world.watch(world.begin(seen, before, seeds=np.arange(first, first + len(seen))))
        at, signals, latents, proprio, path = _places(world, state.latent), [], [], [], []
        for k in range(actions.shape[1]):
            previous = state
            state, prediction = world.step(previous, actions[some, k])
            signals.append(world.signals(previous, prediction, actions[some, k], world.frames(state)))
            latents.append(_picture(world, state.latent))
            if prediction.proprio is not None:
                proprio.append(prediction.proprio.cpu().numpy())
            there = _places(world, state.latent)
            path.append(np.linalg.norm(there - at, axis=1))
            at = there
        told = {name: np.stack([step[name] for step in signals], axis=1) for name in signals[0]}
        moved = np.cumsum(np.stack(path, axis=1), axis=1)
        elapsed = np.broadcast_to(np.arange(1.0, moved.shape[1] + 1), moved.shape)
        told |= dict(zip(BASELINES, (elapsed, moved), strict=True))
        parts.append((told, np.stack(latents, 1), np.stack(proprio, 1) if proprio else None))
    told, latents, proprio = zip(*parts, strict=True)
    joined = {name: np.concatenate([part[name] for part in told]) for name in told[0]}
    return Told(joined, np.concatenate(latents), None if proprio[0] is None else np.concatenate(proprio))


def unusual_actions(world: "WorldModel", windows: Windows, seed: int) -> np.ndarray:
    """Actions (N, H, A) that nobody recorded: half uniform in the action space, half at its corners and held."""
    space, rng = world.codec.action_space, np.random.default_rng([seed, 1])
    shape = windows.future_actions.shape
    uniform = rng.uniform(space.low, space.high, shape)
    corners = np.where(rng.random((shape[0], -(-shape[1] // HELD), *shape[2:])) < 0.5, space.low, space.high)
    corners = corners.repeat(HELD, axis=1)[:, : shape[1]]
    half = (np.arange(shape[0]) % 2 == 0).reshape(-1, *[1] * (len(shape) - 1))
    return np.where(half, uniform, corners).astype(np.float32)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the first axis from 0; equal values share the mean of theirs."""
    flat = values.reshape(len(values), -1)
    result = np.empty(flat.shape)
    for column in range(flat.shape[1]):
        ordered = np.sort(flat[:, column])
        low, high = (np.searchsorted(ordered, flat[:, column], side=side) for side in ("left", "right"))
        result[:, column] = (low + high - 1) / 2
    return result.reshape(values.shape)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of (N, ...) and (N, ...) along the first axis; 0 where one of them is constant."""
    a, b = ranks(a), ranks(b)
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    return np.divide((a * b).sum(0), scale, out=np.zeros_like(scale), where=scale > 0)


def auroc(scores: np.ndarray, bad: np.ndarray) -> float:
    """Chance that a bad one of (N,) scores above a good one (ties count half); nan without both kinds."""
    count = int(bad.sum())
    if count in (0, len(bad)):
        return float("nan")
    return float((ranks(scores)[bad].sum() - count * (count - 1) / 2) / (count * (len(bad) - count)))


def _measured(signals: list[dict], errors: list[np.ndarray], unit: str, above: float) -> dict:
    """The rows of one or more sets of the same windows: a window drawn again is drawn in all of them."""
    count = len(errors[0])
    rows = {name: np.stack([part[name] for part in signals], axis=1) for name in signals[0]}  # N, sets, H
    error = np.stack(errors, axis=1)
    picks = np.random.default_rng(0).integers(0, count, (DRAWS, count))
    table = {}
    for name, values in rows.items():
        drawn = [_scores(values[pick], error[pick], above) for pick in picks]
        entry = {
            key: _with_interval(found, [draw[key] for draw in drawn])
            for key, found in _scores(values, error, above).items()
        }
        table[name] = entry if name in BASELINES else entry | {"exceeds": float((values > 1).mean())}
    facts = {"unit": unit, "mean": float(error.mean()), "above": above, "share_above": float((error > above).mean())}
    return {
        "rows": {name: row for name, row in table.items() if name not in BASELINES},
        "baseline": {name: row for name, row in table.items() if name in BASELINES},
        "error": facts,
    }


def _scores(values: np.ndarray, error: np.ndarray, above: float) -> dict[str, float]:
    """Of values and errors (N, sets, H)."""
    flat, flat_error = values.reshape(-1), error.reshape(-1)
    steps = values.shape[-1]
    return {
        "spearman": float(spearman(flat, flat_error)),
        "spearman_within_step": float(spearman(values.reshape(-1, steps), error.reshape(-1, steps)).mean()),
        "auroc": auroc(flat, flat_error > above),
    }


def _with_interval(found: float, drawn: list[float]) -> dict[str, float] | None:
    drawn = np.array(drawn)
    if not np.isfinite(found):
        return None
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return {"mean": found, "low": float(low), "high": float(high)}


def _moving(task: SimulatedTask) -> list[str]:
    """The things whose distances add up to an error."""
    return [name for name, thing in task.things.items() if thing.moves and not thing.angle]


def _unit(task: SimulatedTask) -> str:
    things = [task.things[name] for name in _moving(task)]
    return f"{things[0].unit} of {' and '.join(thing.words for thing in things)}"


def _errors(task: SimulatedTask, proprio: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Of readings (N, H, P) against states (N, H, D): (N, H)."""
    told = task.places_of_proprio(proprio.reshape(-1, proprio.shape[-1]))
    true = task.places_of_states(states.reshape(-1, states.shape[-1]))
    return sum(task.things[name].error(told[name], true[name]) for name in _moving(task)).reshape(states.shape[:2])


def _pictures(world: "WorldModel", frames: np.ndarray) -> np.ndarray:
    """True frames (N, H, height, width, 3) -> latents of the picture (N, H, F); a step at a time bounds the memory."""
    steps = range(frames.shape[1])
    return np.stack([_picture(world, world.encode(frames[:, k : k + 1])[:, 0]) for k in steps], axis=1)


def _picture(world: "WorldModel", latents) -> np.ndarray:
    return latents[:, : world.config.heads.channels].flatten(1).float().cpu().numpy()


def _places(world: "WorldModel", latents) -> np.ndarray:
    """What latents (N, C, h, w) tell, standardised: (N, P), or the picture's latents."""
    from sana_wm.world.trust import told_by

    return told_by(latents, world.config.heads).float().cpu().numpy()


def trust_table(result: dict, name: str | None = None) -> "Table":
    """One set of a result of `trust_correlation` (or its top) as a table for people."""
    from rich.table import Table

    part = result if name is None else result["sets"][name]
    error = part["error"]
    title = f"{name or 'trust'}: mean error {error['mean']:.3g} {error['unit']}"
    table = Table("signal", "Spearman", "at the same step", f"AUROC of > {error['above']:.3g}", "above 1", title=title)
    for kind in ("rows", "baseline"):
        for signal, row in part[kind].items():
            cells = [_cell(row[key]) for key in ("spearman", "spearman_within_step", "auroc")]
            table.add_row(signal, *cells, f"{row['exceeds']:.1%}" if "exceeds" in row else "", end_section=False)
        table.add_section()
    return table


def _cell(value: dict | None) -> str:
    return "-" if value is None else f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
