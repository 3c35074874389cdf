"""ReLU linear attention: one formula, written out, as sums, and as a stream; float64."""

import pytest
import torch

from sana_wm.nn import linear_attention as linear_attention_module
from sana_wm.nn.context import FrameContext
from sana_wm.nn.layout import chunks_of, frame_layout
from sana_wm.nn.linear_attention import LinearAttention, linear_attention, linear_attention_dense, visible

B, H, S, D = 2, 3, 5, 4
LAYOUTS = {
    "one frame": frame_layout((1,)),
    "a clip": frame_layout((6,)),
    "chunks": frame_layout((3, 2, 2)),
    "frame by frame": frame_layout((1,) * 5),
    "readers alone": frame_layout((), ((4, 0),)),
    "training": frame_layout((3, 2), ((3, 0), (2, 3), (2, 5))),
    "training after a context": frame_layout((2, 2), ((2, 2), (2, 4))),
}


def tensors(frames: int, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, H, frames, S, D, generator=g, dtype=torch.float64) for _ in range(3))
    angle = torch.randn(B, H, frames, S, D // 2, generator=g, dtype=torch.float64)
    turn = torch.polar(torch.ones_like(angle), angle)

    def rotate(x):
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)

    q, k = q.relu(), k.relu()
    return q, k, rotate(q), rotate(k), v


def blank():
    return torch.zeros(B, H, D, D, dtype=torch.float64), torch.zeros(B, H, 1, D, dtype=torch.float64)


