"""SanaTransformer against diffusers' SanaWMTransformer3DModel with the same random weights."""

import random

import pytest
import torch

from sana_wm.models import sana_context, transformer
from sana_wm.models.sana_block import linear_of_linear
from sana_wm.models.transformer import SanaTransformer
from sana_wm.nn.ucpe import rays_of
from tests.models.sana_reference import inputs, reference, reference_module, run_reference

SMALL = {"grid": (3, 5), "window": 4}
CASES = {
    "small": ({}, {}),
    "gated delta only": ({"softmax_every_n": 0, "num_layers": 2}, {}),
    "softmax only": ({"softmax_every_n": 1, "num_layers": 2}, {}),
    "heads of 8": ({"hidden_size": 24, "linear_head_dim": 8, "num_attention_heads": 3}, {"grid": (4, 1)}),
    "text has other heads": ({"num_attention_heads": 4}, {"grid": (1, 6)}),
    "heads of 112": ({"hidden_size": 112, "linear_head_dim": 112, "num_attention_heads": 1, "num_layers": 2}, {}),
    "short convolution of 3": ({"conv_kernel_size": 3, "mlp_ratio": 1.75}, {}),
    "patches": ({"patch_size": (1, 2, 2), "num_layers": 2}, {"grid": (4, 6)}),
    "deep": ({"num_layers": 8, "softmax_every_n": 4, "hidden_size": 48}, {"grid": (2, 3)}),
}


def pair(tmp_path, dtype=torch.float64, settings=None, changes=None, seed=0):
    """The reference, and ours read from the folder that it saved."""
    net = reference(dtype, seed, **(settings or {}))
    net.save_pretrained(tmp_path)
    return net, SanaTransformer.from_pretrained(tmp_path, **(SMALL | (changes or {})))


@torch.no_grad()
def velocity(net, given, **changes):
    return net(**(given | changes)).velocity


def without(given, *names):
    return {name: value for name, value in given.items() if name not in names}


