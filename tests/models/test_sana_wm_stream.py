"""SANA-WM in time: the stream against the whole clip, with cameras, Plücker rays, text, window and sink."""

import pytest
import torch

from sana_wm.models.presets import preset
from sana_wm.models.sana_context import context_of_pass
from sana_wm.models.transformer import CleanPast, SanaConfig, SanaTransformer
from sana_wm.nn import delta_rule
from sana_wm.nn.layout import chunks_of, frame_layout
from sana_wm.nn.state import StreamState
from tests.models.sana_reference import inputs, poses, reference, run_reference

B, T = 2, 6
PARTITIONS = [
    tuple(b - a for a, b in zip((0, *cuts), (*cuts, T), strict=True))
    for n in range(2 ** (T - 1))
    for cuts in [tuple(i + 1 for i in range(T - 1) if n >> i & 1)]
]
PER_FRAME = {"latents": 2, "plucker": 2, "timestep": 1, "camera": 1}


def network(**changes) -> SanaTransformer:
    """Random weights everywhere, nothing at zero, float64, a grid that is not square."""
    settings = {
        "in_channels": 3, "grid": (2, 3), "width": 32, "depth": 3, "heads": 2, "softmax_every": 2, "window": 2,
        "sink": 1, "text_dim": 5, "camera": True, "plucker_channels": 6, "gate_bias": True,
    } | changes  # fmt: skip
    torch.manual_seed(0)
    net = SanaTransformer(SanaConfig(**settings)).double().eval().requires_grad_(False)
    for p in net.parameters():
        noise = torch.randn_like(p)
        p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else p + 0.2 * noise)
    return net


def part(given: dict, begin: int, end: int) -> dict:
    """Frames ``begin`` to ``end`` of inputs."""
    return {n: x.narrow(PER_FRAME[n], begin, end - begin) if n in PER_FRAME else x for n, x in given.items()}


def streamed(net, given, sizes, clean=None):
    """Chunk by chunk -> velocities, states; the memory gets the frames themselves, or ``clean`` at t = 0."""
    given = dict(given)
    given["text"] = net.encode_text(given["text"], given.pop("text_mask"))
    state, outputs, states, start = net.initial_state(len(given["latents"])), [], [], 0
    for size in sizes:
        chunk = part(given, start, start + size)
        outputs.append(net(**chunk, state=state, chunks=(size,)).velocity)
        if clean is not None:
            chunk |= {"latents": clean[:, :, start : start + size], "timestep": torch.zeros(B, size)}
        state = net(**chunk, state=state, commit=True, chunks=(size,)).state
        states.append(state)
        start += size
    return torch.cat(outputs, 2), states


@pytest.mark.parametrize("sizes", PARTITIONS, ids=str)
def test_the_stream_equals_the_whole_clip_for_every_partition(sizes):
    net = network()
    given = inputs(net.config, B, T)
    stream, states = streamed(net, given, sizes)
    whole = net(**given, chunks=sizes, commit=True)
    torch.testing.assert_close(stream, whole.velocity, atol=1e-9, rtol=1e-9)
    assert states[-1].frame.tolist() == whole.state.frame.tolist() == [T] * B
    for here, there in zip(states[-1].blocks, whole.state.blocks, strict=True):
        assert all(torch.allclose(here[name], there[name], atol=1e-9, rtol=1e-9) for name in there)


@pytest.mark.parametrize("window,sink", [(0, 0), (0, 2), (1, 0), (3, 4), (9, 9), (4, 1)])
@pytest.mark.parametrize("changes", [{}, {"softmax_every": 1, "depth": 2}, {"grid": (2, 4), "patch_size": 2}], ids=str)
def test_it_does_for_every_window_and_sink(window, sink, changes):
    net = network(window=window, sink=sink, **changes)
    given = inputs(net.config, B, T)
    for sizes in ((1,) * T, (3, 2, 1)):
        stream, _ = streamed(net, given, sizes)
        torch.testing.assert_close(stream, net(**given, chunks=sizes).velocity, atol=1e-9, rtol=1e-9)


