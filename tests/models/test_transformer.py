import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import sana_wm
from sana_wm.models.transformer import CleanPast, SanaConfig, SanaTransformer
from sana_wm.nn.layout import chunks_of

B, T, C, A = 2, 7, 3, 2


def network(**changes) -> SanaTransformer:
    """Random weights everywhere (nothing at zero), float64, on a grid that is not square."""
    settings = (
        dict(in_channels=C, grid=(2, 3), width=24, depth=4, heads=2, action_dim=A, source=True, window=3) | changes
    )
    torch.manual_seed(0)
    net = SanaTransformer(SanaConfig(**settings)).double().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


def clip(frames=T, seed=1, channels=C, grid=(2, 3)):
    g = torch.Generator().manual_seed(seed)
    z, source = torch.randn(2, B, channels, frames, *grid, generator=g, dtype=torch.float64)
    actions = torch.randn(B, frames, A, generator=g, dtype=torch.float64)
    timestep = 1000 * torch.rand(B, frames, generator=g, dtype=torch.float64)
    return z, timestep, actions, source


@torch.no_grad()
def streamed(net, z, timestep, actions, source, sizes, commit_with=None):
    """Chunk by chunk; the memory gets the frames themselves, or ``commit_with`` at t = 0."""
    state, outputs, start = net.initial_state(len(z)), [], 0
    for size in sizes:
        part = slice(start, start + size)
        rest = {"actions": actions[:, part], "source": source[:, :, part]}
        outputs.append(net(z[:, :, part], timestep[:, part], **rest, state=state).velocity)
        clean, time = (z, timestep) if commit_with is None else (commit_with, torch.zeros_like(timestep))
        state = net(clean[:, :, part], time[:, part], **rest, state=state, commit=True).state
        start += size
    return torch.cat(outputs, 2), state


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("patch", [{}, {"patch_size": 2, "grid": (2, 4)}, {"softmax_every": 1}, {"softmax_every": 0}])
def test_the_stream_equals_the_full_sequence(chunk, patch):
    net = network(chunk_size=chunk, **patch)
    z, timestep, actions, source = clip(grid=net.config.grid)
    with torch.no_grad():
        full = net(z, timestep, actions=actions, source=source).velocity
    stream, state = streamed(net, z, timestep, actions, source, chunks_of(T, chunk))
    assert (stream - full).abs().max() < 1e-9
    assert state.frame.tolist() == [T] * B


@pytest.mark.parametrize("chunk", [1, 2])
def test_two_stream_training_equals_denoising_in_a_stream(chunk):
    net = network(chunk_size=chunk)
    clean, timestep, actions, source = clip()
    noisy = clip(seed=2)[0]
    sizes = chunks_of(T, chunk)
    known = T - sizes[-1]
    past = CleanPast(clean[:, :, :known], actions[:, :known], source[:, :, :known])
    with torch.no_grad():
        trained = net(noisy, timestep, actions=actions, source=source, past=past).velocity
    stream, _ = streamed(net, noisy, timestep, actions, source, sizes, commit_with=clean)
    assert (trained - stream).abs().max() < 1e-9


def test_a_context_frame_shifts_the_readers():
    net = network()
    clean, timestep, actions, source = clip()
    noisy = clip(seed=2)[0]
    past = CleanPast(clean[:, :, :-1], actions[:, :-1], source[:, :, :-1])
    rest = {"actions": actions[:, 1:], "source": source[:, :, 1:]}
    with torch.no_grad():
        out = net(noisy[:, :, 1:], timestep[:, 1:], **rest, past=past).velocity
    stream, _ = streamed(net, noisy, timestep, actions, source, (1,) * T, commit_with=clean)
    assert (out - stream[:, :, 1:]).abs().max() < 1e-9


@pytest.mark.parametrize("chunk", [1, 3])
def test_later_chunks_leave_earlier_outputs_bit_identical(chunk):
    net = network(chunk_size=chunk)
    z, timestep, actions, source = clip()
    changed = [part.clone() for part in (z, actions, source)]
    begin = 3  # a chunk border for both sizes
    changed[0][:, :, begin:] += 1
    changed[1][:, begin:] += 1
    changed[2][:, :, begin:] += 1
    with torch.no_grad():
        before = net(z, timestep, actions=actions, source=source).velocity
        after = net(changed[0], timestep, actions=changed[1], source=changed[2]).velocity
    assert torch.equal(before[:, :, :begin], after[:, :, :begin])
    assert not torch.equal(before[:, :, begin:], after[:, :, begin:])