@pytest.mark.parametrize("lanes,frames", [(2, 5)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("parts", ["all", "no camera", "no plücker", "text only"])
def test_outputs_equal_the_reference_in_float64(tmp_path, case, parts, lanes, frames):
    theirs, ours = pair(tmp_path, settings=CASES[case][0], changes=CASES[case][1])
    dropped = {"all": (), "no camera": ("camera",), "no plücker": ("plucker",), "text only": ("camera", "plucker")}
    given = without(inputs(ours.config, lanes, frames), *dropped[parts])
    expected = run_reference(theirs, given)
    assert expected.std() > 0.1
    torch.testing.assert_close(velocity(ours, given), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("seed", range(16))
def test_outputs_equal_the_reference_for_networks_drawn_at_random(tmp_path, seed):
    draw = random.Random(seed)
    head_dim, heads, depth = draw.choice([8, 16, 24]), draw.randint(1, 3), draw.randint(1, 4)
    settings = {
        "linear_head_dim": head_dim, "hidden_size": head_dim * heads, "num_layers": depth, "num_attention_heads": heads,
        "softmax_every_n": draw.randint(0, 3), "in_channels": draw.randint(1, 5), 
        "mlp_ratio": draw.choice([1.5, 2, 3.25]),
        "conv_kernel_size": draw.randint(1, 5), "chunk_plucker_post_attn_blocks": draw.randint(-1, depth),
        "chunk_plucker_channels": 6 * draw.randint(1, 3),
    }  # fmt: skip
    theirs, ours = pair(
        tmp_path, settings=settings, changes={"grid": (draw.randint(1, 5), draw.randint(1, 5))}, seed=seed
    )
    frames, lanes = draw.randint(1, 7), draw.randint(1, 3)
    given = inputs(ours.config, lanes, frames, seed=seed)
    given = without(given, *draw.choice([(), (), ("camera",), ("plucker",)]))
    mask = torch.rand(lanes, frames) < 0.6 if draw.random() < 0.5 else None
    if mask is not None:
        mask[:, 0] = True
    expected = run_reference(theirs, given, frame_mask=mask)
    torch.testing.assert_close(velocity(ours, given, frame_mask=mask), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", ["small", "heads of 112", "deep"])
def test_outputs_equal_the_reference_in_float32(tmp_path, case):
    theirs, ours = pair(tmp_path, torch.float32, *CASES[case])
    given = inputs(ours.config, 2, 4, dtype=torch.float32)
    expected = run_reference(theirs, given)
    torch.testing.assert_close(velocity(ours, given), expected, atol=1e-5, rtol=1e-5)


def test_outputs_are_those_of_the_reference_as_published_up_to_its_rounding(tmp_path):
    """It rounds queries, keys and values of softmax attention to bfloat16, whatever the weights are."""
    theirs, ours = pair(tmp_path, torch.float32)
    given = inputs(ours.config, 2, 4, dtype=torch.float32)
    expected = run_reference(theirs, given, rounded=True)
    difference = (velocity(ours, given) - expected).abs().max() / expected.std()
    assert 1e-5 < difference < 2e-2


@pytest.mark.parametrize("reach", [0.0, 30.0])
@pytest.mark.parametrize("stabilise", ["rms_clamp+beta", "beta_only"])
def test_near_and_far_cameras_are_stabilised_either_way(tmp_path, monkeypatch, reach, stabilise):
    theirs, ours = pair(tmp_path, changes={"ucpe_stabilise": stabilise})
    given = inputs(ours.config, 2, 4, reach=reach)
    if stabilise == "beta_only":
        monkeypatch.setattr(reference_module(), "_downscale_to_reference_rms", lambda before, after: after)
    torch.testing.assert_close(velocity(ours, given), run_reference(theirs, given), atol=1e-9, rtol=1e-9)


def test_the_stabilisers_differ(tmp_path):
    _, ours = pair(tmp_path)
    other = SanaTransformer.from_pretrained(tmp_path, **SMALL, ucpe_stabilise="beta_only")
    given = inputs(ours.config, 1, 3)
    assert (velocity(ours, given) - velocity(other, given)).abs().max() > 1e-3


@pytest.mark.parametrize("parts", ["all", "text only"])
def test_a_frame_mask_dilutes_as_in_the_reference(tmp_path, parts):
    theirs, ours = pair(tmp_path, settings={"num_layers": 4})
    assert ours.config.frame_mask == "dilute"
    given = without(inputs(ours.config, 2, 5), *(() if parts == "all" else ("camera", "plucker")))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = run_reference(theirs, given, frame_mask=mask)
    torch.testing.assert_close(velocity(ours, given, frame_mask=mask), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("temporal", ["bidirectional", "chunk_causal"])
def test_an_excluding_frame_mask_is_as_if_the_padding_were_not_there(tmp_path, temporal):
    _, ours = pair(tmp_path, changes={"frame_mask": "exclude", "temporal": temporal, "chunk_size": 2})
    given = inputs(ours.config, 2, 5)
    alone = {name: value[:, :, :3] if name in ("latents", "plucker") else value for name, value in given.items()}
    alone |= {name: given[name][:, :3] for name in ("timestep", "camera")}
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
    padded = velocity(ours, given, frame_mask=mask)
    torch.testing.assert_close(padded[:, :, :3], velocity(ours, alone), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("frame_mask", ["exclude", "dilute"])
def test_what_is_in_padded_frames_changes_nothing(tmp_path, frame_mask):
    _, ours = pair(tmp_path, changes={"frame_mask": frame_mask})
    given, other = inputs(ours.config, 1, 5), inputs(ours.config, 1, 5, seed=7)
    mask = torch.tensor([[1, 0, 1, 1, 0]])
    mixed = dict(given)
    for name, axis in (("latents", 2), ("plucker", 2), ("timestep", 1), ("camera", 1)):
        mixed[name] = given[name].clone()
        mixed[name].index_copy_(axis, torch.tensor([1, 4]), other[name].index_select(axis, torch.tensor([1, 4])))
    keep = mask[0].bool()
    before, after = (velocity(ours, x, frame_mask=mask)[:, :, keep] for x in (given, mixed))
    assert torch.equal(before, after)


def test_logits_are_scaled_as_configured(tmp_path):
    """The reference pads camera heads of 112 to 128, main heads not; a scale of one's own changes the outputs."""
    _, ours = pair(tmp_path, settings=CASES["heads of 112"][0])
    assert ours.config.camera_scale == 128**-0.5 and ours.config.softmax_scale is None
    given = inputs(ours.config, 1, 3)
    for name, same in (("softmax_scale", 112**-0.5), ("camera_scale", 128**-0.5)):
        kept, changed = (
            SanaTransformer.from_pretrained(tmp_path, **SMALL, **{name: value}) for value in (same, 96**-0.5)
        )
        assert torch.equal(velocity(kept, given), velocity(ours, given))
        assert (velocity(changed, given) - velocity(ours, given)).abs().max() > 1e-4


def test_timesteps_lose_their_fraction_where_configured(tmp_path):
    _, ours = pair(tmp_path)
    exact_time = SanaTransformer.from_pretrained(tmp_path, **SMALL, integer_timesteps=False)
    given = inputs(ours.config, 1, 3)
    floor = given["timestep"].floor()
    assert torch.equal(velocity(ours, given), velocity(exact_time, given, timestep=floor))
    assert not torch.equal(velocity(exact_time, given), velocity(exact_time, given, timestep=floor))


def test_a_prompt_is_encoded_once(tmp_path):
    _, ours = pair(tmp_path)
    given = inputs(ours.config, 2, 3)
    with torch.no_grad():
        prompt = ours.encode_text(given["text"], given["text_mask"])
    assert torch.equal(velocity(ours, given), velocity(ours, without(given, "text_mask"), text=prompt))
    changed = given["text"].clone()
    changed[~given["text_mask"]] += 5
    assert torch.equal(velocity(ours, given), velocity(ours, given, text=changed))  # behind the mask


def test_geometry_stays_in_float32_in_a_bfloat16_network(tmp_path, monkeypatch):
    """Rounded to bfloat16, angles are off by 0.1 degree and far cameras by metres (spec 4.5)."""
    pair(tmp_path, torch.float32)
    rays = []
    monkeypatch.setattr(sana_context, "rays_of", lambda *args: rays.append(rays_of(*args)) or rays[-1])
    for dtype in (torch.float32, torch.bfloat16):
        ours = SanaTransformer.from_pretrained(tmp_path, **SMALL, dtype=dtype)
        out = velocity(ours, inputs(ours.config, 1, 3, dtype=torch.float32, reach=100.0))
        assert out.dtype == dtype and out.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(*rays, strict=True))


def test_nothing_complex_is_stored_so_that_casting_loses_no_imaginary_part(tmp_path):
    """Trap 22: rotations are made anew in every pass, in float32 at least."""
    _, ours = pair(tmp_path, torch.float32)
    assert not [name for name, t in (*ours.named_buffers(), *ours.named_parameters()) if t.is_complex()]
    rope = []
    context_of_pass = transformer.context_of_pass
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transformer, "context_of_pass", lambda *args: rope.append(context_of_pass(*args)) or rope[-1])
            ours = ours.to(dtype)
            velocity(ours, inputs(ours.config, 1, 3, dtype=torch.float32))
    assert torch.equal(rope[0].rope, rope[1].rope) and rope[0].rope.dtype == torch.complex64


@pytest.mark.parametrize("rows", [2, 200])
def test_two_linear_maps_in_a_row_are_the_product_of_their_weights(rows):
    first, second = torch.nn.Linear(7, 5).double(), torch.nn.Linear(5, 5).double()
    x, weights = torch.randn(rows, 7, dtype=torch.float64), [*first.parameters(), *second.parameters()]
    results = []
    for out in (linear_of_linear(x, first, second), second(first(x))):
        results.append((out, *torch.autograd.grad(out.square().sum(), weights)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