def test_the_first_chunk_has_one_frame_more_where_configured():
    net = network(chunk_size=2, first_chunk_plus_one=True)
    given = inputs(net.config, B, T)
    sizes = chunks_of(T, 2, first_chunk_plus_one=True)
    assert sizes == (3, 2, 1)
    whole = net(**given).velocity
    assert torch.equal(whole, net(**given, chunks=sizes).velocity)
    assert not torch.equal(whole, net(**given, chunks=(2, 2, 2)).velocity)
    state, start, outputs = net.initial_state(B), 0, []
    for size in sizes:  # the stream knows by itself whether it is at its start
        chunk = part(given, start, start + size)
        outputs.append(net(**chunk, state=state).velocity)
        state = net(**chunk, state=state, commit=True).state
        start += size
    torch.testing.assert_close(torch.cat(outputs, 2), whole, atol=1e-9, rtol=1e-9)
    with pytest.raises(ValueError, match="one chunk at a time: got 3 frames, chunks of 2"):
        net(**part(given, 0, 3), state=state)


@pytest.mark.parametrize("sizes", [(3, 2, 1), (1,) * T], ids=str)
def test_a_later_chunk_leaves_earlier_outputs_bit_identical(sizes):
    net = network()
    given, other = inputs(net.config, B, T), inputs(net.config, B, T, seed=5)
    before = net(**given, chunks=sizes).velocity
    for begin in (3, 5):
        changed = {
            n: torch.cat([x.narrow(d, 0, begin), other[n].narrow(d, begin, T - begin)], d)
            for n, x in given.items()
            if (d := PER_FRAME.get(n))
        }
        after = net(**(given | changed), chunks=sizes).velocity
        assert torch.equal(before[:, :, :begin], after[:, :, :begin])
        assert (before[:, :, begin:] - after[:, :, begin:]).abs().amin((0, 1, 3, 4)).min() > 0


def test_the_state_has_a_constant_size_and_holds_the_inputs_of_convolutions_once():
    net = network(window=2, sink=3, conv_kernel=4)
    given = inputs(net.config, B, T)
    _, states = streamed(net, given, (1,) * T)
    empty = net.initial_state(B)
    shapes = [[{n: tuple(t.shape) for n, t in b.items()} for b in state.blocks] for state in (empty, *states)]
    assert all(shape == shapes[0] for shape in shapes)
    tokens, width, heads, dim = 6, 32, 2, 16
    memory, tail = (B, heads, dim, dim), (B, 3, tokens, width)
    kept, ffn = (B, heads, 5, tokens, dim), {"ffn_tail": (B, 1, tokens, width)}
    assert shapes[0][0] == ffn | {
        "memory": memory, "camera_memory": memory, "normaliser": (B, heads, 1, dim), "input_tail": tail
    }  # fmt: skip
    assert shapes[0][1] == ffn | dict.fromkeys(("keys", "values", "camera_keys", "camera_values"), kept)


def test_the_state_of_a_720p_stream_has_the_size_of_the_specification():
    """Spec 6.2, in bfloat16 with recurrences in float32; the inputs of both key convolutions are stored once."""
    with torch.device("meta"):
        net = SanaTransformer(preset("sana-wm-streaming")).bfloat16()
        state = net.initial_state(1)
    size = sum(t.numel() * t.element_size() for block in state.blocks for t in block.values())
    recurrences, frame = 15 * (2 * 20 * 112 * 112 + 20 * 112) * 4, 880 * 2240 * 2
    assert size == recurrences + 15 * 3 * frame + 20 * frame + 5 * 4 * (4 + 3) * frame
    assert round(recurrences / 1e6, 1) == 30.2 and round(5 * 4 * 7 * frame / 1e6) == 552