def test_bidirectional_sees_the_future():
    net = network(temporal="bidirectional")
    z, timestep, actions, source = clip()
    later = z.clone()
    later[:, :, -1] += 1
    with torch.no_grad():
        change = (
            net(z, timestep, actions=actions, source=source).velocity
            - net(later, timestep, actions=actions, source=source).velocity
        )
    assert change[:, :, 0].abs().max() > 1e-6


def test_state_has_constant_size_is_never_mutated_and_lanes_are_independent():
    net = network()
    z, timestep, actions, source = clip(frames=20)
    first = streamed(net, z[:, :, :4], timestep, actions, source, (1,) * 4)[1]
    copies = [{k: v.clone() for k, v in block.items()} for block in first.blocks]
    rest = {"actions": actions[:, :1], "source": source[:, :, :1]}
    with torch.no_grad():
        out = net(z[:, :, :1], timestep[:, :1], **rest, state=first, commit=True)
        one = net(z[:1, :, :1], timestep[:1, :1], actions=actions[:1, :1], source=source[:1, :, :1],
                  state=first.map(lambda t: t[:1]), commit=True)  # fmt: skip
    assert all(torch.equal(a[k], b[k]) for a, b in zip(copies, first.blocks, strict=True) for k in a)
    assert (one.velocity - out.velocity[:1]).abs().max() < 1e-12
    late = streamed(net, z, timestep, actions, source, (1,) * 20)[1]
    assert [{k: v.shape for k, v in b.items()} for b in late.blocks] == [
        {k: v.shape for k, v in b.items()} for b in first.blocks
    ]


def test_lanes_of_different_age_share_a_batch():
    """Positions and window masks follow each lane's own frame index."""
    net = network()
    z, timestep, actions, source = clip()
    young = streamed(net, z[:, :, :1], timestep, actions, source, (1,))[1]
    old = streamed(net, z[:, :, :5], timestep, actions, source, (1,) * 5)[1]
    mixed = type(old).cat([young.map(lambda t: t[:1]), old.map(lambda t: t[1:])])
    rest = {"actions": actions[:, 5:6], "source": source[:, :, 5:6]}
    with torch.no_grad():
        alone = [net(z[:, :, 5:6], timestep[:, 5:6], **rest, state=s).velocity for s in (young, old)]
        together = net(z[:, :, 5:6], timestep[:, 5:6], **rest, state=mixed).velocity
    assert (together - torch.stack([alone[0][0], alone[1][1]])).abs().max() < 1e-12


def test_positions_have_no_table_to_run_out_of():
    """A stream that starts at frame 5,000 gives what one at frame 0 gives: only relative time counts (gated delta)."""
    net = network(softmax_every=0)
    z, timestep, actions, source = clip(frames=4)
    here = net.initial_state(B)
    there = type(here)(here.frame + 5000, here.blocks)
    rest = {"actions": actions, "source": source, "commit": True}
    with torch.no_grad():
        near = net(z, timestep, **rest, state=here)
        far = net(z, timestep, **rest, state=there)
    assert (near.velocity - far.velocity).abs().max() < 1e-8
    assert far.state.frame.tolist() == [5004] * B


def test_actions_start_out_without_effect_and_reach_only_later_frames():
    torch.manual_seed(0)
    net = SanaTransformer(SanaConfig(in_channels=C, grid=(2, 3), width=24, depth=4, heads=2, action_dim=A)).double()
    torch.nn.init.normal_(net.final_linear.weight)
    z, timestep, actions, _ = clip()
    with torch.no_grad():
        assert torch.equal(
            net(z, timestep, actions=actions).velocity, net(z, timestep, actions=torch.zeros_like(actions)).velocity
        )
    net = network(source=False)
    other = actions.clone()
    other[:, 4] += 1
    with torch.no_grad():
        change = (net(z, timestep, actions=actions).velocity - net(z, timestep, actions=other).velocity).abs()
    change = change.amax((0, 1, 3, 4))
    assert (change[:4] == 0).all() and (change[4:] > 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, z, t, a: net(z[:, :2], t, actions=a), r"latents have shape \(2, 2, 7, 2, 3\), expected \(B, 3"),
        (lambda net, z, t, a: net(z, t), r"actions have shape None, expected \(2, 7, 2\)"),
        (lambda net, z, t, a: net(z, t, actions=a[:, :3]), r"actions have shape \(2, 3, 2\)"),
        (lambda net, z, t, a: net(z, t, actions=a, state=net.initial_state(B)), "one chunk at a time"),
    ],
)
def test_wrong_shapes_say_what_was_expected(call, message):
    z, timestep, actions, _ = clip()
    with pytest.raises(ValueError, match=message):
        call(network(), z, timestep, actions)


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="widht"):
        SanaConfig.from_dict({"widht": 3})
    config = SanaConfig(grid=(4, 2), width=48)
    assert SanaConfig.from_dict(config.to_dict()) == config


