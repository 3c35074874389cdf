"""Image and Sprint transformers against diffusers' SanaTransformer2DModel."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sana_wm.models.presets import preset
from sana_wm.models.transformer import SanaConfig, SanaTransformer
from sana_wm.nn.embeddings import sincos_positions
from tests.models.family_reference import IMAGES, inputs, reference, run_reference
from tests.models.tiny_sana_wm import randomised

GRIDS = [(6, 4), (4, 10), (2, 2)]


def pair(tmp_path, case: str, dtype: torch.dtype):
    theirs = reference("image", dtype, **IMAGES[case])
    theirs.save_pretrained(tmp_path)
    return theirs, SanaTransformer.from_pretrained(tmp_path)


def small(name: str, **changes) -> SanaTransformer:
    """A member of the family in miniature, float64."""
    sizes = {"in_channels": 3, "width": 24, "depth": 2, "heads": 3, "text_heads": 2, "text_dim": 10, "patch_size": 1}
    torch.manual_seed(0)
    return randomised(SanaTransformer(preset(name, **sizes | changes)).double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", IMAGES)
def test_the_velocity_is_that_of_diffusers(tmp_path, case, dtype):
    theirs, ours = pair(tmp_path, case, dtype)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-5}[dtype]
    if "sincos" in case and dtype == torch.float64:
        tolerance = 2e-6  # the reference computes the coordinates in float32
    for grid in GRIDS:
        given = inputs(ours, 1, grid, dtype)
        with torch.no_grad():
            out = ours(**given).velocity
        expected = run_reference(theirs, given)
        assert expected.std() > 0.1
        torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sana-1600m", "sana-1600m-4k", "sana1.5-1600m", "sana-sprint-600m"])
def test_every_input_has_an_effect_on_its_own_lane_and_padding_has_none(name):
    net = small(name)
    given = inputs(net, 1, (3, 5))
    before = net(**given).velocity
    for what in ("latents", "timestep", "text", "guidance"):
        if what in given:
            changed = given[what].clone()
            changed[1] += 1.5 if what != "text" else torch.randn(10, dtype=torch.float64)
            moved = (net(**given | {what: changed}).velocity - before).abs().amax((1, 2, 3, 4))
            assert moved[1] > 1e-6 and moved[0] == moved[2] == 0, what
    padding = given["text"].masked_fill(~given["text_mask"][..., None], 7.0)
    torch.testing.assert_close(net(**given | {"text": padding}).velocity, before, atol=1e-12, rtol=0)
    shorter = {"text": given["text"][1:2, :2], "text_mask": None} | {
        k: v[1:2] for k, v in given.items() if "text" not in k
    }
    torch.testing.assert_close(net(**shorter).velocity, before[1:2], atol=1e-12, rtol=0)


@torch.no_grad()
def test_published_code_drops_the_fraction_of_times_and_sprint_does_not():
    for name, same in (("sana-1600m", True), ("sana-sprint-600m", False)):
        net = small(name)
        given = inputs(net, 1, (2, 3))
        times = (torch.full((3,), 3.2), torch.full((3,), 3.7))
        one, other = (net(**given | {"timestep": t}).velocity for t in times)
        assert torch.equal(one, other) == same


@torch.no_grad()
def test_rows_and_columns_are_told_apart_by_sincos_positions():
    """With symmetric kernels in the convolution nothing else tells them apart."""
    for name, same in (("sana-1600m", True), ("sana-1600m-2k", False)):
        net = small(name, sample_size=4)
        for block in net.blocks:
            kernel = block.ffn.depthwise.weight
            kernel.copy_((kernel + kernel.mT) / 2)
        given = inputs(net, 1, (4, 4))
        turned = net(**given | {"latents": given["latents"].mT}).velocity.mT
        assert torch.allclose(turned, net(**given).velocity, atol=1e-10) == same


@pytest.mark.parametrize("grid,span", [((3, 5), 4.0), ((1, 7), 2.5)])
def test_sincos_positions_span_the_same_whatever_the_grid(grid, span):
    table = sincos_positions(grid, 8, span).unflatten(0, grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            x, y = column * span / grid[1], row * span / grid[0]
            waves = [math.sin, math.cos]
            expected = [wave(place * freq) for place in (x, y) for wave in waves for freq in (1.0, 0.01)]
            torch.testing.assert_close(
                table[row, column], torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0
            )
    assert sincos_positions((2, 2), 8, 1.0).dtype == torch.float64


@torch.no_grad()
@pytest.mark.parametrize("dtype,tolerance", [(torch.float16, 0.01), (torch.bfloat16, 0.08)], ids=str)
@pytest.mark.parametrize("name", ["sana1.5-1600m", "sana-1600m-4k", "sana-video-2b-480p"])
def test_half_precision_is_near(name, dtype, tolerance):
    net = small(name)
    given = inputs(net, 2 if "video" in name else 1, (4, 6))
    exact = net(**given).velocity
    given |= {key: given[key].to(dtype) for key in ("latents", "text")}
    out = net.to(dtype)(**given).velocity
    assert out.dtype == dtype and (out.double() - exact).abs().max() < tolerance * exact.std()


def test_a_new_network_predicts_zero_and_ignores_guidance():
    torch.manual_seed(0)
    sizes = {"in_channels": 3, "width": 24, "depth": 2, "heads": 3, "text_heads": 2, "text_dim": 10}
    net = SanaTransformer(preset("sana-sprint-600m", **sizes)).double()
    given = inputs(net, 1, (3, 2))
    assert not net(**given).velocity.any() and (net.text_embedder.norm.weight.float() == 0.01).all()
    torch.nn.init.normal_(net.final_linear.weight)
    with torch.no_grad():
        assert torch.equal(net(**given).velocity, net(**given | {"guidance": torch.ones(3)}).velocity)


def test_forward_derivatives_are_those_of_differences():
    """What sCM training takes of Sprint: along the latents and the time at once (spec section 6.4)."""
    net = small("sana-sprint-600m")
    given = inputs(net, 1, (3, 4))
    x, t = given.pop("latents"), given.pop("timestep").double()
    dx, dt = torch.randn_like(x), torch.rand_like(t)

    def velocity(x, t):
        return net(x, t, **given).velocity

    with sdpa_kernel(SDPBackend.MATH):
        out, tangent = torch.func.jvp(velocity, (x, t), (dx, dt))
    with torch.no_grad():
        step = 1e-3  # times are embedded in float32
        expected = (velocity(x + step * dx, t + step * dt) - velocity(x - step * dx, t - step * dt)) / (2 * step)
    assert torch.allclose(out, velocity(x, t), atol=1e-12)
    torch.testing.assert_close(tangent, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["sana-1600m", "sana-sprint-600m"])
def test_wrong_inputs_are_named(name):
    net = small(name, patch_size=2)
    given = inputs(net, 1, (4, 6))
    if name == "sana-1600m":
        with pytest.raises(ValueError, match=r"guidance has shape \(3,\), expected None"):
            net(**given, guidance=torch.ones(3))
    else:
        with pytest.raises(ValueError, match=r"guidance has shape None, expected \(3,\)"):
            net(**given | {"guidance": None})
    with pytest.raises(ValueError, match=r"latent grid \(3, 6\) is not divisible by patch_size 2"):
        net(**given | {"latents": torch.zeros(3, 3, 1, 3, 6).double()})
    with pytest.raises(ValueError, match=r"expected \(B, 3, T, H, W\)"):
        net(**given | {"latents": torch.zeros(3, 3, 4, 6).double()})
    with pytest.raises(ValueError, match="grid=None: this transformer takes latents of any size"):
        net.initial_state(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "linear"}, "mixer='linear': expected one of"),
        ({"positions": "learned"}, "positions='learned': expected one of"),
        ({"positions": "none"}, "others need mixer='relu' and softmax_every=0"),
        ({"mixer": "relu", "qk_norm": False}, "others need mixer='relu' and softmax_every=0"),
        ({"mixer": "relu", "softmax_every": 0, "positions": "sincos"}, "sample_size of at least"),
        ({"mixer": "relu", "softmax_every": 0, "camera": True}, "have no camera branch"),
        ({"camera": True, "conv_kernel": 0}, "need a convolution"),
    ],
)
def test_configurations_that_are_no_member_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SanaConfig(**changes)


@torch.no_grad()
def test_a_prompt_is_remembered_without_the_padding_of_all_lanes():
    net = small("sana-1600m")
    given = inputs(net, 1, (3, 5))
    mask = torch.zeros_like(given["text_mask"])
    mask[0, :2], mask[1:, 1:3] = True, True
    memory = net.encode_text(given["text"], mask)
    assert memory.mask.shape[1] == 3 and memory.blocks[0][0].shape[2] == 3
    torch.testing.assert_close(
        net(**given | {"text": memory, "text_mask": None}).velocity, net(**given | {"text_mask": mask}).velocity
    )
