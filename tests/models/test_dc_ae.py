"""The DC-AE held to diffusers' AutoencoderDC on random weights: every block, every variant, whole and by tiles."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sana_wm.models import dc_ae_resample
from sana_wm.models.dc_ae import DCAE, DCAE_PRESETS, DCAEConfig, UpBlock, dcae_preset
from sana_wm.models.dc_ae_blocks import ChannelRMSNorm, normed, relu_attention
from sana_wm.models.dc_ae_resample import unshuffled_mean
from sana_wm.nn import norm as norm_module
from sana_wm.nn import widened
from tests.models.dc_ae_reference import VARIANTS, close, pair, small


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(2, 4, 12), (1, 40, 36)])  # few positions: quadratic attention; many: linear
def test_parity_with_diffusers_on_random_weights(variant, shape):
    reference, ours = pair(VARIANTS[variant])
    images = torch.randn(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        latents = reference.encode(images).latent
        close(ours.encode(images), latents)
        close(ours.decode(latents), reference.decode(latents).sample)
    close(ours.encode(images).detach(), latents)  # the path that records gradients overwrites nothing
    close(ours.decode(latents).detach(), reference.decode(latents).sample.detach())


# Of the others, the gradients through a head whose scores all but vanish amplify rounding.
@pytest.mark.parametrize("variant", ["sana", "in", "batch norm everywhere", "two scales", "no shortcuts", "lite"])
def test_gradients_are_those_of_diffusers(variant):
    reference, ours = pair(VARIANTS[variant])
    reference.train(), ours.train()  # batch norms with the statistics of the batch
    images = torch.randn(2, 3, 12, 20)
    for model in (reference, ours):
        x = images.clone().requires_grad_()
        out = model.decode(model.encode(x).latent).sample if model is reference else model.decode(model.encode(x))
        out.square().mean().backward()
        model.input_gradient = x.grad
    close(ours.input_gradient, reference.input_gradient)
    theirs = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        close(parameter.grad, theirs[name].grad)


@pytest.mark.parametrize(("name", "count"), [
    ("f32c32-sana-1.0", 312_250_275), ("f32c32-sana-1.1", 312_250_275), ("f32c32-in", 323_356_460),
    ("f32c32-mix", 323_356_460), ("f64c128-in", 676_896_140), ("f64c128-mix", 676_896_140),
    ("f128c512-in", 1_120_682_252), ("lite-f32c32-sana-1.1", 421_181_228),
])  # fmt: skip
def test_published_networks_have_the_published_sizes(name, count):
    config = DCAE_PRESETS[name]
    with torch.device("meta"):
        model = DCAE(config)
    assert sum(p.numel() for p in model.parameters()) == count
    fold = int(name.removeprefix("lite-")[1:].partition("c")[0])
    assert model.config.compression == fold
    with torch.no_grad():
        assert model.decode(model.encode(torch.zeros(1, 3, 2 * fold, fold, device="meta"))).shape[2:] == (
            2 * fold,
            fold,
        )


@pytest.mark.parametrize("name", DCAE_PRESETS)
def test_presets_are_known_by_their_published_names(name):
    full = f"mit-han-lab/dc-ae-{name}{'' if 'sana' in name else '-1.0'}-diffusers"
    assert dcae_preset(full) == dcae_preset(name) == DCAE_PRESETS[name]


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="known: f32c32-sana-1.0"):
        dcae_preset("f8c4")


@pytest.mark.parametrize("shape", [(1, 6, 5, 7), (3, 6, 2, 1)])
@pytest.mark.parametrize("out_channels", [3, 6, 12, 9])  # the shortcut repeats channels 2, 4, 8 and 6 times
def test_phases_of_an_interpolation_are_the_interpolation(shape, out_channels, monkeypatch):
    torch.manual_seed(0)
    block, x = UpBlock(6, out_channels, "interpolate").double(), torch.randn(shape, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0), block.conv.weight, block.conv.bias, padding=1)
    expected = expected + F.pixel_shuffle(x.repeat_interleave(block.repeats, dim=1), 2)
    for pay in (0, 10**9):
        monkeypatch.setattr(dc_ae_resample, "PHASES_PAY", pay)
        assert torch.allclose(block(x), expected, atol=1e-6)  # kernels are summed in float32
        with torch.no_grad():
            assert torch.allclose(block(x), expected, atol=1e-6)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 8, 12])
def test_shortcut_averages_runs_of_unshuffled_channels(group):
    x = torch.randn(2, 6, 4, 10)
    expected = F.pixel_unshuffle(x, 2).unflatten(1, (-1, group)).mean(dim=2)
    assert torch.allclose(unshuffled_mean(x, group), expected, atol=1e-6)


def test_both_forms_of_attention_are_one_function():
    q, k, v = torch.randn(3, 2, 3, 11, 5, dtype=torch.float64).float()
    assert torch.allclose(relu_attention(q, k, v, True, 1e-15), relu_attention(q, k, v, False, 1e-15), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["sana", "in"])
def test_low_precision_stays_close_to_float32(dtype, variant):
    _, ours = pair(VARIANTS[variant])
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        latents = ours.encode(images)
        decoded = ours.decode(latents)
        ours.to(dtype)
        low = ours.encode(images.to(dtype))
        assert low.dtype == dtype
        assert (low.float() - latents).std() < 0.02 * latents.std()
        assert (ours.decode(latents.to(dtype)).float() - decoded).std() < 0.02 * decoded.std()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_norm_by_parts_is_the_norm_of_the_whole(dtype, channels_last, monkeypatch):
    torch.manual_seed(0)
    norm = ChannelRMSNorm(6).to(dtype)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x, plus = torch.randn(2, 3, 6, 7, 5).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    expected = norm(x).detach(), (norm(x) + plus).detach()
    for cached in (2**16, 2 * 6 * 5 * 3, 1):  # at once, three rows, one row
        monkeypatch.setattr(norm_module, "CACHED", cached)
        with torch.no_grad():
            made = normed(norm, x.clone()), normed(norm, x.clone(), plus)
        for one, wanted in zip(made, expected, strict=True):
            assert one.dtype == dtype
            # in bfloat16 the whole is rounded before the sum, the parts after it: half a unit of at most 16
            torch.testing.assert_close(one, wanted, rtol=1e-6, atol=2**-5 if dtype == torch.bfloat16 else 1e-6)


class _Widest(TorchDispatchMode):
    """Elements of the largest float32 tensor that anything makes within it."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float32:
            self.found = max(self.found, made.numel())
        return made