def test_the_tensors_of_a_robot_world_keep_their_names_and_shapes():
    """Bundles that exist were saved with these."""
    config = SanaConfig(in_channels=3, grid=(4, 4), patch_size=4, width=16, depth=2, softmax_every=2, heads=2,
                        action_dim=2, source=True)  # fmt: skip
    shared = {
        "scale_shift_table": (6, 16), "action_proj.weight": (16, 16), "action_proj.bias": (16,),
        "attn.qkv.weight": (48, 16), "attn.q_norm.weight": (16,), "attn.k_norm.weight": (16,),
        "attn.output_gate.weight": (16, 16), "attn.output_gate.bias": (16,), "attn.proj.weight": (16, 16),
        "attn.proj.bias": (16,), "ffn.temporal": (3, 16, 16), "ffn.inverted.weight": (96, 16),
        "ffn.inverted.bias": (96,), "ffn.depthwise.weight": (96, 1, 3, 3), "ffn.depthwise.bias": (96,),
        "ffn.point.weight": (16, 48),
    }  # fmt: skip
    gated_delta = {
        "attn.conv_k": (16, 4), "attn.A_log": (2,), "attn.dt_bias": (2,), "attn.beta_proj.weight": (2, 16),
        "attn.beta_proj.bias": (2,), "attn.gate_proj.weight": (2, 16),
    }  # fmt: skip
    expected = {
        "final_table": (2, 16), "x_embedder.weight": (16, 96), "x_embedder.bias": (16,),
        "t_embedder.linear_1.weight": (16, 256), "t_embedder.linear_1.bias": (16,),
        "t_embedder.linear_2.weight": (16, 16), "t_embedder.linear_2.bias": (16,), "t_block.weight": (96, 16),
        "t_block.bias": (96,), "action_embedder.linear_1.weight": (16, 18), "action_embedder.linear_1.bias": (16,),
        "action_embedder.linear_2.weight": (16, 16), "action_embedder.linear_2.bias": (16,),
        "action_time_proj.weight": (16, 16), "action_time_proj.bias": (16,), "final_linear.weight": (48, 16),
        "final_linear.bias": (48,),
        **{f"blocks.0.{name}": shape for name, shape in (shared | gated_delta).items()},
        **{f"blocks.1.{name}": shape for name, shape in shared.items()},
    }  # fmt: skip
    assert {name: tuple(t.shape) for name, t in SanaTransformer(config).state_dict().items()} == expected


def test_the_random_weights_of_a_robot_world_are_drawn_in_the_order_they_were():
    """A seed means the same network as before: the last draws depend on all that came before them."""
    torch.manual_seed(0)
    net = SanaTransformer(SanaConfig(in_channels=3, width=16, depth=4, heads=2, action_dim=2))
    drawn = [net.blocks[3].ffn.point.weight[0, 0].item(), net.t_block.weight[5, 3].item(), torch.rand(1).item()]
    assert drawn == pytest.approx([0.0547550, 0.0060117, 0.2577364], abs=1e-6)


def test_the_shipped_world_s_transformer_fits():
    folder = Path(sana_wm.__file__).parent / "worlds" / "pusht-64"
    settings = json.loads((folder / "config.json").read_text())["transformer"]
    with torch.device("meta"):
        wanted = SanaTransformer(SanaConfig.from_dict(settings)).state_dict()
    with safe_open(folder / "transformer.safetensors", "pt") as saved:
        assert {n: tuple(saved.get_slice(n).get_shape()) for n in saved.keys()} == {
            n: tuple(t.shape) for n, t in wanted.items()
        }
