"""Whether a world tells actions apart: from one state many different actions, in the simulator and in the world.

Open-loop error on recorded episodes can be low for a world that guesses what usually happens next. Here the state is
the same and only the action differs, so guessing explains nothing: a world that ignores actions has R^2 = 0.
"""

from typing import TYPE_CHECKING

import numpy as np

from sana_wm.evaluation.intervals import bootstrap
from sana_wm.evaluation.progress import track
from sana_wm.evaluation.windows import Windows, decode, to_numpy

if TYPE_CHECKING:
    from sana_wm.evaluation.tasks import Places, SimulatedTask
    from sana_wm.world import WorldModel

ACTIONS, HOLD = 16, 5


def counterfactual(
    world: "WorldModel",
    task: "SimulatedTask",
    windows: Windows,
    *,
    states: int = 96,
    lanes: int = 512,
    seed: int = 0,
    show_progress: bool = False,
) -> dict:
    """R^2 of how far things move, over 16 actions per state, each held for 5 steps.

    With d the displacement in the simulator and d' that of a row, of things that actions can move:
    R^2 = 1 - sum |d' - d|^2 / sum |d - mean of d over the actions of that state|^2, sums over states and actions.

    Args:
        windows: their context frames are what the world sees; their simulator states at that moment are where both
            start.
        states: how many of them.

    Returns:
        {"states", "actions", "hold", "moved": {thing: share of actions that move it by more than a hundredth of the
        largest displacement}, "things": {thing: words}, "rows": {row: {thing: {"r2", "low", "high"}}}}; intervals by
        bootstrap over states. Rows: `world` (its frames), `world_readout` (its readings), `ignores_actions` (the mean
        over the actions, by definition 0), `copy_last_frame`, `readout_floor` (true frames, encoded and read) and
        `decoder_floor` (true frames, decoded).
    """
    count = min(states, len(windows))
    chosen = np.linspace(0, len(windows) - 1, count).round().astype(int)  # windows stand in the order of episodes
    starts = windows.sim_states[chosen, windows.context - 1]
    rng = np.random.default_rng(seed)
    space = world.codec.action_space
    probes = np.stack([task.probe(rng, state, ACTIONS) for state in starts]).astype(np.float32)
    probes = np.clip(probes, space.low, space.high)
    held = np.repeat(probes[:, :, None], HOLD, axis=2)  # (N, 16, hold, A)
    env = task.make_env(world.config.resolution[0])
    ended = np.stack(
        [[env.simulate(s, actions)[-1] for actions in of_state] for s, of_state in zip(starts, held, strict=True)]
    )
    at_once, read = max(1, lanes // ACTIONS), []
    for first in track(range(0, count, at_once), "counterfactual actions", show_progress):
        lane = slice(first, min(first + at_once, count))
        seen = windows.frames[chosen[lane], : windows.context]
        before = windows.actions[chosen[lane], : windows.context - 1]
        state = world.begin(seen, before, seeds=np.arange(lane.start, lane.stop)).repeat(ACTIONS)
        prediction = world.rollout(state, held[lane].reshape(-1, *held.shape[2:]))
        truth = task.draw(ended[lane].reshape(-1, ended.shape[-1]), world.config.resolution[0])
        read.append(_places(world, task, prediction, truth))
    result = {
        "states": count,
        "actions": ACTIONS,
        "hold": HOLD,
        "things": {key: thing.words for key, thing in task.things.items() if thing.moves},
        "moved": {},
        "rows": {},
    }
    true_start, true_end = (
        task.places_of_states(values.reshape(-1, values.shape[-1]))
        for values in (np.repeat(starts[:, None], ACTIONS, axis=1), ended)
    )
    for key in result["things"]:
        thing = task.things[key]

        def displacement(places: np.ndarray, thing=thing, key=key) -> np.ndarray:
            return thing.gap(places, true_start[key]).reshape(count, ACTIONS, -1)

        truth = displacement(true_end[key])
        lengths = np.linalg.norm(truth, axis=-1)
        result["moved"][key] = float(np.mean(lengths > 0.01 * max(lengths.max(), 1e-9)))
        ways = {name: np.concatenate([batch[name][key] for batch in read]) for name in read[0]}
        shown = {name: displacement(places) for name, places in ways.items()}
        shown["copy_last_frame"] = np.zeros_like(truth)
        shown["ignores_actions"] = np.repeat(truth.mean(axis=1, keepdims=True), ACTIONS, axis=1)
        for name, values in shown.items():
            result["rows"].setdefault(name, {})[key] = r2_within(values, truth, angle=thing.angle)
        result["rows"]["ignores_actions"][key] |= {"low": None, "high": None}  # by definition, not by chance
    return result


def r2_within(values: np.ndarray, truth: np.ndarray, *, angle: bool = False) -> dict[str, float | None]:
    """R^2 of values (N, K, D) of K cases in each of N groups, held against each group's mean; bootstrap over groups.

    None where nothing varies.
    """
    gap = values - truth
    if angle:
        gap = (gap + np.pi) % (2 * np.pi) - np.pi
    unexplained = np.square(gap).sum(axis=(1, 2))
    total = np.square(truth - truth.mean(axis=1, keepdims=True)).sum(axis=(1, 2))
    if total.sum() <= 0:
        return {"r2": None, "low": None, "high": None}
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = bootstrap(lambda weights: 1 - (weights @ unexplained) / (weights @ total), len(total))
    return {"r2": float(1 - unexplained.sum() / total.sum()), "low": low, "high": high}


def _places(world, task, prediction, truth: np.ndarray) -> dict[str, "Places"]:
    """Where things are at the end, as every row sees it."""
    ways = {
        "world": task.places_of_frames(decode(world, prediction.latents[:, -1:])[:, 0]),
        "decoder_floor": task.places_of_frames(truth),
    }
    if task.reads(world):
        read = world.read(world.encode(truth[:, None]))
        ways["world_readout"] = task.places_of_proprio(to_numpy(prediction.proprio)[:, -1])
        ways["readout_floor"] = task.places_of_proprio(to_numpy(read.proprio)[:, 0])
    return ways
