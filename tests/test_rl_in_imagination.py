"""benchmarks/rl_in_imagination.py: the arithmetic of its table, and a run that goes on where it was."""

import json
import math

import numpy as np
import pytest

from benchmarks.rl_in_imagination import scripted, summary, t_interval, table
from examples.ppo_latents import held_out_states


def write(folder, row, returns, success, learnt=True):
    folder.mkdir(exist_ok=True, parents=True)
    outcome = {"return": returns, "success": success}
    result = {"real": outcome}
    if learnt:
        result |= {"real_greedy": outcome, "learning": {"cpu_seconds": 60.0}, "judging": {"cpu_seconds": 6.0}}
    (folder / f"{row}.json").write_text(json.dumps(result))


def test_intervals_are_students():
    mean, low, high = t_interval(np.array([1.0, 2.0, 6.0]))
    half = 4.303 * math.sqrt(7.0 / 3)  # variance 7, two degrees of freedom
    assert mean == 3 and (low, high) == pytest.approx((3 - half, 3 + half))
    assert t_interval(np.array([2.0])) == (2.0, -math.inf, math.inf)


def test_differences_are_paired_by_seed(tmp_path):
    """Seeds differ much, rows by about one in each: only pairs show it."""
    for seed in range(3):
        write(tmp_path / f"seed-{seed}", "random", [-50.0], [False], learnt=False)
        write(tmp_path / f"seed-{seed}", "clone", [-10.0 * seed - 1, -10.0 * seed - 3], [True, False])
        write(tmp_path / f"seed-{seed}", "imagined", [-10.0 * seed - 1 + 0.1 * seed] * 2, [True, True])
    write(tmp_path / "seed-0", "real", [0.0], [True])  # not finished for all seeds: left out
    result = summary(tmp_path, [0, 1, 2])
    assert set(result["rows"]) == {"random", "clone", "imagined"}
    mean, low, high = result["imagined minus"]["clone"]["return"]
    assert mean == pytest.approx(1.1) and 0.8 < low < mean < high < 1.4
    assert result["imagined minus"]["clone"]["success"] == pytest.approx((0.5, 0.5, 0.5))
    assert result["rows"]["clone"]["return"][1] < -20
    text = table(result)
    assert "| clone of the recording | -12.00 (" in text and "50.0 (50.0 to 50.0)" in text


def test_the_shortest_path_is_a_ceiling():
    states = held_out_states(12, seed=5)
    expert, random = (scripted(row, states, limit=50, seed=0) for row in ("expert", "random"))
    assert expert["success"].all() and expert["return"].mean() > random["return"].mean() + 5
