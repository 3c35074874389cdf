"""Coding by tiles: what diffusers computes, within bounded memory, close to coding at once."""

import math
from dataclasses import replace

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from sana_wm.models import dc_ae_tiling
from sana_wm.models.dc_ae import DCAE, DCAE_PRESETS
from sana_wm.models.dc_ae_tiling import run_tiled, tile_and_stride
from tests.models.dc_ae_reference import VARIANTS, close, pair, small


def tiled_pair(variant: str, tile: int, stride: int):
    reference, ours = pair(VARIANTS[variant])
    reference.enable_tiling(tile, tile, stride, stride)
    return reference, ours


@pytest.mark.parametrize("variant", ["sana", "in"])
@pytest.mark.parametrize(("tile", "stride"), [(32, 28), (24, 12), (16, 16), (40, 24)])
@pytest.mark.parametrize("size", [(76, 52), (60, 20), (36, 36)])  # 36 = 28 + 8: the last tile is narrower than a fade
def test_tiles_are_those_of_diffusers(variant, tile, stride, size):
    reference, ours = tiled_pair(variant, tile, stride)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        latents = reference.encode(images).latent
        close(ours.encode(images, tile=tile, stride=stride), latents)
        expected = reference.decode(latents).sample
        close(ours.decode(latents, tile=tile, stride=stride), expected)
        close(ours.decode(latents, tile=tile, stride=stride, slicing=True), expected)


@pytest.mark.parametrize("slicing", [False, True])
def test_an_image_no_larger_than_a_tile_is_coded_at_once(slicing):
    _, ours = pair(VARIANTS["sana"])
    images = torch.randn(2, 3, 24, 32)
    with torch.no_grad():
        latents = ours.encode(images, tile=None, slicing=slicing)
        assert torch.equal(ours.encode(images, tile=32, slicing=slicing), latents)
        close(ours.decode(latents, tile=32, slicing=slicing), ours.decode(latents, tile=None))


def blur_down(x):
    """A coder of small reach: means over 9 pixels, then a quarter of the resolution."""
    return F.avg_pool2d(F.avg_pool2d(x, 9, 1, 4, count_include_pad=False), 4)


def blur_up(x):
    return F.interpolate(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), scale_factor=4.0, mode="bilinear")


@pytest.mark.parametrize(("code", "scale"), [(blur_down, (4, 1)), (blur_up, (1, 4))])
@pytest.mark.parametrize("size", [(16, 23), (21, 31)])
def test_fades_take_seams_away(code, scale, size):
    """On a smooth image: a seam is a jump of the difference to coding at once."""
    y, x = (torch.linspace(0, math.pi, n * scale[0]) for n in size)
    image = (torch.sin(y)[:, None] * torch.cos(x) + 0.3 * torch.sin(3 * x))[None, None]

    def seam(stride: int) -> float:
        error = run_tiled(code, image, 8, stride, scale) - code(image)
        return max(error.diff(dim=dim).abs().max().item() for dim in (2, 3))

    assert seam(7) <= 0.6 * seam(8)
    assert seam(4) <= 0.4 * seam(8)
    assert seam(4) <= 0.1 * image.std()


def test_tiles_reproduce_exactly_what_does_not_depend_on_them():
    """A coder of reach 0 gives the same by tiles: every pixel is written once, at its place."""
    x = torch.randn(2, 3, 13, 17)
    for tile, stride in ((5, 3), (4, 4), (6, 1), (5, 5)):
        out = run_tiled(lambda part: F.interpolate(part, scale_factor=2.0), x, tile, stride, (1, 2))
        assert torch.allclose(out, F.interpolate(x, scale_factor=2.0), atol=1e-6)


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_one_tile_is_alive_at_a_time(way):
    """When a tile is computed, no earlier one is held, and strips are all that is kept of them."""
    _, ours = pair(VARIANTS["sana"])
    coder, alive = (ours.encoder if way == "encode" else ours.decoder), []
    held: list[StorageWeakRef] = []

    def before(*_):
        alive.append(sum(not memory.expired() for memory in held))

    def after(_module, _inputs, out):
        held.append(StorageWeakRef(out.untyped_storage()))

    coder.register_forward_pre_hook(before), coder.register_forward_hook(after)
    with torch.no_grad():
        getattr(ours, way)(torch.randn(1, *((3, 96, 80) if way == "encode" else (4, 24, 20))), tile=32, stride=28)
    assert len(alive) == 4 * 3
    assert max(alive) <= 1  # the name of the last tile, rebound when the next is there


def test_published_4k_takes_25_tiles_of_1024_every_896():
    with torch.device("meta"):
        model = DCAE(replace(DCAE_PRESETS["f32c32-sana-1.1"], decoder_layers=(1,) * 6))
    seen = []
    model.decoder.register_forward_hook(lambda _m, given, _out: seen.append(tuple(given[0].shape[2:])))
    with torch.no_grad():
        assert model.decode(torch.zeros(1, 32, 128, 128, device="meta")).shape == (1, 3, 4096, 4096)
        assert len(seen) == 25
        assert seen[0] == (32, 32) and seen[4] == (32, 16) and seen[-1] == (16, 16)
        seen.clear()
        model.decode(torch.zeros(1, 32, 64, 64, device="meta"))
        assert seen == [(64, 64)]  # 2048 x 2048 is decoded at once
        seen.clear()
        model.decode(torch.zeros(1, 32, 64, 64, device="meta"), tile=512)
        assert len(seen) == 25  # 448 between tiles of 512


def test_automatic_tiles_begin_beyond_a_size(monkeypatch):
    assert tile_and_stride((2048, 2048), "auto", None, 32) is None
    assert tile_and_stride((2048, 2080), "auto", None, 32) == (32, 28)
    assert tile_and_stride((4096, 4096), "auto", None, 128) == (8, 7)
    monkeypatch.setattr(dc_ae_tiling, "WHOLE", 100)
    assert tile_and_stride((1024, 1024), "auto", None, 32) is None  # one tile
    assert tile_and_stride((96, 96), 64, None, 32) == (2, 1)
    assert tile_and_stride((96, 96), 32, None, 32) == (1, 1)


@pytest.mark.parametrize(("tile", "stride", "message"), [
    (30, 28, "multiples of 4 pixels"), (32, 30, "multiples of 4 pixels"), (16, 20, "0 < stride <= tile"),
    (16, 0, "0 < stride"), (0, None, "multiples of 4"), (None, 16, "without a tile"), ("big", None, "tile='big'"),
])  # fmt: skip
def test_tiles_that_do_not_fit_are_refused(tile, stride, message):
    model = DCAE(small())
    with pytest.raises(ValueError, match=message):
        model.decode(torch.zeros(1, 4, 10, 10), tile=tile, stride=stride)
    with pytest.raises(ValueError, match=message):
        model.encode(torch.zeros(1, 3, 40, 40), tile=tile, stride=stride)


def test_gradients_pass_through_tiles():
    _, ours = pair(VARIANTS["sana"])
    latents = torch.randn(1, 4, 11, 9, requires_grad=True)
    ours.decode(latents, tile=16, stride=12).sum().backward()
    assert (latents.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tiles_keep_the_precision(dtype):
    _, ours = pair(VARIANTS["sana"])
    latents = torch.randn(1, 4, 11, 9)
    with torch.no_grad():
        expected = ours.decode(latents, tile=16, stride=12)
        out = ours.to(dtype).decode(latents.to(dtype), tile=16, stride=12)
    assert out.dtype == dtype
    assert (out.float() - expected).std() < 0.02 * expected.std()
