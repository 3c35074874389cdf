import pytest
import torch
from torch.nn import functional as F

from sana_wm.nn import mix_ffn
from sana_wm.nn.layout import frame_layout
from sana_wm.nn.mix_ffn import depthwise_3x3


@pytest.mark.parametrize("grid", [(1, 1), (1, 3), (2, 2), (3, 4)])
def test_written_out_depthwise_equals_the_library(grid):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, *grid, 6, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, 3, 3, generator=g, dtype=torch.float64)
    bias = torch.randn(6, generator=g, dtype=torch.float64)
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=6).permute(0, 2, 3, 1)
    out = depthwise_3x3(x, weight, bias)
    assert torch.allclose(out, expected, atol=1e-12)
    gradients = [torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (out, expected)]
    assert torch.allclose(*gradients, atol=1e-11)


def test_inputs_too_large_for_one_convolution_are_split(monkeypatch):
    torch.manual_seed(0)
    ffn = mix_ffn.MixFFN(6, 2.0).double()
    torch.nn.init.normal_(ffn.temporal)
    x, state, layout = (
        torch.randn(2, 5, 15, 6).double(),
        ffn.initial_state(2, 15, "cpu", torch.float64),
        frame_layout((5,)),
    )
    whole, after = ffn(x, (3, 5), state, layout)
    monkeypatch.setattr(mix_ffn, "CONV_ELEMENTS", 2 * 24 * 15 * 2)  # two frames of both lanes
    sizes = []
    monkeypatch.setattr(ffn.depthwise, "forward", lambda u: sizes.append(len(u)) or F.conv2d(
        u, ffn.depthwise.weight, ffn.depthwise.bias, padding=1, groups=24))  # fmt: skip
    parts, after_parts = ffn(x, (3, 5), state, layout)
    assert sizes == [4, 4, 2]
    monkeypatch.setattr(mix_ffn, "CONV_ELEMENTS", 24 * 15)  # one frame of one lane
    assert torch.allclose(whole, ffn(x, (3, 5), state, layout)[0], atol=1e-12)
    assert sizes[3:] == [1] * 10
    assert torch.allclose(whole, parts, atol=1e-12) and torch.allclose(after["ffn_tail"], after_parts["ffn_tail"])


@pytest.mark.parametrize("fresh", [True, False])
def test_without_gradients_fewer_frames_are_worked_on_at_once(fresh, monkeypatch):
    torch.manual_seed(0)
    ffn = mix_ffn.MixFFN(6, 2.0).double().requires_grad_(False)
    torch.nn.init.normal_(ffn.temporal)
    x, state = torch.randn(2, 5, 15, 6).double(), ffn.initial_state(2, 15, "cpu", torch.float64)
    given = (x, (3, 5), state, frame_layout((5,)), None, fresh)
    expected, sizes = ffn(*given)[0], []
    monkeypatch.setattr(mix_ffn, "AT_ONCE", 3 * 24 * 15)
    ffn.depthwise.register_forward_hook(lambda _, given, out: sizes.append(len(out)))
    assert torch.equal(ffn(*given)[0], expected) and sizes == [10]  # gradients might be recorded: all at once
    with torch.no_grad():
        found = ffn(*given)[0]
    assert sizes == [10, 3, 3, 3, 1]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_whole_clip_is_a_chunk_after_nothing(frames):
    torch.manual_seed(0)
    ffn = mix_ffn.MixFFN(6, 2.0).double()
    torch.nn.init.normal_(ffn.temporal)
    x, state = torch.randn(2, frames, 15, 6).double(), ffn.initial_state(2, 15, "cpu", torch.float64)
    valid = torch.ones(2, frames, dtype=torch.bool)
    valid[1, -1] = frames == 1
    grads = []
    for fresh in (False, True):
        leaf = x.clone().requires_grad_()
        out, new = ffn(leaf, (3, 5), state, frame_layout((frames,)), valid, fresh)
        (gradient,) = torch.autograd.grad(out.square().sum(), leaf)
        grads.append((out, new["ffn_tail"], gradient))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)
