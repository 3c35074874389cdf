"""The sampler of LongSANA: its formula, its memory, and what changes what."""

import pytest
import torch

from sana_wm.diffusion.guidance import Conditions
from sana_wm.diffusion.renoise import renoise_block, renoise_schedule, renoise_stream
from sana_wm.diffusion.schedules import FEW_STEPS, few_step_schedule
from sana_wm.models.presets import preset
from sana_wm.models.transformer import CleanPast, SanaTransformer
from sana_wm.world.noise import lane_noise
from tests.models.tiny_sana_wm import randomised

GRID, CHANNELS, BLOCK, LANES, TEXT_DIM = (2, 4), 3, 3, 2, 7
SIGMAS = few_step_schedule()


def longsana(**changes) -> SanaTransformer:
    sizes = {
        "in_channels": CHANNELS, "width": 24, "depth": 2, "heads": 3, "text_heads": 2, "text_dim": TEXT_DIM,
        "chunk_size": BLOCK,
    }  # fmt: skip
    torch.manual_seed(0)
    net = SanaTransformer(preset("longsana-2b-480p", **sizes | changes)).double()
    return randomised(net, std=0.1).requires_grad_(False)


def text(net, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return net.encode_text(torch.randn(1, 4, TEXT_DIM, generator=generator, dtype=torch.float64))


def noise_of_block(start: int, stop: int, draw: int):
    frame = torch.arange(start, stop).repeat(LANES)
    seeds = torch.arange(LANES).repeat_interleave(stop - start)
    noise = lane_noise(seeds, frame, draw, (CHANNELS, *GRID)).double()
    return noise.unflatten(0, (LANES, stop - start)).transpose(1, 2)


def video(net, frames: int, told=None, **how):
    """Latents of all blocks, and the states after each."""
    told = told or (lambda start, stop: Conditions(text(net, 0)))
    blocks = list(renoise_stream(net, noise_of_block, told, net.config.chunks(frames), SIGMAS, **how))
    return torch.cat([latents for latents, _ in blocks], dim=2), [state for _, state in blocks]


@pytest.mark.parametrize(("steps", "shift"), [(4, 8.0), (1, 8.0), (6, 5.0), (3, 1.0)])
def test_the_schedule(steps, shift):
    times = (1000 * renoise_schedule(steps, shift)).floor().int().tolist()
    assert times[0] == 1000 and times[-1] == 0 and len(times) == steps + 1
    for k in range(steps):
        u = 1 - k / steps
        assert abs(times[k] - 1000 * shift * u / (1 + (shift - 1) * u)) <= 0.5
    assert tuple((1000 * renoise_schedule(4)).int().tolist()) == FEW_STEPS
    assert torch.equal(renoise_schedule(4), SIGMAS)


@pytest.mark.parametrize("steps", [0, 2.5e9])
def test_schedules_that_cannot_be(steps):
    with pytest.raises(ValueError, match="at least 1 step|decreasing"):
        renoise_schedule(*((0,) if not steps else (3, steps)))
    with pytest.raises(ValueError, match="positive"):
        renoise_schedule(4, 0)


@pytest.mark.parametrize("picture", [False, True])
def test_it_is_the_formula_against_the_clean_blocks_before(picture):
    """Each step is one dense pass with block-causal masks over clean blocks before and the noisy one; no memory."""
    net, frames = longsana(), 7
    told, sizes = text(net, 0), longsana().config.chunks(frames)
    assert sizes == (4, 3)
    first = torch.randn(LANES, CHANNELS, 1, *GRID, dtype=torch.float64) if picture else None
    got, _ = video(net, frames, first=first)
    start = 0
    for size in sizes:
        at_start = picture and start == 0
        clean = None
        for k, sigma in enumerate(SIGMAS[:-1].tolist()):
            fresh = noise_of_block(start, start + size, k)
            x = fresh if clean is None else (1 - sigma) * clean + sigma * fresh
            time = torch.full((LANES, size), float(FEW_STEPS[k]))
            if at_start:
                x[:, :, :1], time[:, 0] = first, 0
            if start == 0:
                velocity = net(x, time, told, chunks=(size,)).velocity
            else:
                whole, times = torch.cat([got[:, :, :start], x], 2), torch.cat([torch.zeros(LANES, start), time], 1)
                velocity = net(whole, times, told, chunks=(4, size)).velocity[:, :, start:]
            clean = x - sigma * velocity
            if at_start:
                clean[:, :, :1] = first
        torch.testing.assert_close(got[:, :, start : start + size], clean, atol=1e-9, rtol=1e-9)
        start += size
    if picture:
        assert torch.equal(got[:, :, :1], first)


def test_memory_is_written_from_clean_latents_at_time_zero():
    """As one committing pass over the finished clip writes it, and as training in two streams reads it."""
    net, frames = longsana(), 10
    got, states = video(net, frames)
    sizes = net.config.chunks(frames)
    zero = torch.zeros(LANES)
    at_once = net(got, zero, text(net, 0), commit=True, chunks=sizes).state
    for one, other in zip(states[-1].blocks, at_once.blocks, strict=True):
        for name in one:
            torch.testing.assert_close(one[name], other[name], atol=1e-9, rtol=1e-9)
    noisy, time = torch.randn_like(got), 1000 * torch.rand(LANES, frames)
    past = CleanPast(got[:, :, : frames - sizes[-1]])
    together = net(noisy, time, text(net, 0), past=past).velocity[:, :, -sizes[-1] :]
    part = net(noisy[:, :, -sizes[-1] :], time[:, -sizes[-1] :], text(net, 0), state=states[-2]).velocity
    torch.testing.assert_close(part, together, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_state_stays_as_large_as_it_was(guidance):
    net = longsana(depth=1, chunk_size=1)
    told = lambda start, stop: Conditions(text(net, 0), text(net, 1))  # noqa: E731
    sizes = set()
    _, states = video(net, 60, told, guidance=guidance)
    for state in states:
        sizes.add(sum(t.untyped_storage().nbytes() for block in state.blocks for t in block.values()))
    assert len(states) == 60 and len(sizes) == 1
    assert states[-1].frame.tolist() == [60] * (LANES * (1 if guidance == 1 else 2))


def test_a_longer_video_begins_as_the_shorter_one_where_blocks_agree():
    net = longsana()
    short, _ = video(net, 7)
    assert torch.equal(video(net, 7)[0], short)
    assert torch.equal(video(net, 13)[0][:, :, :7], short)  # 4 3 3 3
    assert not torch.allclose(video(net, 8)[0][:, :, :4], short[:, :, :4])  # its first block has 5 frames


def test_another_prompt_changes_the_blocks_from_there_on():
    net = longsana()
    same, _ = video(net, 10)

    def told(start, stop):
        return Conditions(text(net, 5 if start >= 7 else 0))

    changed, _ = video(net, 10, told)
    assert torch.equal(changed[:, :, :7], same[:, :, :7])
    assert (changed - same)[:, :, 7:].abs().amax((1, 3, 4)).min() > 1e-4


def test_a_stream_goes_on_from_its_state():
    net = longsana()
    whole, states = video(net, 10)
    later = lambda start, stop, draw: noise_of_block(start + 4, stop + 4, draw)  # noqa: E731
    told = lambda start, stop: Conditions(text(net, 0))  # noqa: E731
    rest = [block for block, _ in renoise_stream(net, later, told, (3, 3), SIGMAS, state=states[0])]
    assert torch.equal(torch.cat(rest, 2), whole[:, :, 4:])


def test_progress_and_mistakes():
    net, seen = longsana(), []
    noise, told = lambda draw: noise_of_block(0, 3, draw), Conditions(text(net, 0))
    renoise_block(net, None, noise, told, SIGMAS, progress=lambda *done: seen.append(done))
    assert seen == [(k, 5) for k in range(1, 6)]
    for wrong in ([0.5, 0.6, 0.0], [0.5], [1.5, 0.0], [1.0, 0.5]):
        with pytest.raises(ValueError, match="fall from at most 1 to 0"):
            renoise_block(net, None, noise, told, torch.tensor(wrong))
    with pytest.raises(ValueError, match="one frame"):
        renoise_block(net, None, noise, told, SIGMAS, first=torch.zeros(1, CHANNELS, 1, *GRID))
    with pytest.raises(ValueError, match="unconditional is None"):
        renoise_block(net, None, noise, told, SIGMAS, guidance=3.0)
    with pytest.raises(ValueError, match="needs 2"):
        renoise_block(net, net.initial_state(3, GRID), noise, told, SIGMAS)
