"""The fast forms against the formulas of the SANA-WM spec, section 3, written out."""

import pytest
import torch

from sana_wm.nn import norm, temporal_conv
from sana_wm.nn.context import FrameContext
from sana_wm.nn.embeddings import rope_angles
from sana_wm.nn.gated_delta import GatedDeltaAttention, gated_delta
from sana_wm.nn.layout import frame_layout
from sana_wm.nn.temporal_conv import symmetric_short_conv

B, H, S, D = 2, 3, 5, 4
FORMS = ["sequential", "matrices", "parallel"]


def inputs(frames, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k, q_rot, k_rot, v = torch.randn(5, B, H, frames, S, D, generator=g, dtype=torch.float64)
    q, k = q.relu(), k.relu() * (D * S) ** -0.5
    k_rot = k_rot * (D * S) ** -0.5
    beta = torch.rand(B, H, frames, S, generator=g, dtype=torch.float64)
    log_decay = -torch.rand(B, H, frames, generator=g, dtype=torch.float64)
    memory = torch.randn(B, H, D, D, generator=g, dtype=torch.float64)
    normaliser = torch.randn(B, H, 1, D, generator=g, dtype=torch.float64)
    return (q, k, q_rot, k_rot, v, beta, log_decay), (memory, normaliser)


def matrix_form(x, state, chunks):
    """S_t = g S_(t-1) (I - K B K^T) + V B K^T and z, column convention; the future of each chunk from a zero state."""
    q, k, qr, kr, v, beta, log_decay = (part.transpose(-1, -2) if part.ndim == 5 else part for part in x)
    eye = torch.eye(D, dtype=torch.float64)

    def update(memory, normaliser, t):
        weights = torch.diag_embed(beta[:, :, t])
        g = log_decay[:, :, t].exp()[..., None, None]
        kt, krt = k[:, :, t], kr[:, :, t]
        memory = g * memory @ (eye - krt @ weights @ krt.mT) + v[:, :, t] @ weights @ krt.mT
        normaliser = g * (eye - kt @ weights @ kt.mT) @ normaliser + (kt @ beta[:, :, t, :, None])
        return memory, normaliser

    memory, normaliser = state[0], state[1].mT
    numerators, denominators = [], []
    start = 0
    for size in chunks:
        for t in range(start, start + size):
            memory, normaliser = update(memory, normaliser, t)
            numerators.append(memory @ qr[:, :, t])
            denominators.append(normaliser.mT @ q[:, :, t])
        back, back_normaliser = torch.zeros_like(memory), torch.zeros_like(normaliser)
        for t in range(start + size - 1, start - 1, -1):  # read before absorbing: exclusive of t
            numerators[t] = numerators[t] + back @ qr[:, :, t]
            denominators[t] = denominators[t] + back_normaliser.mT @ q[:, :, t]
            back, back_normaliser = update(back, back_normaliser, t)
        start += size
    out = torch.stack(numerators, 2) / (torch.stack(denominators, 2) + 1e-8)
    return out.mT, (memory, normaliser.mT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunks", [(1,) * 6, (2, 3, 1), (7,), (4, 3)])
def test_all_forms_equal_the_matrix_recurrence(form, chunks):
    x, state = inputs(sum(chunks))
    expected, final = matrix_form(x, state, chunks)
    out, new = gated_delta(*x, state, frame_layout(chunks), form=form)
    assert torch.allclose(out, expected, rtol=1e-9, atol=1e-9)
    assert torch.allclose(new[0], final[0], atol=1e-12) and torch.allclose(new[1], final[1], atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_readers_equal_a_stream_that_stops_at_them(form):
    layout = frame_layout((1, 1, 1), ((1, 0), (2, 2), (1, 3)))
    x, state = inputs(7)
    out, new = gated_delta(*x, state, layout, form=form)
    writers = [part[:, :, :3] for part in x]
    expected, final = gated_delta(*writers, state, frame_layout((1, 1, 1)), form="sequential")
    assert torch.allclose(out[:, :, :3], expected, atol=1e-9) and torch.allclose(new[0], final[0], atol=1e-12)
    for first, size, seen in ((3, 1, 0), (4, 2, 2), (6, 1, 3)):
        stream = state
        for t in range(seen):
            stream = gated_delta(*(part[:, :, t : t + 1] for part in x), stream, frame_layout((1,)))[1]
        reader = [part[:, :, first : first + size] for part in x]
        expected, untouched = gated_delta(*reader, stream, frame_layout((), ((size, 0),)), form="sequential")
        assert torch.allclose(out[:, :, first : first + size], expected, atol=1e-9)
        assert untouched[0] is stream[0]


@pytest.mark.parametrize("layout", [frame_layout((1,)), frame_layout((), ((1, 0),))])
def test_the_single_frame_form(layout):
    x, state = inputs(1)
    out, new = gated_delta(*x, state, layout, form="single")
    expected, final = gated_delta(*x, state, layout, form="sequential")
    assert torch.allclose(out, expected, atol=1e-10)
    assert torch.allclose(new[0], final[0], atol=1e-12) and torch.allclose(new[1], final[1], atol=1e-12)


def test_all_forms_have_the_same_gradients():
    layout, grads = frame_layout((1, 2), ((2, 1),)), []
    for form in FORMS:
        x, state = inputs(5)
        leaves = [part.clone().requires_grad_() for part in x]
        gated_delta(*leaves, state, layout, form=form)[0].square().mean().backward()
        grads.append([leaf.grad for leaf in leaves])
    for other in grads[1:]:
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(grads[0], other, strict=True))
    assert all(grad.abs().max() > 0 for grad in grads[0])


@pytest.mark.parametrize("chunks", [(1,) * 5, (3, 2)])
def test_short_conv_is_causal_plus_flipped_minus_centre(chunks):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(B, 5, S, D, generator=g, dtype=torch.float64)
    tail = torch.randn(B, 3, S, D, generator=g, dtype=torch.float64)
    weight = torch.randn(D, 4, generator=g, dtype=torch.float64)
    padded = torch.cat([tail, x], 1)
    causal = sum(weight[:, 3 - d] * padded[:, 3 - d : 8 - d] for d in range(4))
    expected, start = causal.clone(), 0
    for size in chunks:
        for t in range(start, start + size):
            for d in range(1, 4):
                if t + d < start + size:
                    expected[:, t] += weight[:, 3 - d] * x[:, t + d]
        start += size
    assert torch.allclose(symmetric_short_conv(x, weight, tail, frame_layout(chunks)), expected, atol=1e-12)


def test_the_key_scale_keeps_the_recurrence_contractive():
    """Diagnostic of the spec: with keys of unit RMS, K B K^T stays below the identity."""
    mixer = GatedDeltaAttention(32, 4)
    k = mixer.k_norm(torch.randn(1, 6, 7, 32)).relu().unflatten(-1, (4, 8)) * (8 * 7) ** -0.5
    largest = torch.linalg.matrix_norm(torch.einsum("bfshd,bfshe->bfhde", k, k), ord=2).max()
    assert largest < 1


@pytest.mark.parametrize("chunks", [(1,), (5,), (3, 2), (1, 1, 1, 1, 1)])
def test_without_a_tail_the_short_conv_is_that_after_zeros(monkeypatch, chunks):
    g = torch.Generator().manual_seed(1)
    frames = sum(chunks)
    x = torch.randn(B, frames, S, D, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(D, 4, generator=g, dtype=torch.float64, requires_grad=True)
    results = []
    for tail, few in ((torch.zeros(B, 3, S, D, dtype=torch.float64), 0), (None, 0), (None, 99)):
        monkeypatch.setattr(temporal_conv, "FEW_RUNS", few)
        out = symmetric_short_conv(x, weight, tail, frame_layout(chunks))
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, weight))))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


