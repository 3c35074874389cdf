"""Block-causal video (LongSANA, spec section 8): whole clips, training in two streams and the stream: one function."""

import pytest
import torch
from torch.nn import functional as F

from sana_wm.models.presets import preset
from sana_wm.models.transformer import CleanPast, SanaTransformer
from sana_wm.nn.layout import chunks_of, frame_layout
from sana_wm.nn.linear_attention import linear_attention_dense, visible
from sana_wm.nn.state import StreamState
from tests.models.family_reference import TOKENS, VIDEOS, inputs, reference, run_reference
from tests.models.tiny_sana_wm import randomised

GRID, CHUNK, T, LANES = (2, 6), 3, 8, 3
SIZES = chunks_of(T, CHUNK, remainder_first=True)  # 5, 3


def longsana(name: str = "longsana-2b-480p", **changes) -> SanaTransformer:
    """The member in miniature, float64."""
    sizes = {
        "in_channels": 3,
        "width": 24,
        "depth": 2,
        "heads": 3,
        "text_heads": 2,
        "text_dim": 10,
        "chunk_size": CHUNK,
    }
    torch.manual_seed(0)
    return randomised(SanaTransformer(preset(name, **sizes | changes)).double()).requires_grad_(False)


def parts(given: dict, sizes) -> list[dict]:
    """What is given, cut along time."""
    latents, cut = given["latents"][:, :, : sum(sizes)].split(sizes, dim=2), []
    for i, size in enumerate(sizes):
        start = sum(sizes[:i])
        times = given["timestep"]
        times = times[:, start : start + size] if times.ndim == 2 else times
        cut.append(given | {"latents": latents[i], "timestep": times})
    return cut


def streamed(net, given: dict, sizes) -> tuple[torch.Tensor, StreamState]:
    """Velocities of the chunks as they are committed, and the state after them."""
    state, velocities = net.initial_state(len(given["latents"]), GRID), []
    for size, part in zip(sizes, parts(given, sizes), strict=True):
        out = net(**part, state=state, commit=True, chunks=(size,))
        velocities.append(out.velocity)
        state = out.state
    return torch.cat(velocities, dim=2), state


class ChunkedConv(torch.nn.Module):
    """The temporal convolution of diffusers' network, chunk after chunk: one frame of the past, zeros as the future."""

    def __init__(self, conv, sizes):
        super().__init__()
        self.weight, self.sizes = conv.weight, sizes

    def forward(self, x):  # (B, C, T, S)
        out, before = [], torch.zeros_like(x[:, :, :1])
        for chunk in x.split(self.sizes, dim=2):
            padded = torch.cat([before, chunk, torch.zeros_like(before)], dim=2)
            out.append(F.conv2d(padded, self.weight))
            before = chunk[:, :, -1:]
        return torch.cat(out, dim=2)