@pytest.mark.parametrize("instructions", [True, False])
def test_in_bfloat16_nothing_as_large_as_the_picture_is_wide(instructions, monkeypatch):
    monkeypatch.setattr(widened, "multiplies_bfloat16", lambda: instructions)
    monkeypatch.setattr(widened, "PART", 2**10)
    monkeypatch.setattr(norm_module, "CACHED", 2**10)
    layers = {"encoder_layers": (1, 1), "decoder_layers": (2, 1), "multiscales": ((), ())}
    config = DCAEConfig(latent_channels=4, widths=(16, 16), block_types=("res", "res"), head_dim=8, **layers)
    network = DCAE(config).requires_grad_(False).eval().bfloat16()
    picture, latents = torch.rand(1, 3, 64, 96).bfloat16(), torch.randn(1, 4, 32, 48).bfloat16()
    with torch.no_grad(), _Widest() as widest:
        assert network.decode(latents).shape == picture.shape
        network.encode(picture)
    assert 0 < widest.found < network.config.widths[0] * 64 * 96 / 8


def test_linear_attention_sums_in_float32():
    # 4096 equal keys: a sum in bfloat16 would stop at 256, one in float16 would overflow
    q = k = torch.full((1, 1, 4096, 8), 5.0)
    v = torch.arange(4096.0).view(1, 1, -1, 1).expand(1, 1, 4096, 8) / 4096
    for dtype in (torch.bfloat16, torch.float16):
        out = relu_attention(q.to(dtype), k.to(dtype), v.to(dtype), False, 1e-15)
        assert out.dtype == torch.float32
        assert torch.allclose(out, torch.full_like(out, v.mean().item()), atol=2e-3)


def test_inputs_and_outputs_of_blocks_are_left_alone():
    _, ours = pair(VARIANTS["sana"])
    images, latents = torch.randn(1, 3, 12, 20), torch.randn(1, 4, 3, 5)
    for channels_last in (False, True):
        if channels_last:
            images, latents = (x.contiguous(memory_format=torch.channels_last) for x in (images, latents))
        before = images.clone(), latents.clone()
        with torch.no_grad():
            ours.encode(images), ours.decode(latents)
        assert torch.equal(images, before[0]) and torch.equal(latents, before[1])


def test_a_later_stage_without_blocks_keeps_its_change_of_resolution():
    model = DCAE(DCAEConfig(3, 4, 8, (8, 8, 16, 32), (0, 0, 1, 1), (0, 0, 1, 1), ("res",) * 3 + ("vit",), ((),) * 4))
    assert model.encode(torch.randn(1, 3, 24, 16)).shape == (1, 4, 3, 2)
    assert model.decode(torch.randn(1, 4, 3, 2)).shape == (1, 3, 24, 16)


def test_shapes_that_do_not_fit_are_refused():
    model = DCAE(small())
    with pytest.raises(ValueError, match="multiples of 4"):
        model.encode(torch.zeros(1, 3, 10, 8))
    with pytest.raises(ValueError, match=r"expected \(B, 4, h, w\)"):
        model.decode(torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize(("settings", "message"), [
    ({"widths": (8, 16)}, "every stage needs one entry"),
    ({"decoder_norms": ("rms", "batch")}, "every stage needs one entry"),
    ({"downsample": "stride"}, "'conv' or 'pixel_unshuffle'"),
    ({"block_types": ("res", "res", "mlp")}, "block_types='mlp'"),
    ({"decoder_norms": "layer"}, "'rms' or 'batch'"),
    ({"out_activation": "gelu"}, "'relu' or 'silu'"),
    ({"widths": (8, 12, 32)}, "4 x 12 channels are no multiple of 32"),
    ({"latent_channels": 5}, "no multiple of 5"),
    ({"widths": (8, 16, 36)}, "not a multiple of the head width 8"),
    ({"widths": (8, 18, 72), "downsample": "pixel_unshuffle"}, "18 channels of pixel_unshuffle"),
])  # fmt: skip
def test_configurations_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


@pytest.mark.parametrize("variant", VARIANTS)
def test_configuration_round_trip(variant):
    assert DCAEConfig.from_dict(VARIANTS[variant].to_dict()) == VARIANTS[variant]
    with pytest.raises(ValueError, match="depth"):
        DCAEConfig.from_dict({"depth": 1})