def test_norms_of_large_activations_are_norms(monkeypatch):
    layer = torch.nn.RMSNorm(6, eps=1e-2).double()
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    x[0, 0] = 0
    x.requires_grad_()
    results = []
    for large in (10**6, 0):
        monkeypatch.setattr(norm, "LARGE", large)
        out = norm.rms_norm(layer, x, torch.float64)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, layer.weight))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def mixer(camera=None) -> GatedDeltaAttention:
    torch.manual_seed(0)
    attn = GatedDeltaAttention(16, 2, camera=camera).double()
    for p in attn.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return attn.requires_grad_(False)


def context_of(chunks, repeat=1) -> FrameContext:
    """Of a grid of 2 x 3, every token ``repeat`` times."""
    frames = sum(chunks)
    angles = rope_angles(torch.arange(frames).expand(B, -1), 2, 3, 8)[:, None].repeat_interleave(repeat, dim=3)
    rope = torch.polar(torch.ones_like(angles), angles)
    return FrameContext(frame_layout(chunks), rope, torch.zeros(B, dtype=torch.int64), fresh=True)


@pytest.mark.parametrize("chunks", [(4,), (2, 2)])
def test_keys_are_scaled_by_the_tokens_that_a_frame_has(chunks):
    """Trap 3: with every token twice K B K^T stays what it was, and numerator and denominator grow alike."""
    attn, x = mixer(), torch.randn(B, 4, 6, 16, dtype=torch.float64)
    once = attn(x, attn.initial_state(B, 6, "cpu", torch.float64), context_of(chunks))
    twice = attn(x.repeat_interleave(2, dim=2), attn.initial_state(B, 12, "cpu", torch.float64), context_of(chunks, 2))
    torch.testing.assert_close(twice[0], once[0].repeat_interleave(2, dim=2), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(twice[1]["memory"], 2**0.5 * once[1]["memory"], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("camera", [None, "beta_only"])
def test_tails_hold_what_enters_the_convolution_before_any_norm(camera):
    """Trap 25: the keys as projected, or, where two branches need them, the inputs of both projections."""
    attn, x = mixer(camera), torch.randn(B, 5, 6, 16, dtype=torch.float64)
    _, new = attn(x, attn.initial_state(B, 6, "cpu", torch.float64), context_of((5,)))
    if camera:
        assert torch.equal(new["input_tail"], x[:, -3:]) and "key_tail" not in new
    else:
        assert torch.equal(new["key_tail"], attn.qkv(x).chunk(3, dim=-1)[1][:, -3:])
