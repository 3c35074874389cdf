"""VideoVAE against diffusers, and the stream against the whole clip."""

import numpy as np
import pytest
import torch

from sana_wm.models.video_vae import VideoVAE
from tests.models.tiny_sana_wm import CHANNELS, tiny_vae

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def vae():
    return VideoVAE(tiny_vae())


def clip(frames: int, lanes: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (lanes, frames, 64, 96, 3), np.uint8)


def test_strides(vae):
    assert (vae.channels, vae.compression, vae.stride) == (CHANNELS, 32, 8)
    assert vae.grid((704, 1280)) == (22, 40)


def test_equals_the_pipelines_normalisation(vae):
    """As SanaWMPipeline encodes its first frame and decodes its latents."""
    frames = clip(9)
    pixels = torch.as_tensor(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    mean, std = (s.view(1, -1, 1, 1, 1) for s in (vae.vae.latents_mean, vae.vae.latents_std))
    scale = vae.vae.config.scaling_factor
    with torch.no_grad():
        latents = (vae.vae.encode(pixels).latent_dist.mode() - mean) * scale / std
        decoded = vae.vae.decode(latents / scale * std + mean).sample[0].permute(1, 2, 3, 0)
    torch.testing.assert_close(vae.encode(frames), latents)
    expected = (decoded.clamp(-1, 1).numpy() + 1) / 2 * 255
    assert np.abs(vae.decode(latents)[0] - expected).max() <= 0.51


@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1), (2, 3), (1, 4), (4, 1), (5,)])
def test_stream_is_the_whole_clip(parts):
    vae = VideoVAE(tiny_vae().double())
    latents = torch.randn(2, CHANNELS, 5, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        whole = vae.vae.decode(vae._raw(latents)).sample
    pieces, tails, sizes = [], None, set()
    from sana_wm.models.video_vae import _StreamPass

    for piece in vae._raw(latents).split(parts, dim=2):
        with torch.no_grad():
            pixels, tails = _StreamPass(tails).decode(vae.vae.decoder, piece)
        pieces.append(pixels)
        sizes.add(tuple(tail.shape for tail in tails))
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=0, atol=1e-9)
    assert len(sizes) == 1  # constant, however many latents came at once


def test_stream_of_frames(vae):
    latents = vae.encode(clip(17, lanes=2))
    whole = vae.decode(latents)
    first, tails = vae.decode_stream(latents[:, :, :1])
    second, again = vae.decode_stream(latents[:, :, 1:], tails)
    assert first.shape == (2, 1, 64, 96, 3) and second.shape == (2, 16, 64, 96, 3)
    assert np.abs(np.concatenate([first, second], 1).astype(int) - whole).max() <= 1
    third, _ = vae.decode_stream(latents[:, :, 1:], tails)  # the state is a value: it can be used twice
    assert torch.equal(second, third)


def test_a_decoder_that_sees_the_future_is_refused():
    vae = VideoVAE(tiny_vae(decoder_causal=False))
    with pytest.raises(ValueError, match="decoder_causal"):
        vae.decode_stream(torch.zeros(1, CHANNELS, 1, 2, 3))


def test_bad_frames(vae):
    with pytest.raises(ValueError, match="8 k \\+ 1"):
        vae.encode(clip(8))
    with pytest.raises(ValueError, match="multiples of 32"):
        vae.encode(np.zeros((1, 1, 60, 96, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        vae.encode(np.zeros((1, 1, 64, 96, 3), np.float32))


def test_folder_round_trip(vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    frames = clip(1)
    torch.testing.assert_close(VideoVAE.from_pretrained(tmp_path / "vae").encode(frames), vae.encode(frames))
    with pytest.raises(ValueError, match="no such folder"):
        VideoVAE.from_pretrained(tmp_path / "nothing")