@pytest.mark.parametrize("sizes", [(6,), (3, 2, 1)], ids=str)
def test_long_clips_take_the_sequential_form(monkeypatch, sizes):
    net = network()
    given = inputs(net.config, B, T)
    short = net(**given, chunks=sizes, commit=True)
    monkeypatch.setattr(delta_rule, "PARALLEL_TOKENS", 0)
    long = net(**given, chunks=sizes, commit=True)
    torch.testing.assert_close(short.velocity, long.velocity, atol=1e-9, rtol=1e-9)
    for a, b in zip(short.state.blocks, long.state.blocks, strict=True):
        assert all(torch.allclose(a[name], b[name], atol=1e-9, rtol=1e-9) for name in a)


def test_committing_mutates_nothing():
    net = network()
    given = inputs(net.config, B, T)
    _, states = streamed(net, given, (3, 1, 2))
    again, _ = streamed(net, given, (3, 1, 2))
    copy = states[0].map(torch.clone)
    net(**part(given, 3, 4), state=states[0], commit=True, chunks=(1,))
    assert all(torch.equal(a[n], b[n]) for a, b in zip(copy.blocks, states[0].blocks, strict=True) for n in a)
    assert torch.equal(again[:, :, 3:4], net(**part(given, 3, 4), state=states[0], chunks=(1,)).velocity)


