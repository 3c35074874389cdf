"""Sizes of video against diffusers' tables."""

import pytest
import torch

from sana_wm.generation.aspect import VIDEO_BASES, bins, nearest_bin, video_base_of_grid


def table(base):
    pytest.importorskip("diffusers")
    from diffusers.pipelines.sana_video import pipeline_sana_video as module

    return getattr(module, f"ASPECT_RATIO_{base}_BIN")


@pytest.mark.parametrize("base", VIDEO_BASES)
def test_tables_are_those_of_diffusers(base):
    assert bins(base) == {float(ratio): tuple(map(int, size)) for ratio, size in table(base).items()}
    assert list(bins(base)) == sorted(bins(base))
    cell = {480: 16, 720: 32}[base]
    assert all(side % cell == 0 for size in bins(base).values() for side in size)


@pytest.mark.parametrize("base", VIDEO_BASES)
def test_nearest_bin_is_that_of_diffusers(base):
    from diffusers.video_processor import VideoProcessor

    sizes = torch.randint(64, 3000, (300, 2), generator=torch.Generator().manual_seed(base)).tolist()
    for height, width in sizes:
        expected = VideoProcessor.classify_height_width_bin(height, width, table(base))
        assert nearest_bin(height, width, base) == expected


def test_bases():
    assert [video_base_of_grid(side) for side in (30, 22, 32, 0)] == [480, 720, None, None]
    with pytest.raises(ValueError, match="no sizes for base 600: expected one of .*480, 720"):
        bins(600)
