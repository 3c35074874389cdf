"""Noise levels, against diffusers' scheduler and against plain statements of what they should be."""

import math

import pytest
import torch

from sana_wm.diffusion.flow import TIMESTEPS, shift_sigma
from sana_wm.diffusion.schedules import (
    FEW_STEPS,
    FEW_STEPS_TRAINING,
    chunk_starts,
    few_step_schedule,
    flow_schedule,
    staggered_sigmas,
)


def scheduler(shift):
    return pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler(shift=shift)


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0, 9.8, 0.7])
def test_a_flow_schedule_is_the_scheduler_s_bit_for_bit(shift):
    theirs = scheduler(shift)
    for steps in [*range(1, 66), 200, 1000]:
        theirs.set_timesteps(steps)
        ours = flow_schedule(steps, shift)
        assert torch.equal(ours, theirs.sigmas) and torch.equal(TIMESTEPS * ours[:-1], theirs.timesteps)


def test_the_published_schedule_begins_at_one_and_ends_with_a_long_step():
    sigmas = flow_schedule(60)
    assert sigmas.shape == (61,) and sigmas.dtype == torch.float32
    assert sigmas[0] == 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    assert sigmas[-2].item() == pytest.approx(0.0877046, abs=1e-6)


@pytest.mark.parametrize("listed", [FEW_STEPS, FEW_STEPS_TRAINING])
def test_a_list_of_steps_is_taken_verbatim_as_by_the_scheduler(listed):
    theirs = scheduler(1.0)
    theirs.set_timesteps(sigmas=[t / 1000 for t in listed[:-1]])
    ours = few_step_schedule(listed)
    assert torch.equal(ours, theirs.sigmas)
    assert (TIMESTEPS * ours).long().tolist() == list(listed)


def test_the_released_list_is_a_shift_of_eight_within_rounding_and_the_training_list_is_not():
    even = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    assert torch.equal(few_step_schedule(), few_step_schedule(FEW_STEPS))
    assert (1000 * (few_step_schedule() - shift_sigma(even, 8.0))).abs().max() <= 0.5
    assert (1000 * (few_step_schedule(FEW_STEPS_TRAINING) - shift_sigma(even, 8.0))).abs().max() > 30
    assert (1000 * (few_step_schedule(FEW_STEPS_TRAINING) - shift_sigma(even, 9.8))).abs().max() < 2


def test_no_listed_timestep_loses_itself_when_its_fraction_is_dropped():
    listed = list(range(1000, -1, -1))
    sigmas = few_step_schedule(listed)
    assert (TIMESTEPS * sigmas).long().tolist() == listed
    assert (sigmas.double() * 1000 - torch.tensor(listed)).abs().max() < 1e-4
    naive = (torch.tensor(listed) / 1000 * 1000).long().tolist()
    assert naive != listed  # what is guarded against does happen


@pytest.mark.parametrize(
    "listed", [(), (0,), (1000,), (1000, 500), (1000, 500, 500, 0), (500, 900, 0), (1001, 0), (900, 0, -1),
               (float("nan"), 0)]
)  # fmt: skip
def test_lists_that_do_not_fall_to_zero_are_refused(listed):
    with pytest.raises(ValueError, match="expected a decreasing list from at most 1000 to 0"):
        few_step_schedule(listed)


@pytest.mark.parametrize(("steps", "shift", "message"), [(0, 9.8, "at least 1 step, got 0"), (4, 0.0, "shift 0.0 ")])
def test_schedules_that_cannot_be_are_refused(steps, shift, message):
    with pytest.raises(ValueError, match=message):
        flow_schedule(steps, shift)


@pytest.mark.parametrize("interval", [None, 0.1, 0.25, 1 / 3, 0.5, 1.0, 1.7])
@pytest.mark.parametrize(("num_chunks", "steps"), [(1, 3), (2, 4), (3, 5), (5, 2), (7, 60), (40, 60)])
def test_each_chunk_is_at_its_own_level_at_every_global_step(num_chunks, steps, interval):
    sigmas = flow_schedule(steps)
    starts = chunk_starts(num_chunks, steps, interval)
    table = staggered_sigmas(sigmas, starts)
    share = 1 / num_chunks if interval is None else interval
    begin = [math.floor(chunk * share * steps) for chunk in range(num_chunks)]
    assert table.shape == (begin[-1] + steps + 1, num_chunks)
    for chunk in range(num_chunks):
        expected = [sigmas[0].item()] * begin[chunk] + sigmas.tolist()
        expected += [0.0] * (len(table) - len(expected))
        assert table[:, chunk].tolist() == expected


def test_by_default_the_last_chunk_begins_one_share_before_the_first_one_ends():
    assert chunk_starts(4, 60) == (0, 15, 30, 45)
    assert chunk_starts(3, 4, 0.5) == (0, 2, 4)


@pytest.mark.parametrize("interval", [0.0, -0.5, float("nan")])
def test_an_interval_that_goes_nowhere_is_refused(interval):
    with pytest.raises(ValueError, match="must be positive"):
        chunk_starts(3, 4, interval)
