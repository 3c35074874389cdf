"""Samplers on tiny random networks: against diffusers' pipeline, and against the same loops written out by hand."""

import itertools
import weakref

import numpy as np
import pytest
import torch

from sana_wm.diffusion.samplers import Conditions, chunk_flow_euler, flow_euler, stream, stream_chunk
from sana_wm.diffusion.schedules import FEW_STEPS, few_step_schedule, flow_schedule
from sana_wm.models.transformer import SanaTransformer
from sana_wm.nn.state import StreamState
from tests.models.sana_reference import exact, inputs
from tests.models.tiny_sana_wm import CHANNELS, TEXT_DIM, tiny_transformer, tiny_vae

B, T, GRID = 2, 5, (2, 3)
PARTITIONS = [
    tuple(b - a for a, b in zip((0, *cuts), (*cuts, T), strict=True))
    for count in range(T)
    for cuts in itertools.combinations(range(1, T), count)
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def network(temporal="chunk_causal", **changes):
    """float64, with window, sink, cameras, Plücker rays, actions and text."""
    settings = {
        "temporal": temporal, "depth": 2, "softmax_every": 2, "window": 2, "sink": 1, "chunk_size": 2,
        "first_chunk_plus_one": True, "action_dim": 2, "integer_timesteps": False,
    } | changes  # fmt: skip
    return tiny_transformer(seed=1, grid=GRID, **settings).double().requires_grad_(False)


def clip(net, lanes=B, frames=T, seed=1):
    """Noise, a first frame and conditions."""
    given = inputs(net.config, lanes, frames, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    other = torch.randn(1, 9, TEXT_DIM, generator=generator, dtype=torch.float64)
    told = Conditions(
        text=net.encode_text(given["text"], given["text_mask"]), unconditional=net.encode_text(other),
        camera=given["camera"], plucker=given["plucker"],
        actions=torch.randn(lanes, frames, 2, generator=generator, dtype=torch.float64),
    )  # fmt: skip
    first = torch.randn(lanes, CHANNELS, 1, *GRID, generator=generator, dtype=torch.float64)
    return given["latents"], first, told


def ask(net, x, times, told, text=None, **how):
    """The network's velocity of a clip or a part of it; ``times`` of every frame."""
    text = told.text if text is None else text
    times = torch.as_tensor(times).expand(len(x), -1)
    told = told.frames(0, x.shape[2])
    return net(x, times, text, camera=told.camera, plucker=told.plucker, actions=told.actions, **how)


def timestep(sigma):
    """In float32, as schedules are."""
    return float(np.float32(1000) * np.float32(sigma))


def bits(tensor):
    return tensor.contiguous().view({4: torch.int32, 8: torch.int64}[tensor.element_size()])


class Spy:
    """A network that writes down what it is asked."""

    def __init__(self, net):
        self.net, self.config, self.dtype, self.calls = net, net.config, net.dtype, []
        self.initial_state = net.initial_state

    def __call__(self, latents, timestep, text=None, **how):
        self.calls.append({"latents": latents, "timestep": timestep, **how})
        return self.net(latents, timestep, text, **how)


# --- the reference ---------------------------------------------------------------------------------------------------


def run_pipeline(folder, guidance, steps, frames=33):
    """diffusers' own SanaWMPipeline.__call__ -> latents, and what its network was first asked."""
    diffusers, image = pytest.importorskip("diffusers"), pytest.importorskip("PIL.Image")
    net = diffusers.SanaWMTransformer3DModel.from_pretrained(folder).eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=9.8)
    pipeline = diffusers.SanaWMPipeline(None, None, tiny_vae(), net, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    asked = []
    net.register_forward_pre_hook(lambda _, args, named: asked.append((args, named)), with_kwargs=True)
    generator = torch.Generator().manual_seed(3)
    text, mask = torch.randn(2, 1, 7, TEXT_DIM, generator=generator), torch.ones(2, 7, dtype=torch.long)
    mask[0, 3:] = 0
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, 2, 3], c2w[:, 0, 3] = 0.05 * np.arange(frames), 0.3 * np.sin(np.arange(frames))
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    with exact(torch.float32):
        latents = pipeline(
            image.fromarray(pixels), "", c2w=c2w, intrinsics=[60.0, 60.0, 48.0, 32.0], height=64, width=96,
            num_frames=frames, num_inference_steps=steps, guidance_scale=guidance, generator=generator,
            negative_prompt_embeds=text[:1], negative_prompt_attention_mask=mask[:1],
            prompt_embeds=text[1:], prompt_attention_mask=mask[1:], output_type="latent",
        ).frames  # fmt: skip
    return latents, asked, text[:, 0], mask


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_clip_equals_that_of_the_reference_pipeline(tmp_path, guidance, steps):
    tiny_transformer(seed=2, grid=GRID).save_pretrained(tmp_path, layout="diffusers")
    ours = SanaTransformer.from_pretrained(tmp_path, grid=GRID)
    expected, asked, text, mask = run_pipeline(tmp_path, guidance, steps)
    start, named = asked[0][0][0][-1:], asked[0][1]
    with torch.no_grad():
        negative, prompt = (ours.encode_text(text[i : i + 1], mask[i : i + 1]) for i in (0, 1))
    told = Conditions(prompt, negative, named["camera_conditions"][-1:], named["chunk_plucker"][-1:])
    spy = Spy(ours)
    out = flow_euler(spy, start, told, flow_schedule(steps), first=expected[:, :, :1], guidance=guidance)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=2e-5)
    assert torch.equal(bits(out[:, :, :1]), bits(expected[:, :, :1]))
    assert (out[:, :, 1:] - start[:, :, 1:]).abs().mean() > 0.1
    assert len(spy.calls) == len(asked)
    for call, (args, _) in zip(spy.calls, asked, strict=True):
        assert torch.equal(call["timestep"], args[1][:, 0])