def test_lanes_of_different_age_share_a_batch():
    """Positions, window, sink and convolution tails follow each lane's own age."""
    net = network(sink=2, window=2)
    given = inputs(net.config, B, T)
    _, states = streamed(net, given, (1,) * 5)
    young, old = states[0], states[4]
    mixed = StreamState.cat([young.map(lambda t: t[:1]), old.map(lambda t: t[1:])])
    new = part(given, 5, 6)
    alone = [net(**new, state=state, commit=True) for state in (young, old)]
    together = net(**new, state=mixed, commit=True)
    expected = torch.stack([alone[0].velocity[0], alone[1].velocity[1]])
    torch.testing.assert_close(together.velocity, expected, atol=1e-11, rtol=1e-11)
    for i, block in enumerate(together.state.blocks):
        for name, tensor in block.items():
            expected = torch.stack([alone[0].state.blocks[i][name][0], alone[1].state.blocks[i][name][1]])
            torch.testing.assert_close(tensor, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("changes", [{}, {"chunk_size": 2}, {"chunk_size": 2, "first_chunk_plus_one": True}], ids=str)
@pytest.mark.parametrize("context", [0, 3])
def test_two_stream_training_equals_denoising_in_a_stream(changes, context):
    net = network(**changes)
    noisy, clean = inputs(net.config, B, T), inputs(net.config, B, T, seed=2)["latents"]
    plus_one = net.config.first_chunk_plus_one
    head = chunks_of(context, net.config.chunk_size, plus_one)
    sizes = head + chunks_of(T - context, net.config.chunk_size, plus_one and not context)
    known = T - sizes[-1]
    past = CleanPast(clean[:, :, :known], None, None, noisy["camera"][:, :known], noisy["plucker"][:, :, :known])
    trained = net(**part(noisy, context, T), past=past).velocity
    stream, _ = streamed(net, noisy, sizes, clean=clean)
    torch.testing.assert_close(trained, stream[:, :, context:], atol=1e-9, rtol=1e-9)


def test_the_sink_is_remembered_when_the_window_has_passed():
    short, long = network(sink=0, window=1), network(sink=1, window=1)
    given = inputs(short.config, B, T)
    a, b = (streamed(net, given, (1,) * T)[0] for net in (short, long))
    assert ((a - b).abs().amax((0, 1, 3, 4)) > 1e-6).tolist() == [False, False] + [True] * 4


def test_a_window_without_bounds_is_a_long_one():
    given = inputs(network().config, B, T)
    endless, long = network(window=-1, sink=0, chunk_size=2), network(window=T, sink=0, chunk_size=2)
    torch.testing.assert_close(endless(**given).velocity, long(**given).velocity, atol=1e-12, rtol=1e-12)
    for begin in (lambda: endless.initial_state(B), lambda: endless(**given, commit=True)):
        with pytest.raises(ValueError, match="window=-1 keeps every frame.*window=3, sink=4"):
            begin()


def test_the_first_chunk_is_the_reference_on_it_alone(tmp_path):
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    ours = SanaTransformer.from_pretrained(tmp_path, preset="sana-wm-chunk-causal", grid=(3, 5), window=5, sink=2,
                                           ucpe_stabilise="rms_clamp+beta", softmax_scale=None)  # fmt: skip
    given = inputs(ours.config, B, T)
    with torch.no_grad():
        out = ours(**given).velocity[:, :, :4]
    torch.testing.assert_close(out, run_reference(theirs, part(given, 0, 4)), atol=1e-9, rtol=1e-9)


def test_positions_go_on_beyond_the_published_tables():
    """A window full of frames around 100,000 is read as one around 0 is: only differences of time count."""
    net = network(sink=0, window=3, softmax_every=1, depth=1)
    given, outputs = inputs(net.config, B, 5), []
    for age in (0, 100_000):
        empty = net.initial_state(B)
        state = net(**part(given, 0, 4), state=StreamState(empty.frame + age, empty.blocks), commit=True).state
        assert state.frame.tolist() == [age + 4] * B
        outputs.append(net(**part(given, 4, 5), state=state).velocity)
    torch.testing.assert_close(*outputs, atol=1e-9, rtol=1e-9)


def test_angles_at_frame_5000_are_those_of_the_reference_with_a_longer_table():
    """Absolute positions go on as a longer table would: the published ones end at 1024 latent frames (trap 24)."""
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    net, frames = network(width=112, heads=1), 3
    ages, (height, width) = torch.tensor([4999, 0, 1023]), net.config.token_grid
    context = context_of_pass(net.config, frame_layout((frames,)), ages, None, None, False, False, torch.float64)
    axes = torch.arange(5002), torch.arange(height), torch.arange(width)
    tables = [
        embeddings.get_1d_rotary_pos_embed(dim, places, 1e4, use_real=False, freqs_dtype=torch.float64)
        for dim, places in zip((40, 36, 36), axes, strict=True)
    ]
    for lane, age in enumerate(ages.tolist()):
        t = tables[0][age : age + frames, None, None].expand(-1, height, width, -1)
        h, w = (x.expand(frames, height, width, -1) for x in (tables[1][None, :, None], tables[2][None, None]))
        expected = torch.cat([t, h, w], dim=-1).flatten(1, 2)
        torch.testing.assert_close(context.rope[lane, 0], expected.to(torch.complex128), atol=1e-9, rtol=1e-9)


def test_moving_the_world_changes_nothing_that_softmax_cameras_see():
    net = network(softmax_every=1, ucpe_stabilise="beta_only")
    given = inputs(net.config, B, T, reach=2.0)
    world = poses(B, 1, 20.0, torch.Generator().manual_seed(3))
    c2w, lens = given["camera"][..., :16].unflatten(-1, (4, 4)), given["camera"][..., 16:]
    moved = torch.cat([(world @ c2w).flatten(-2), lens], dim=-1)
    turned = torch.cat([(c2w @ world).flatten(-2), lens], dim=-1)
    out = net(**given).velocity
    torch.testing.assert_close(net(**(given | {"camera": moved})).velocity, out, atol=1e-9, rtol=1e-9)
    assert (net(**(given | {"camera": turned})).velocity - out).abs().max() > 1e-3


def test_new_conditions_start_out_silent():
    """Text, cameras and Plücker rays added to a base change nothing until they are trained."""
    settings = {"in_channels": 3, "grid": (2, 3), "width": 32, "depth": 4, "heads": 2}
    base = SanaTransformer(SanaConfig(**settings))
    torch.nn.init.normal_(base.final_linear.weight)
    torch.manual_seed(3)
    more = SanaTransformer(SanaConfig(**settings, text_dim=5, camera=True, plucker_channels=6))
    assert set(more.load_state_dict(base.state_dict(), strict=False).unexpected_keys) == set()
    given = inputs(more.config, B, 3, dtype=torch.float32)
    with torch.no_grad():
        expected = base(given["latents"], given["timestep"]).velocity
        assert torch.equal(more(**given).velocity, expected)
        more.blocks[0].attn.camera.out_proj.weight.normal_()
        assert not torch.equal(more(**given).velocity, expected)


def test_the_camera_branch_starts_as_a_copy_of_the_main_one():
    attn = SanaTransformer(SanaConfig(width=32, heads=2, depth=1, camera=True)).blocks[0].attn
    copied = torch.cat([attn.camera.q_proj.weight, attn.camera.k_proj.weight, attn.camera.v_proj.weight])
    assert torch.equal(copied, attn.qkv.weight) and torch.equal(attn.camera.conv_k, attn.conv_k)


def test_silent_conditions_learn_from_the_first_step():
    net = SanaTransformer(SanaConfig(in_channels=3, grid=(2, 3), width=32, depth=4, heads=2, text_dim=5, camera=True,
                                     plucker_channels=6))  # fmt: skip
    torch.nn.init.normal_(net.final_linear.weight)
    net(**inputs(net.config, B, 3, dtype=torch.float32)).velocity.square().mean().backward()
    for block in net.blocks:
        for silent in (block.plucker_proj, block.text_attn.proj, block.attn.camera.out_proj):
            assert silent.weight.grad.any()


def test_gradients_reach_every_tensor_that_is_read():
    net = network().requires_grad_(True)
    net(**inputs(net.config, B, 3), chunks=(2, 1)).velocity.square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": None, "state": True}, r"a stream needs camera=\(B, T, 20\)"),
        ({"camera": None, "commit": True}, r"a stream needs camera=\(B, T, 20\)"),
        ({"camera": torch.zeros(B, 3, 16)}, r"camera has shape \(2, 3, 16\), expected \(2, 3, 20\)"),
        ({"plucker": torch.zeros(B, 6, 2, 2, 3)}, r"plucker has shape \(2, 6, 2, 2, 3\), expected \(2, 6, 3, 2, 3\)"),
        ({"text": None}, "got no text, but this transformer has text_dim=5"),
        ({"text": torch.zeros(B, 6, 4)}, r"text has shape \(2, 6, 4\), expected \(B, L, 5\)"),
        ({"text_mask": torch.ones(B, 2)}, r"text_mask has shape \(2, 2\), expected \(2, 6\)"),
        ({"chunks": (2, 2)}, r"chunks \(2, 2\) do not divide 3 frames"),
        ({"frame_mask": torch.ones(B, 2)}, r"frame_mask has shape \(2, 2\), expected \(2, 3\)"),
        ({"frame_mask": torch.ones(B, 3), "commit": True}, "frame_mask is for whole clips"),
    ],
)
def test_wrong_inputs_say_what_was_expected(changes, message):
    net = network()
    given = inputs(net.config, B, 3) | changes
    if given.get("state"):
        given["state"] = net.initial_state(B)
    with pytest.raises(ValueError, match=message):
        net(**given)


def test_what_a_network_was_not_built_for_is_refused():
    net = network(camera=False, plucker_channels=0, text_dim=0)
    given = inputs(network().config, B, 3)
    latents, timestep = given["latents"], given["timestep"]
    with pytest.raises(ValueError, match=r"got camera of shape \(2, 3, 20\), but this transformer was built without"):
        net(latents, timestep, camera=given["camera"])
    with pytest.raises(ValueError, match="got plucker of shape"):
        net(latents, timestep, plucker=given["plucker"])
    with pytest.raises(ValueError, match="got text, but this transformer has text_dim=0"):
        net(latents, timestep, given["text"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temporal": "causal"}, "temporal='causal': expected one of"),
        ({"ucpe_stabilise": "rms"}, "ucpe_stabilise='rms': expected one of"),
        ({"frame_mask": "drop"}, "frame_mask='drop': expected one of"),
        ({"heads": 8, "width": 96, "camera": True}, "head width 12: the camera branch needs a multiple of 8"),
        ({"text_heads": 3}, "width 256 must be a multiple of text_heads 3"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SanaConfig(**changes)
