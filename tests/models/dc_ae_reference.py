"""Small DC-AEs of every kind, each beside diffusers' AutoencoderDC with the same random weights."""

import pytest
import torch
from torch import Tensor

from sana_wm.models.dc_ae import DCAE, DCAEConfig


def small(**changes) -> DCAEConfig:
    """Three stages, 4 pixels to a latent cell."""
    values = {
        "latent_channels": 4,
        "head_dim": 8,
        "widths": (8, 16, 32),
        "encoder_layers": (2, 1, 2),
        "decoder_layers": (1, 2, 1),
        "block_types": ("res", "res", "vit"),
        "multiscales": ((), (), (5,)),
    }
    return DCAEConfig(**values | changes)


_IN = {"encoder_layers": (0, 2, 1), "decoder_layers": (0, 1, 2), "multiscales": ((), (), ()),
       "downsample": "pixel_unshuffle", "upsample": "pixel_shuffle"}  # fmt: skip
VARIANTS = {
    "sana": small(),
    "in": small(**_IN, decoder_norms=("batch", "batch", "rms"), decoder_activations=("relu", "relu", "silu")),
    "stem of convolutions": small(encoder_layers=(0, 1, 1), decoder_layers=(0, 1, 1)),
    "batch norm everywhere": small(decoder_norms="batch", decoder_activations="relu"),
    "two scales": small(multiscales=((), (3,), (3, 5)), block_types=("res", "vit", "vit")),
    "no shortcuts": small(encoder_shortcut=False, decoder_shortcut=False),
    "lite": small(
        upsample="pixel_shuffle",
        decoder_layers=(0, 2, 1),
        decoder_block_types=("res",) * 3,
        decoder_multiscales=((),) * 3,
        decoder_widths=(8, 8, 16),
        out_activation="silu",
    ),
    "one width": small(widths=(16, 16, 16), multiscales=((3,), (), ()), block_types=("vit", "res", "res")),
    "wide first": small(widths=(32, 16, 8), block_types=("res", "vit", "res"), multiscales=((),) * 3),
}


def pair(config: DCAEConfig):
    """diffusers' and ours with the same random weights, statistics of batch norms included."""
    diffusers = pytest.importorskip("diffusers")
    from sana_wm.models.dc_ae_pretrained import to_diffusers

    settings = {name: value for name, value in to_diffusers(config).items() if not name.startswith("_")}
    torch.manual_seed(0)
    reference = diffusers.AutoencoderDC(**settings).eval()
    with torch.no_grad():
        for name, tensor in reference.state_dict().items():
            if name.endswith(("running_var", "running_mean")) or ".norm" in name and tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand_like(tensor))
    ours = DCAE(config).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to rounding, in units of the largest value."""
    assert got.shape == expected.shape
    scale = max(1.0, expected.abs().max().item())
    difference = (got - expected).abs().max().item() / scale
    assert difference < tolerance, f"differs by {difference:.1e} of {scale:.2g}"