# --- a whole clip ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temporal", ["bidirectional", "chunk_causal"])
@pytest.mark.parametrize("pinned", [True, False])
def test_flow_euler_is_the_plain_loop(temporal, pinned):
    net = network(temporal)
    noise, first, told = clip(net)
    sigmas = flow_schedule(4)
    out = flow_euler(net, noise, told, sigmas, first=first if pinned else None)
    x, fixed = noise.clone(), 1 if pinned else 0
    if pinned:
        x[:, :, :1] = first
    for here, there in itertools.pairwise(sigmas.tolist()):
        v = ask(net, x, [0.0] * fixed + [timestep(here)] * (T - fixed), told).velocity
        x[:, :, fixed:] -= (here - there) * v[:, :, fixed:]
    torch.testing.assert_close(out, x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_given_frame_stays_bit_identical(guidance):
    net = network()
    noise, first, told = clip(net)
    first[0, 0] = -0.0  # what an update by zero would turn into 0.0
    sigmas = few_step_schedule()
    options = {"first": first, "guidance": guidance}
    clips = [sample(net, noise, told, sigmas, **options) for sample in (flow_euler, chunk_flow_euler)]
    clips.append(stream_chunk(net, None, noise[:, :, :3], told.frames(0, 3), sigmas, **options)[0])
    for out in clips:
        assert torch.equal(bits(out[:, :, :1]), bits(first))
        assert not torch.equal(out[:, :, 1:], noise[:, :, 1 : out.shape[2]])


def test_nothing_given_is_changed_and_no_gradient_is_kept():
    net = network().requires_grad_(True)
    noise, first, told = clip(net)
    copies = noise.clone(), first.clone()
    out = flow_euler(net, noise, told, few_step_schedule(), first=first)
    chunk, state = stream_chunk(net, None, noise[:, :, :2], told.frames(0, 2), few_step_schedule(), first=first)
    assert torch.equal(noise, copies[0]) and torch.equal(first, copies[1])
    assert not any(t.requires_grad for t in (out, chunk, *state.blocks[0].values()))


def test_the_network_is_told_the_listed_timesteps_without_loss():
    spy = Spy(network(integer_timesteps=True))
    noise, first, told = clip(spy.net)
    flow_euler(spy, noise, told, few_step_schedule(), first=first)
    assert [call["timestep"].long().tolist()[0] for call in spy.calls] == [[0] + [t] * (T - 1) for t in FEW_STEPS[:-1]]


# --- staggered chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_one_chunk_is_the_whole_clip(guidance):
    net = network("bidirectional")
    noise, first, told = clip(net)
    options = {"first": first, "guidance": guidance}
    whole = flow_euler(net, noise, told, flow_schedule(3), **options)
    assert torch.equal(chunk_flow_euler(net, noise, told, flow_schedule(3), **options), whole)
    one = chunk_flow_euler(net, noise, told, flow_schedule(3), chunks=(T,), **options)
    torch.testing.assert_close(one, whole, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("interval", [None, 0.5, 1.25])
@pytest.mark.parametrize("sizes", [(3, 2), (1, 2, 2)], ids=str)
def test_chunks_follow_each_other_as_stated(sizes, interval):
    spy = Spy(network(window=-1))
    noise, first, told = clip(spy.net)
    sigmas = flow_schedule(4)
    levels = sigmas.tolist()
    out = chunk_flow_euler(spy, noise, told, sigmas, first=first, chunks=sizes, interval=interval)

    share, parts = 1 / len(sizes) if interval is None else interval, list(noise.split(sizes, dim=2))
    parts[0] = torch.cat([first, parts[0][:, :, 1:]], dim=2)
    begins, asked = [int(i * share * 4) for i in range(len(sizes))], []
    for now in range(begins[-1] + 4):
        age = [now - begin for begin in begins if begin <= now]
        here = [levels[min(a, 4)] for a in age]
        there = [levels[min(a + 1, 4)] for a in age]
        frames = sum(([timestep(s)] * n for s, n in zip(here, sizes, strict=False)), [])
        frames[0] = 0.0
        if not any(frames):
            continue
        asked.append(frames)
        x = torch.cat(parts[: len(age)], dim=2)
        v = ask(spy.net, x, frames, told, chunks=sizes[: len(age)]).velocity.split(sizes[: len(age)], dim=2)
        for i in range(len(age)):
            parts[i] = parts[i] - (here[i] - there[i]) * v[i]
            if i == 0:
                parts[0][:, :, :1] = first
    torch.testing.assert_close(out, torch.cat(parts, dim=2), atol=1e-9, rtol=1e-9)
    assert len(spy.calls) == len(asked)
    for call, frames in zip(spy.calls, asked, strict=True):
        assert call["timestep"][0].tolist() == frames


def test_chunks_are_those_of_the_configuration():
    net = network()
    noise, first, told = clip(net)
    by_default = chunk_flow_euler(net, noise, told, flow_schedule(3), first=first)
    assert torch.equal(by_default, chunk_flow_euler(net, noise, told, flow_schedule(3), first=first, chunks=(3, 2)))
    other = chunk_flow_euler(net, noise, told, flow_schedule(3), first=first, chunks=(2, 3))
    assert not torch.equal(by_default, other)


def test_later_chunks_of_a_staggered_clip_leave_earlier_ones_bit_identical():
    net = network()
    noise, first, told = clip(net)
    changed = noise.clone()
    changed[:, :, 3:] += 1
    a, b = (chunk_flow_euler(net, x, told, flow_schedule(3), first=first, guidance=2.0) for x in (noise, changed))
    assert torch.equal(a[:, :, :3], b[:, :, :3]) and not torch.equal(a[:, :, 3:], b[:, :, 3:])


# --- streams ---------------------------------------------------------------------------------------------------------


SHORT = few_step_schedule((1000, 727, 0))


def streamed(net, noise, told, sizes, **options):
    chunks = stream(net, lambda a, b: noise[:, :, a:b], told.frames, sizes, SHORT, **options)
    latents, states = zip(*chunks, strict=True)
    return torch.cat(latents, dim=2), states


def by_whole_clips(net, noise, told, sizes, first):
    """Without a state: the clean past at t = 0 before the chunk, all of it in one chunk-causal pass at every step."""
    clean, sigmas = noise[:, :, :0], SHORT.tolist()
    for k, size in enumerate(sizes):
        known = clean.shape[2]
        x, fixed = noise[:, :, known : known + size].clone(), 0
        if not k:
            x[:, :, :1], fixed = first, 1
        for here, there in itertools.pairwise(sigmas):
            times = [0.0] * (known + fixed) + [timestep(here)] * (size - fixed)
            v = ask(net, torch.cat([clean, x], dim=2), times, told, chunks=sizes[: k + 1]).velocity[:, :, known:]
            x[:, :, fixed:] -= (here - there) * v[:, :, fixed:]
        clean = torch.cat([clean, x], dim=2)
    return clean


@pytest.mark.parametrize("sizes", PARTITIONS, ids=str)
def test_a_stream_equals_whole_chunk_causal_passes(sizes):
    net = network()
    noise, first, told = clip(net)
    out, states = streamed(net, noise, told, sizes, first=first)
    torch.testing.assert_close(out, by_whole_clips(net, noise, told, sizes, first), atol=1e-9, rtol=1e-9)
    committed = ask(net, out, [0.0] * T, told, commit=True, chunks=sizes).state
    assert states[-1].frame.tolist() == [T] * B
    for here, there in zip(states[-1].blocks, committed.blocks, strict=True):
        for name in there:
            torch.testing.assert_close(here[name], there[name], atol=1e-9, rtol=1e-9)


def test_a_chunk_is_denoised_with_a_memory_that_is_read_only_then_committed_once_clean():
    spy = Spy(network())
    noise, first, told = clip(spy.net)
    state = stream_chunk(spy, None, noise[:, :, :3], told.frames(0, 3), few_step_schedule(), first=first)[1]
    copy = state.map(torch.clone)
    spy.calls.clear()
    clean, after = stream_chunk(spy, state, noise[:, :, 3:], told.frames(3, 5), few_step_schedule())
    assert [call["commit"] for call in spy.calls] == [False] * 4 + [True]
    assert all(call["state"] is state for call in spy.calls)
    assert torch.equal(spy.calls[-1]["latents"], clean) and not spy.calls[-1]["timestep"].any()
    assert after.frame.tolist() == [5] * B and state.frame.tolist() == [3] * B
    assert all(torch.equal(a[n], b[n]) for a, b in zip(copy.blocks, state.blocks, strict=True) for n in a)


def test_a_later_chunk_leaves_earlier_ones_and_their_states_bit_identical():
    net = network()
    noise, first, told = clip(net)
    changed = noise.clone()
    changed[:, :, 3:] += 1
    (a, before), (b, after) = (streamed(net, x, told, (2, 1, 2), first=first) for x in (noise, changed))
    assert torch.equal(a[:, :, :3], b[:, :, :3]) and not torch.equal(a[:, :, 3:], b[:, :, 3:])
    for here, there in zip(before[1].blocks, after[1].blocks, strict=True):
        assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_stream_goes_on_from_a_state():
    net = network()
    noise, first, told = clip(net)
    whole, states = streamed(net, noise, told, (3, 1, 1), first=first)
    rest, _ = streamed(net, noise[:, :, 3:], told.frames(3, 5), (1, 1), state=states[0])
    assert torch.equal(rest, whole[:, :, 3:])


def test_an_endless_stream_keeps_its_state_and_nothing_else():
    net = network()
    _, first, told = clip(net, lanes=1)
    kept, sizes = [], []

    def noise(start, stop):
        made = torch.randn(1, CHANNELS, stop - start, *GRID, dtype=torch.float64)
        kept.append(weakref.ref(made))
        return made

    def conditions(start, stop):
        return told.frames(start % 4, start % 4 + stop - start)

    chunks = stream(net, noise, conditions, itertools.repeat(2), SHORT, first=first)
    for latents, state in itertools.islice(chunks, 12):
        kept.append(weakref.ref(latents))
        tensors = [t for block in state.blocks for t in block.values()]
        sizes.append(sum(t.numel() * t.element_size() for t in tensors))
        # A view keeps the storage that it looks at alive.
        assert sum(t.untyped_storage().nbytes() for t in tensors) <= 2 * sizes[-1]
    assert state.frame.tolist() == [24] and len(set(sizes)) == 1
    del latents
    assert sum(ref() is not None for ref in kept) <= 2  # of the last chunk, which the generator still holds


def test_a_first_frame_alone_is_only_committed():
    spy = Spy(network())
    noise, first, told = clip(spy.net)
    clean, state = stream_chunk(spy, None, noise[:, :, :1], told.frames(0, 1), few_step_schedule(), first=first)
    assert torch.equal(clean, first) and [call["commit"] for call in spy.calls] == [True]
    assert state.frame.tolist() == [1] * B


# --- guidance --------------------------------------------------------------------------------------------------------


def test_guidance_one_asks_once_and_never_for_the_negative_prompt():
    spy = Spy(network())
    noise, first, told = clip(spy.net)
    plain = Conditions(told.text, None, told.camera, told.plucker, told.actions)
    for sample in (flow_euler, chunk_flow_euler):
        with_it, without = (sample(spy, noise, c, flow_schedule(3), first=first, guidance=1) for c in (told, plain))
        assert torch.equal(with_it, without)
    (a, _), (b, _) = (streamed(spy, noise, c, (3, 2), first=first, guidance=1.0) for c in (told, plain))
    assert torch.equal(a, b)
    assert {len(call["latents"]) for call in spy.calls} == {B}


def test_guidance_zero_is_the_negative_prompt_and_equal_prompts_need_none():
    net = network("bidirectional")
    noise, first, told = clip(net)
    negative = Conditions(told.unconditional, None, told.camera, told.plucker, told.actions)
    same = Conditions(told.text, told.text, told.camera, told.plucker, told.actions)
    sigmas = flow_schedule(3)
    for guidance, given, plain in ((0.0, told, negative), (7.0, same, told)):
        guided = flow_euler(net, noise, given, sigmas, first=first, guidance=guidance)
        expected = flow_euler(net, noise, plain, sigmas, first=first)
        torch.testing.assert_close(guided, expected, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(flow_euler(net, noise, told, sigmas, first=first, guidance=7.0), expected, atol=1e-3)


def test_a_guided_stream_is_two_streams_whose_velocities_are_combined():
    """Each half keeps a memory of its own, of the same clean frames read with its own text."""
    net = network()
    noise, first, told = clip(net)
    sizes, scale, start = (2, 3), 3.0, 0
    out, states = streamed(net, noise, told, sizes, first=first, guidance=scale)
    halves = {"unconditional": net.initial_state(B), "text": net.initial_state(B)}
    for size, sigmas in zip(sizes, itertools.repeat(SHORT.tolist()), strict=False):
        here, fixed = told.frames(start, start + size), 1 if not start else 0
        x = noise[:, :, start : start + size].clone()
        x[:, :, :fixed] = first[:, :, :fixed]
        for s, following in itertools.pairwise(sigmas):
            times = [0.0] * fixed + [timestep(s)] * (size - fixed)
            v = {k: ask(net, x, times, here, getattr(here, k), state=halves[k], chunks=(size,)) for k in halves}
            u, c = v["unconditional"].velocity, v["text"].velocity
            x[:, :, fixed:] -= (s - following) * (u + scale * (c - u))[:, :, fixed:]
        zeros = [0.0] * size
        halves = {
            k: ask(net, x, zeros, here, getattr(here, k), state=halves[k], commit=True, chunks=(size,)).state
            for k in halves
        }
        torch.testing.assert_close(out[:, :, start : start + size], x, atol=1e-9, rtol=1e-9)
        start += size
    both = StreamState.cat(list(halves.values()))
    assert states[-1].frame.tolist() == both.frame.tolist() == [T] * 2 * B
    for ours, theirs in zip(states[-1].blocks, both.blocks, strict=True):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], atol=1e-9, rtol=1e-9)


# --- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_are_float32_whatever_the_network_is(dtype, device):
    net = network()
    noise, first, told = clip(net)
    net = net.to(device, dtype)
    noise, first = noise.float().to(device), first.float().to(device)
    text = torch.randn(1, 4, TEXT_DIM, device=device)
    told = Conditions(
        net.encode_text(text), net.encode_text(text[:, :2]), told.camera.float().to(device),
        told.plucker.float().to(device), told.actions.float().to(device),
    )  # fmt: skip
    for sample in (flow_euler, chunk_flow_euler):
        out = sample(net, noise, told, few_step_schedule(), first=first, guidance=2.0)
        assert out.dtype == torch.float32 and out.device == noise.device and out.isfinite().all()
        assert torch.equal(out[:, :, :1], first)
    for low in (noise, noise.bfloat16()):
        out, states = streamed(net, low, told, (3, 2), first=first, guidance=2.0)
        assert out.dtype == torch.float32 and out.isfinite().all()
        assert {t.device.type for t in states[-1].blocks[0].values()} == {device}


def test_a_network_without_text_is_sampled():
    net = network(text_dim=0)
    noise, first, told = clip(network())
    told = Conditions(camera=told.camera, plucker=told.plucker, actions=told.actions)
    assert flow_euler(net, noise, told, flow_schedule(2), first=first).shape == noise.shape
    with pytest.raises(ValueError, match=r"guidance 2.0 compares two texts, and conditions\.text is None"):
        flow_euler(net, noise, told, flow_schedule(2), guidance=2.0)


def test_progress_is_told_step_by_step():
    net = network()
    noise, first, told = clip(net)
    done = []
    flow_euler(net, noise, told, flow_schedule(3), progress=lambda *now: done.append(now))
    chunk_flow_euler(net, noise, told, flow_schedule(2), first=first, progress=lambda *now: done.append(now))
    assert done == [(1, 3), (2, 3), (3, 3)] + [(1, 3), (2, 3), (3, 3)]  # two chunks: 2 steps, and 1 after


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": torch.zeros(B, CHANNELS, *GRID)}, r"noise has shape \(2, 6, 2, 3\), expected \(B, C, T, h, w\)"),
        ({"first": torch.zeros(B, CHANNELS, 2, *GRID)}, r"first has shape \(2, 6, 2, 2, 3\), expected \(2, 6, 1, 2, 3"),
        ({"first": torch.zeros(1, CHANNELS, 1, *GRID)}, r"first has shape \(1, 6, 1, 2, 3\), expected \(2, 6, 1, 2, 3"),
        ({"sigmas": torch.tensor([1.0, 0.5])}, r"sigmas \[1.0, 0.5\]: expected .* that fall to 0"),
        ({"sigmas": torch.tensor([1.0, 0.5, 0.5, 0.0])}, "that fall to 0"),
        ({"sigmas": torch.tensor([0.0])}, "that fall to 0"),
        ({"sigmas": torch.zeros(2, 2)}, "that fall to 0"),
        ({"guidance": 5.0, "unconditional": None}, r"guidance 5.0 compares two texts, and conditions.unconditional is"),
        ({"text": 3}, "text is of 3 lanes, expected 2 as the noise has, or 1 for all"),
        ({"guidance": 5.0, "unconditional": 3}, "unconditional is of 3 lanes, expected 2"),
    ],
)  # fmt: skip
def test_wrong_inputs_say_what_was_expected(changes, message):
    net = network()
    noise, first, told = clip(net)
    changes = dict(changes)
    for name in ("text", "unconditional"):
        if isinstance(changes.get(name), int):
            changes[name] = net.encode_text(torch.zeros(changes[name], 4, TEXT_DIM, dtype=torch.float64))
    texts = {"text": told.text, "unconditional": told.unconditional}
    texts |= {name: changes.pop(name) for name in texts if name in changes}
    told = Conditions(**texts, camera=told.camera, plucker=told.plucker, actions=told.actions)
    given = {"noise": noise, "sigmas": flow_schedule(2), "first": first} | changes
    for sample in (flow_euler, chunk_flow_euler, lambda n, *args, **named: stream_chunk(n, None, *args, **named)):
        with pytest.raises(ValueError, match=message):
            sample(net, given["noise"], told, given["sigmas"], first=given["first"], guidance=given.get("guidance", 1))


