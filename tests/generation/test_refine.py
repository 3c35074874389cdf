"""The refiner, block after block, against diffusers' pipeline for whole clips; tiny random networks."""

import pytest
import torch

from sana_wm.generation.refine import KEPT, RefinerStream, refiner_blocks
from tests.models.tiny_sana_wm import CHANNELS, tiny_refiner_network

pytest.importorskip("diffusers")
GRID = (2, 3)


@pytest.fixture(scope="module")
def network():
    return tiny_refiner_network()


@pytest.mark.parametrize("frames", [2, 9, 20])  # 20: longer than what is kept
def test_equals_the_pipeline(network, monkeypatch, frames):
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaWMLTX2Refiner
    from diffusers.pipelines.sana_wm import refiner as pipeline_module

    latents, noise = torch.randn(2, 1, CHANNELS, frames, *GRID).unbind(0)
    text = torch.randn(1, 5, 24), torch.ones(1, 5)
    drawn = iter(block for block in list(refiner_blocks([noise]))[1:])
    monkeypatch.setattr(pipeline_module, "randn_tensor", lambda *args, **kwargs: next(drawn))
    monkeypatch.setattr(SanaWMLTX2Refiner, "_encode_prompt", lambda *args, **kwargs: text)
    pipeline = SanaWMLTX2Refiner(network, None, None, None, FlowMatchEulerDiscreteScheduler(shift=1.0))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(latents, "", fps=16, output_type="latent")

    stream = RefinerStream(network, text, 16, lambda start, stop: noise[:, :, start:stop])
    refined = torch.cat([stream.block(block) for block in refiner_blocks(latents.split(4, dim=2))], dim=2)
    assert torch.equal(refined[:, :, :1], latents[:, :, :1])
    torch.testing.assert_close(refined, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(refined[:, :, 1:], latents[:, :, 1:], atol=1e-2)


def test_memory_is_bounded(network):
    stream = RefinerStream(network, (torch.randn(1, 5, 24), torch.ones(1, 5)), 16, lambda a, b: torch.zeros(()))
    held = []
    for block in refiner_blocks([torch.randn(1, CHANNELS, 25, *GRID)]):
        stream.block(block)
        history = stream.cache.get(0).get_history()
        held.append(0 if history is None else history[0].shape[1] // (GRID[0] * GRID[1]))
    assert held == [0, 3, 6, 9, *[KEPT - 1] * 5]


def test_blocks_do_not_depend_on_the_pieces():
    clip = torch.randn(1, 1, 12, 1, 1)
    whole = list(refiner_blocks([clip]))
    assert [block.shape[2] for block in whole] == [1, 3, 3, 3, 2]
    for size in (1, 2, 5):
        again = list(refiner_blocks(clip.split(size, dim=2)))
        assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