def test_the_dense_form_is_the_formula_token_by_token():
    q, k, q_rot, k_rot, v = tensors(3)
    layout = frame_layout((1, 2))
    out = linear_attention_dense(q, k, q_rot, k_rot, v, visible(layout), eps=0.25)
    for f, s in [(0, 1), (1, 4), (2, 0)]:
        last = (0, 2, 2)[f]
        numerator, denominator = torch.zeros(D, dtype=torch.float64), 0.25
        for j in range(last + 1):
            for t in range(S):
                numerator = numerator + v[1, 2, j, t] * (k_rot[1, 2, j, t] @ q_rot[1, 2, f, s])
                denominator = denominator + k[1, 2, j, t] @ q[1, 2, f, s]
        torch.testing.assert_close(out[1, 2, f, s], numerator / denominator, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_sums_are_the_dense_form(name):
    layout = LAYOUTS[name]
    given = tensors(len(layout.offset))
    expected = linear_attention_dense(*given, visible(layout), eps=1e-8)
    for fresh in (True, False):
        out, state = linear_attention(*given, blank(), layout, 1e-8, fresh)
        torch.testing.assert_close(out, expected, atol=1e-9, rtol=1e-9)
        count = layout.num_writers
        _, k, _, k_rot, v = (x[:, :, :count].flatten(2, 3) for x in given)
        torch.testing.assert_close(state[0], v.mT @ k_rot, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(state[1], k.sum(2, keepdim=True), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("sizes", [(7,), (3, 4), (2, 2, 3), (1,) * 7])
def test_a_stream_is_the_whole_clip_chunk_after_chunk(sizes):
    given = tensors(sum(sizes))
    expected = linear_attention_dense(*given, visible(frame_layout(sizes)), eps=1e-8)
    state, start = blank(), 0
    for size in sizes:
        part = [x[:, :, start : start + size] for x in given]
        read, same = linear_attention(*part, state, frame_layout((), ((size, 0),)))
        assert same[0] is state[0] and same[1] is state[1]
        written, state = linear_attention(*part, state, frame_layout((size,)), fresh=start == 0)
        for out in (read, written):
            torch.testing.assert_close(out, expected[:, :, start : start + size], atol=1e-9, rtol=1e-9)
        start += size


@pytest.mark.parametrize("name", ["chunks", "training"])
def test_a_memory_is_seen_by_every_frame(name):
    layout, (before, now) = LAYOUTS[name], (tensors(2, 1), tensors(len(LAYOUTS[name].offset), 2))
    _, state = linear_attention(*before, blank(), frame_layout((2,)))
    out, _ = linear_attention(*now, state, layout)
    both = [torch.cat(pair, dim=2) for pair in zip(before, now, strict=True)]
    table = torch.ones(2 + len(layout.offset), 2 + len(layout.offset), dtype=torch.bool)
    table[2:, 2:] = visible(layout)
    expected = linear_attention_dense(*both, table)[:, :, 2:]
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("rope", [False, True])
def test_a_query_that_meets_no_key_reads_zero(rope):
    """All ReLU'd to zero: 0 / eps, not 0 / 0."""
    attn = LinearAttention(8, 2, False, rope).double()
    with torch.no_grad():
        attn.qkv.weight[:8] = -attn.qkv.weight[:8].abs()
        turn = torch.ones(1, 1, 2, 3, 2, dtype=torch.complex128)
        context = FrameContext(
            frame_layout((2,)), turn if rope else None, torch.zeros(1, dtype=torch.int64), fresh=True
        )
        x = torch.rand(1, 2, 3, 8, dtype=torch.float64)
        out, _ = attn(x, attn.initial_state(1, 3, "cpu", torch.float64), context)
    torch.testing.assert_close(out, attn.proj.bias.expand_as(out), atol=0, rtol=0)


def test_half_precision_stays_in_its_range():
    attn = LinearAttention(8, 2, False, False)
    with torch.no_grad():
        attn.qkv.weight.copy_(torch.ones_like(attn.qkv.weight))
        attn.proj.weight.fill_(6e4)
    attn = attn.half()
    context = FrameContext(frame_layout((1,)), None, torch.zeros(1, dtype=torch.int64), fresh=True)
    state = attn.initial_state(1, 3, "cpu", torch.float16)
    assert state["memory"].dtype == torch.float32
    out, _ = attn(torch.ones(1, 1, 3, 8, dtype=torch.float16), state, context)
    assert (out == torch.finfo(torch.float16).max).all()


def test_gradients_of_the_sums_are_those_of_the_dense_form():
    layout = LAYOUTS["training"]
    given = [x.requires_grad_() for x in tensors(len(layout.offset))]
    weight = torch.randn(given[0].shape, dtype=torch.float64)
    grads = [
        torch.autograd.grad((out * weight).sum(), given)
        for out in (linear_attention(*given, blank(), layout)[0], linear_attention_dense(*given, visible(layout)))
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("at_once", [1, 2 * B * S * 5 * D])  # one head, two and then one
@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("sizes", [(5,), (2, 3)])
def test_heads_that_are_mixed_in_parts_are_mixed_as_all_at_once(sizes, rope, at_once, monkeypatch):
    torch.manual_seed(0)
    attention = LinearAttention(H * D, H, qk_norm=rope, rope=rope).double().requires_grad_(False)
    x = torch.randn(B, 5, S, H * D, dtype=torch.float64)
    state = {name: torch.rand_like(part) for name, part in attention.initial_state(B, S, "cpu", x.dtype).items()}
    angle = torch.randn(B, 1, 5, S, D // 2, dtype=torch.float64)
    context = FrameContext(frame_layout(sizes), torch.polar(torch.ones_like(angle), angle), torch.zeros(B).long())
    expected, after = attention(x, state, context)  # where gradients are recorded all heads are mixed at once
    monkeypatch.setattr(linear_attention_module, "AT_ONCE", at_once)
    mixed, attend = [], LinearAttention._attend
    monkeypatch.setattr(LinearAttention, "_attend", lambda *a: mixed.append(a[1].shape[-1] // D) or attend(*a))
    with torch.no_grad():
        found, memory = attention(x, state, context)
    assert mixed == ([1, 1, 1] if at_once == 1 else [2, 1])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(memory, after, atol=1e-12, rtol=1e-12)


def test_the_state_does_not_grow_with_tokens():
    attn = LinearAttention(8, 2, True, True)
    sizes = [{n: t.shape for n, t in attn.initial_state(3, s, "cpu", torch.bfloat16).items()} for s in (4, 400)]
    assert sizes[0] == sizes[1] == {"memory": (3, 2, 4, 4), "normaliser": (3, 2, 1, 4)}


@pytest.mark.parametrize("frames,size,expected", [
    (81, 10, (11, *[10] * 7)), (21, 10, (11, 10)), (20, 10, (10, 10)), (9, 10, (9,)), (19, 10, (19,)), (0, 10, ()),
    (122, 3, (5, *[3] * 39)),
])  # fmt: skip
def test_what_fills_no_chunk_is_added_to_the_first(frames, size, expected):
    assert chunks_of(frames, size, remainder_first=True) == expected