@pytest.mark.parametrize("chunks", [(), (2, 2), (5, 0), (6,)])
def test_chunks_that_do_not_divide_the_clip_are_refused(chunks):
    net = network()
    noise, _, told = clip(net)
    with pytest.raises(ValueError, match="do not divide 5 frames"):
        chunk_flow_euler(net, noise, told, flow_schedule(2), chunks=chunks)


def test_a_stream_keeps_to_its_lanes_and_its_guidance():
    net = network()
    noise, first, told = clip(net)
    sigmas = few_step_schedule((1000, 0))
    state = stream_chunk(net, None, noise[:, :, :3], told.frames(0, 3), sigmas, first=first)[1]
    with pytest.raises(ValueError, match=r"state has 2 lanes, guidance 2 on 2 lanes needs 4 \(unconditional and cond"):
        stream_chunk(net, state, noise[:, :, 3:], told.frames(3, 5), sigmas, guidance=2.0)
    with pytest.raises(ValueError, match="state has 2 lanes, guidance 1 on 1 lanes needs 1: keep to one"):
        stream_chunk(net, state, noise[:1, :, 3:], Conditions(), sigmas)
    with pytest.raises(ValueError, match=r"noise of frames 0 to 2 has shape \(2, 6, 5, 2, 3\): expected 2 frames"):
        next(stream(net, lambda a, b: noise, told.frames, (2, 3), sigmas))