class ChunkedAttention:
    """The linear attention of diffusers' network with all pairs of tokens, chunks causal."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __call__(self, attn, hidden_states, rotary_emb, **_):
        frames = sum(self.sizes)
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2).unflatten(2, (frames, -1)) for x in (q, k, v))
        cos, sin = (x[0, :, 0].unflatten(0, (frames, -1)) for x in rotary_emb)

        def rotate(x):
            pairs = x.unflatten(-1, (-1, 2))
            return x * cos + torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2) * sin

        q, k = q.relu(), k.relu()
        out = linear_attention_dense(q, k, rotate(q), rotate(k), v, visible(frame_layout(tuple(self.sizes))), 1e-15)
        return attn.to_out[0](out.flatten(2, 3).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("sizes", [SIZES, (1, 4, 2), (6,)])
def test_diffusers_with_chunks_put_into_it_gives_the_same(tmp_path, sizes):
    """It has no causal mode: attention becomes the masked formula, the convolution one that stops at chunks."""
    theirs = reference("video", **VIDEOS["patches"])
    theirs.save_pretrained(tmp_path)
    ours = SanaTransformer.from_pretrained(tmp_path, temporal="chunk_causal", chunk_size=CHUNK, grid=GRID)
    for block in theirs.transformer_blocks:
        block.attn1.set_processor(ChunkedAttention(sizes))
        block.ff.conv_temp = ChunkedConv(block.ff.conv_temp, sizes)
    given = inputs(ours, sum(sizes), GRID)
    expected = run_reference(theirs, given)
    with torch.no_grad():
        whole = ours(**given, chunks=sizes).velocity
        stream, _ = streamed(ours, given, sizes)
        together = ours(**given).velocity
    torch.testing.assert_close(whole, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(stream, expected, atol=1e-9, rtol=1e-9)
    assert (together - expected).abs().max() > 0.01


def test_a_stream_is_the_whole_clip_and_forgets_nothing_of_it():
    net = longsana()
    given = inputs(net, T, GRID) | {"timestep": 1000 * torch.rand(LANES, T)}
    whole = net(**given)
    stream, state = streamed(net, given, SIZES)
    torch.testing.assert_close(stream, whole.velocity, atol=1e-9, rtol=1e-9)
    assert state.frame.tolist() == [T] * LANES and whole.state.frame.tolist() == [0] * LANES
    at_once = net(**given, commit=True).state
    for one, other in zip(state.blocks, at_once.blocks, strict=True):
        assert set(one) == {"memory", "normaliser", "ffn_tail"}
        for name in one:
            torch.testing.assert_close(one[name], other[name], atol=1e-9, rtol=1e-9)


def test_the_first_block_takes_the_remainder_and_blocks_are_causal():
    net = longsana()
    assert net.config.chunks(T) == SIZES and net.config.chunks(T, from_start=False) == (3, 3, 2)
    given = inputs(net, T, GRID)
    assert torch.equal(net(**given).velocity, net(**given, chunks=SIZES).velocity)
    noise = torch.randn_like(given["latents"])
    for t, first in [(0, 0), (4, 0), (5, 5), (7, 5)]:
        changed = given["latents"].clone()
        changed[:, :, t] += noise[:, :, t]
        moved = (net(**given | {"latents": changed}).velocity - net(**given).velocity).abs().amax((0, 1, 3, 4))
        assert not moved[:first].any() and (moved[first:] > 1e-7).all(), t


def test_training_in_two_streams_is_the_stream_with_clean_memory():
    """Noisy blocks against clean ones before them: in one pass, and as the sampler does it, block after block: noisy
    passes leave no trace, and memory is written by a pass at time 0 over clean latents."""
    net = longsana()
    clean, noisy = inputs(net, T, GRID, seed=1), inputs(net, T, GRID, seed=2)
    noisy |= {"text": clean["text"], "timestep": 1000 * torch.rand(LANES, T)}
    clean["timestep"] = torch.zeros(LANES)
    past = CleanPast(clean["latents"][:, :, : T - CHUNK])
    together = net(**noisy, past=past).velocity
    state, velocities = net.initial_state(LANES, GRID), []
    for noisy_part, clean_part in zip(parts(noisy, SIZES), parts(clean, SIZES), strict=True):
        sizes = {"chunks": (noisy_part["latents"].shape[2],)}
        for _ in range(2):
            out = net(**noisy_part, state=state, **sizes)
        assert out.state is state
        velocities.append(out.velocity)
        state = net(**clean_part, state=state, commit=True).state
    torch.testing.assert_close(torch.cat(velocities, dim=2), together, atol=1e-9, rtol=1e-9)
    noisy_state = streamed(net, noisy, SIZES)[1]
    assert (noisy_state.blocks[1]["memory"] - state.blocks[1]["memory"]).abs().max() > 1e-3


@pytest.mark.parametrize("two_streams", [False, True])
def test_the_prompt_may_change_with_every_block(two_streams):
    net = longsana()
    g = torch.Generator().manual_seed(5)
    given = inputs(net, T, GRID)
    texts = torch.randn(LANES, len(SIZES), TOKENS, 10, generator=g, dtype=torch.float64)
    masks = torch.arange(TOKENS) < torch.randint(1, TOKENS + 1, (LANES, len(SIZES), 1), generator=g)
    state, velocities = net.initial_state(LANES, GRID), []
    for k, part in enumerate(parts(given, SIZES)):
        told = part | {"text": texts[:, k], "text_mask": masks[:, k]}
        out = net(**told, state=state, chunks=part["latents"].shape[2:3])
        velocities.append(out.velocity)
        # the memory of the second form is written at time 0
        told |= {"timestep": torch.zeros(LANES)} if two_streams else {}
        state = net(**told, state=state, commit=True).state
    past = {"past": CleanPast(given["latents"][:, :, : T - CHUNK])} if two_streams else {}
    whole = net(**given | {"text": texts, "text_mask": masks}, **past).velocity
    torch.testing.assert_close(torch.cat(velocities, dim=2), whole, atol=1e-9, rtol=1e-9)
    first = net(**given | {"text": texts[:, 0], "text_mask": masks[:, 0]}, **past).velocity
    torch.testing.assert_close(first[:, :, : SIZES[0]], whole[:, :, : SIZES[0]], atol=1e-9, rtol=1e-9)
    assert (first - whole)[:, :, SIZES[0] :].abs().max() > 1e-6
    with pytest.raises(ValueError, match="text has 2 prompts a lane, expected one for each of the 4 chunks"):
        net(**given | {"text": texts, "text_mask": masks}, chunks=(2, 2, 2, 2))


def test_lanes_of_different_ages_share_a_batch_and_a_state_is_a_value():
    net = longsana()
    given = inputs(net, T, GRID)
    _, young = streamed(net, given, (3,))
    _, old = streamed(net, given, (3, 4))
    kept = young.map(torch.clone)
    alone = [net(**given | {"latents": given["latents"][:, :, :2]}, state=s, commit=True) for s in (young, old)]
    doubled = {name: torch.cat([x, x]) for name, x in given.items()}
    both = net(**doubled | {"latents": doubled["latents"][:, :, :2]}, state=StreamState.cat([young, old]), commit=True)
    torch.testing.assert_close(both.velocity, torch.cat([out.velocity for out in alone]), atol=1e-12, rtol=0)
    assert both.state.frame.tolist() == [5] * LANES + [9] * LANES
    for before, after in zip(kept.blocks, young.blocks, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_thousand_blocks_take_the_bytes_of_the_first():
    net = longsana(depth=1, chunk_size=2, patch_size=1, grid=(1, 2), width=12, heads=2)
    given = inputs(net, 2, (1, 2), lanes=1)
    state, sizes = net.initial_state(1), set()
    for _ in range(1000):
        out = net(**given, state=state, commit=True)
        state = out.state
        sizes.add(sum(t.untyped_storage().nbytes() for block in state.blocks for t in block.values()))
    assert len(sizes) == 1 and state.frame.item() == 2000 and out.velocity.isfinite().all()


def test_frames_that_are_padding_are_as_if_absent():
    net = longsana()
    given = inputs(net, T, GRID)
    mask = torch.ones(LANES, T, dtype=torch.bool)
    mask[:, 6:] = False
    short = given | {"latents": given["latents"][:, :, :6]}
    masked = net(**given, frame_mask=mask, chunks=(3, 5)).velocity[:, :, :6]
    torch.testing.assert_close(masked, net(**short, chunks=(3, 3)).velocity, atol=1e-9, rtol=1e-9)


def test_positions_of_a_stream_are_absolute():
    """A stream that forgot how old it is gives something else."""
    net = longsana()
    given = inputs(net, 3, GRID)
    _, state = streamed(net, given, (3,))
    forgot = StreamState(torch.zeros_like(state.frame), state.blocks)
    now, wrong = (net(**given, state=s).velocity for s in (state, forgot))
    assert (now - wrong).abs().max() > 1e-5


def test_streaming_is_a_stream_too():
    """Gated delta and softmax without a convolution of the keys; the source clip beside the noisy one."""
    net = longsana("sana-streaming-2b", depth=4, chunk_size=3)
    assert not any("conv_k" in name for name in net.state_dict())
    given = inputs(net, T, GRID) | {"source": torch.randn(LANES, 3, T, *GRID, dtype=torch.float64)}
    whole = net(**given).velocity
    state, start, velocities = net.initial_state(LANES, GRID), 0, []
    for size in SIZES:
        part = given | {name: given[name][:, :, start : start + size] for name in ("latents", "source")}
        out = net(**part, state=state, commit=True)
        velocities.append(out.velocity)
        state, start = out.state, start + size
    torch.testing.assert_close(torch.cat(velocities, dim=2), whole, atol=1e-9, rtol=1e-9)
    assert set(state.blocks[0]) == {"memory", "normaliser", "ffn_tail"}
    assert state.blocks[3]["keys"].shape[2] == 5 + 3
    assert (net(**given | {"source": None}).velocity - whole).abs().max() > 1e-5
