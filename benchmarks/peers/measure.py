"""Everything that is measured of `SanaWM` and its peers, side by side in one process; parts are kept as they finish."""

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.kept import Kept
from benchmarks.peers.planning import WANTS, floors_and_ceilings, run_in_world, score, smaller, solved
from benchmarks.peers.prediction import copy_last, predict
from benchmarks.peers.speed import long_run, steps_per_second
from sana_wm.data import LeRobotDataset
from sana_wm.data.splits import split_episodes
from sana_wm.evaluation.tworoom_pairs import TwoRoomPairs, cut_tworoom_pairs
from sana_wm.evaluation.tworoom_planning import SEARCHES, Search
from sana_wm.evaluation.windows import SIM_STATE, Windows, cut_windows

LANES = (1, 8, 64)


def held_out(world, dataset: str | Path, count: int, pairs: int) -> tuple[Windows, TwoRoomPairs]:
    """Windows and start-goal pairs of the test split: those of `sana_wm.evaluation`."""
    recorded = LeRobotDataset(dataset)
    episodes = split_episodes(recorded.num_episodes)["test"]
    columns = world.config.extra["data"]["columns"]
    windows = cut_windows(
        recorded, episodes, count=count, context=world.config.context, horizon=25, camera=columns["camera"],
        action=columns["action"], resolution=tuple(world.config.resolution),
    )  # fmt: skip
    rows = (recorded.episode(int(index), keys=[SIM_STATE, columns["action"]]) for index in episodes)
    trajectories = ((row[SIM_STATE], row[columns["action"]]) for row in rows)
    return windows, cut_tworoom_pairs(trajectories, pairs, context=world.config.context)


def measure_all(
    worlds: dict, planners: Collection[str], dataset: str | Path, out: Path, console: Console, *, windows: int = 200,
    pairs: int = 200, planned: int | None = None, slow_pairs: int = 20,
) -> dict:  # fmt: skip
    """Prediction and speed of ``worlds``: name -> world or peer, the first of them `SanaWM`; planning of ``planners``.

    Of the pairs the first ``planned`` are planned (all of them by default), the same ones for everybody. A world whose
    plan takes more than five times as long as the first one's plans ``slow_pairs`` of the same pairs with
    the full search, and all of them with a search that is cut until a plan takes as long as the first one's.

    Returns:
        {"bounds": see `floors_and_ceilings`, "copy_last": see `predict`, "lanes", "peak_rss_mb",
        "systems": {name: {"prediction", "speed", "long": {"frames", "latents"}: see `long_run`, "planning"}}}
    """
    keep = Kept(out / "measured.json", {"windows": windows, "pairs": pairs}, console)
    seen, wanted = held_out(next(iter(worlds.values())), dataset, windows, pairs)
    result = {"systems": {name: {"planning": {}, "speed": {}} for name in worlds}, "lanes": LANES}
    systems = result["systems"]
    result["copy_last"] = keep("copy_last", lambda: copy_last(seen))
    for name, world in worlds.items():
        systems[name]["prediction"] = keep(f"prediction, {name}", lambda world=world: predict(world, seen))
    for lanes in LANES:
        for what in ("frames", "latents"):
            able = {n: (w, what == "frames") for n, w in worlds.items()
                    if what == "latents" or getattr(w, "makes_frames", True)}  # fmt: skip
            among = ", ".join(able)
            rates = keep(
                f"speed, {what}, {lanes} lanes, {among}", lambda able=able, n=lanes: steps_per_second(able, seen, n)
            )
            for name, rate in rates.items():
                systems[name]["speed"].setdefault(str(lanes), {})[what] = rate
    among = ", ".join(worlds)
    for what in ("frames", "latents"):
        those = {name: (world, what == "frames") for name, world in worlds.items()}
        long = keep(f"long, {what}, {among}", lambda those=those: long_run(those, seen))
        result.setdefault("peak_rss_mb", long["peak_rss_mb"])
        for name, world in worlds.items():
            if what == "latents" or getattr(world, "makes_frames", True):
                systems[name].setdefault("long", {})[what] = long[name]
    result["bounds"] = keep("bounds", lambda: floors_and_ceilings(wanted))
    first = next(iter(worlds.items()))
    for name, world in worlds.items():
        if name in planners:
            systems[name]["planning"] = plan(name, world, first, wanted[:planned], keep, slow_pairs)
    return result


def plan(name: str, world, first: tuple, pairs: TwoRoomPairs, keep: Kept, slow_pairs: int) -> dict:
    """What `measure_all` says of planning, of one world: {"reward" | "image" | ...: see `score`}."""
    result = {}
    for want in [*WANTS, *([] if getattr(world, "makes_frames", True) else ["latent"])]:
        asked = "image" if want == "latent" else want
        search = SEARCHES[asked]
        mine, theirs = (one_plan(*which, keep, pairs) for which in ((name, world, want), (*first, asked)))
        slow = mine > 5 * theirs
        result[want] = in_parts(f"{want}, {name}", world, pairs[:slow_pairs] if slow else pairs, want, search, keep)
        if slow:
            cut = smaller(search, theirs / mine)
            result[f"{want}, same time"] = in_parts(f"{want}, same time, {name}", world, pairs, want, cut, keep)
            result[f"{want}, same time"] |= {"samples": cut.planner.samples, "iterations": cut.planner.iterations}
    return result


def one_plan(name: str, world, want: str, keep: Kept, pairs: TwoRoomPairs) -> float:
    """Seconds that the full search for one pair takes."""
    search = SEARCHES["image" if want == "latent" else want]
    return keep(
        f"one plan, {want}, {name}", lambda: run_in_world(world, pairs[:2], want, search, at_once=2).seconds_per_plan
    )


def in_parts(what: str, world, pairs: TwoRoomPairs, want: str, search: Search, keep: Kept, at_once: int = 20) -> dict:
    """`score` of all pairs, kept a few pairs at a time; the search is part of the key: another one is measured anew."""
    done, seconds = [], []
    for first in range(0, len(pairs), at_once):
        some = pairs[first : first + at_once]

        def measure(some=some, first=first) -> dict:
            run = run_in_world(world, some, want, search, offset=first)
            return {"solved": solved(run).tolist(), "seconds_per_plan": run.seconds_per_plan}

        part = keep(f"planning, {what}, {first} to {first + len(some)}, {search}", measure)
        done += part["solved"]
        seconds.append(part["seconds_per_plan"])
    return score(np.array(done), float(np.mean(seconds)), pairs)


def own_memory(source: str) -> float:
    """Peak resident MB of a process of its own that loads one world and steps 64 lanes ten times (Linux).

    Not from `resource`: what that tells of a child begins with the parent's own peak.
    """
    program = f"""
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
{source}
state = world.begin(np.full((64, 4, 64, 64, 3), 255, np.uint8), np.zeros((64, 3, 2), np.float32), seeds=np.arange(64))
for _ in range(10):
    state, said = world.step(state, np.zeros((64, 2), np.float32))
    if getattr(world, "makes_frames", True):
        world.frames(state)
line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
print(int(line.split()[1]) / 2**10)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)
