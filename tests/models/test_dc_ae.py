import pytest
import torch

from sana_wm.models.dc_ae import DCAE, DCAEConfig


def small(layers=(2, 1, 2), down="conv", up="interpolate") -> DCAEConfig:
    return DCAEConfig(3, 4, 8, (8, 16, 32), layers, layers, ("res", "res", "vit"), ((), (), (5,)), down, up)


@pytest.mark.parametrize(
    ("layers", "down", "up"), [((2, 1, 2), "conv", "interpolate"), ((0, 1, 2), "pixel_unshuffle", "pixel_shuffle")]
)
@pytest.mark.parametrize("side", [8, 40])  # few positions: quadratic attention; many: linear
def test_parity_with_diffusers_on_random_weights(layers, down, up, side):
    diffusers = pytest.importorskip("diffusers")
    kinds = ("ResBlock", "ResBlock", "EfficientViTBlock")
    torch.manual_seed(0)
    reference = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=(8, 16, 32),
        decoder_block_out_channels=(8, 16, 32),
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        downsample_block_type={"conv": "Conv"}.get(down, down),
        upsample_block_type=up,
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    ours = DCAE(small(layers, down, up))
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, side, side + 8)
    with torch.no_grad():
        latents = reference.encode(images).latent
        assert torch.allclose(ours.encode(images), latents, atol=1e-5)
        assert torch.allclose(ours.decode(latents), reference.decode(latents).sample, atol=1e-5)


def test_published_f32c32_has_the_published_size():
    with torch.device("meta"):
        model = DCAE(DCAEConfig())
    assert sum(p.numel() for p in model.parameters()) == 312_250_275
    assert model.config.compression == 32


def test_shapes_that_do_not_fit_are_refused():
    model = DCAE(small())
    with pytest.raises(ValueError, match="multiples of 4"):
        model.encode(torch.zeros(1, 3, 10, 8))
    with pytest.raises(ValueError, match=r"expected \(B, 4, h, w\)"):
        model.decode(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="every stage needs one entry"):
        DCAEConfig(widths=(8, 16))
    with pytest.raises(ValueError, match="'conv' or 'pixel_unshuffle'"):
        small(down="stride")


def test_configuration_round_trip():
    assert DCAEConfig.from_dict(small().to_dict()) == small()
    with pytest.raises(ValueError, match="depth"):
        DCAEConfig.from_dict({"depth": 1})
