"""Sizes of the registry (spec section 2), on the meta device."""

import pytest
import torch

from sana_wm.models.presets import PRESETS, SIZES, padded_scale, preset
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.weights import published_name
from tests.models.sana_reference import reference_module

SANA_WM = [name for name in PRESETS if name.startswith("sana-wm")]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_the_tensors_of_the_reference_in_that_size(size):
    config = preset("sana-wm-bidirectional", size)
    with torch.device("meta"):
        ours = SanaTransformer(config)
        theirs = reference_module().SanaWMTransformer3DModel(
            num_layers=config.depth, hidden_size=config.width, num_attention_heads=config.heads,
            linear_head_dim=config.head_dim, patch_size=(1, config.patch_size, config.patch_size),
            chunk_plucker_post_attn_blocks=-1,
        )  # fmt: skip
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters())
    assert {published_name(key) for key in ours.state_dict()} == set(theirs.state_dict())
    assert size != "1600M_P1_D20" or count == 2_661_800_448


def test_heads_are_as_wide_as_in_the_registry():
    widths = {1152: 72, 2240: 112, 2304: 128, 2560: 128}
    for size in SIZES:
        config = preset("sana-wm-bidirectional", size)
        assert config.head_dim == widths[config.width] and f"_P{config.patch_size}_D{config.depth}" in size


@pytest.mark.parametrize("name", SANA_WM)
def test_a_size_changes_sizes_and_the_scales_that_follow_from_the_heads(name):
    whole, other = preset(name).to_dict(), preset(name, "2000M_P2_D20").to_dict()
    changed = {key for key in whole if whole[key] != other[key]}
    assert (
        {"width", "heads", "patch_size"} <= changed <= {"width", "heads", "patch_size", "camera_scale", "softmax_scale"}
    )
    assert other["camera_scale"] == padded_scale(128) == 128**-0.5
    assert preset(name, "1600M_P1_D20").to_dict() == whole


def test_unknown_sizes_name_the_known_ones():
    with pytest.raises(ValueError, match="unknown size '600M'; known: .*600M_P1_D28"):
        preset("sana-wm-streaming", "600M")
