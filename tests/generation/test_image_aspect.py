"""Aspect-ratio bins against diffusers' tables."""

import pytest
import torch

from sana_wm.generation.aspect import BASES, base_of_grid, bins, nearest_bin, resize_and_crop


def tables():
    pytest.importorskip("diffusers")
    from diffusers.pipelines.sana import pipeline_sana as module

    return {base: getattr(module, f"ASPECT_RATIO_{base}_BIN") for base in BASES}


@pytest.mark.parametrize("base", BASES)
def test_tables_are_those_of_diffusers(base):
    expected = {float(ratio): tuple(map(int, size)) for ratio, size in tables()[base].items()}
    assert bins(base) == expected
    assert list(bins(base)) == sorted(bins(base))


@pytest.mark.parametrize("base", BASES)
def test_nearest_bin_is_that_of_diffusers(base):
    from diffusers.image_processor import PixArtImageProcessor

    table = tables()[base]
    generator = torch.Generator().manual_seed(base)
    sizes = torch.randint(64, 9000, (300, 2), generator=generator).tolist() + list(bins(base).values())
    for height, width in sizes:
        assert nearest_bin(height, width, base) == PixArtImageProcessor.classify_height_width_bin(height, width, table)
    assert all(nearest_bin(*size, base) == size for size in bins(base).values())


@pytest.mark.parametrize(("size", "new"), [((6, 9), (12, 18)), ((6, 9), (13, 17)), ((8, 4), (5, 7)), ((7, 5), (7, 5))])
def test_resize_and_crop_is_that_of_diffusers(size, new):
    from diffusers.image_processor import PixArtImageProcessor

    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = PixArtImageProcessor.resize_and_crop_tensor(images, new[1], new[0])
    torch.testing.assert_close(resize_and_crop(images, *new), expected)


def test_the_size_asked_for_is_the_size_given():
    for height in range(1, 60, 7):
        for width in range(1, 60):
            assert resize_and_crop(torch.zeros(1, 1, 49, 23), height, width).shape[-2:] == (height, width)


def test_the_centre_stays():
    ramp = torch.linspace(-1, 1, 9)[None, None, None].expand(1, 1, 3, 9)
    cropped = resize_and_crop(ramp, 3, 5)
    torch.testing.assert_close(cropped, ramp[..., 2:7])


def test_errors():
    assert [base_of_grid(side) for side in (16, 32, 64, 128)] == list(BASES)
    for call in (lambda: base_of_grid(8), lambda: bins(768), lambda: nearest_bin(0, 3, 512)):
        with pytest.raises(ValueError, match="expected"):
            call()
