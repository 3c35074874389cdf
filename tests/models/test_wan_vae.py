"""WanVAE against diffusers, the stream against the whole clip, and which autoencoder a folder holds."""

import json
import weakref

import numpy as np
import pytest
import torch

from sana_wm.models.video_vae import VideoVAE
from sana_wm.models.wan_vae import WanVAE, load_video_vae, vae_class, vae_sizes
from tests.generation.tiny_clip import WAN_CHANNELS, tiny_wan
from tests.models.tiny_sana_wm import CHANNELS, tiny_vae

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def vae():
    return WanVAE(tiny_wan())


def clip(frames: int, lanes: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (lanes, frames, 16, 24, 3), np.uint8)


def test_equals_the_pipelines_normalisation(vae):
    """As SanaImageToVideoPipeline encodes its first frame and SanaVideoPipeline decodes its latents."""
    assert (vae.channels, vae.compression, vae.stride, vae.grid((480, 832))) == (WAN_CHANNELS, 8, 4, (60, 104))
    frames = clip(5, lanes=2)
    pixels = torch.as_tensor(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    c = vae.vae.config
    mean, std = (torch.tensor(s).view(1, -1, 1, 1, 1) for s in (c.latents_mean, c.latents_std))
    with torch.no_grad():
        latents = (vae.vae.encode(pixels).latent_dist.mode() - mean) / std
        decoded = vae.vae.decode(latents * std + mean).sample
    torch.testing.assert_close(vae.encode(frames), latents)
    torch.testing.assert_close(vae.pixels(latents), decoded)
    with pytest.raises(ValueError, match=r"4 k \+ 1"):
        vae.encode(clip(4))


@pytest.mark.parametrize("parts", [(1, 1, 1, 1), (3, 1), (1, 3), (4,)])
@pytest.mark.parametrize("changes", [{}, {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}])
def test_a_stream_is_the_whole_clip_at_constant_memory(parts, changes):
    """Wan 2.1, and 2.2's patches and shortcuts, to the rounding of float64."""
    vae = WanVAE(tiny_wan(**changes).double())
    latents = torch.randn(2, WAN_CHANNELS, 4, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    whole, pieces, tails, sizes = vae.pixels(latents), [], None, []
    assert whole.std() > 0.01
    for piece in latents.split(parts, dim=2):
        again = tails
        pixels, tails = vae.stream_pixels(piece, tails)
        assert torch.equal(vae.stream_pixels(piece, again)[0], pixels)  # the tails are a value: they can be used twice
        pieces.append(pixels)
        sizes.append(sum(t.numel() for t in tails if isinstance(t, torch.Tensor)))
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, atol=1e-9, rtol=0)
    assert len(set(sizes[2:])) <= 1
    frames, _ = vae.decode_stream(latents)
    assert np.abs(frames.numpy().astype(int) - vae.decode(latents)).max() <= 1


@pytest.mark.parametrize("kind", ["wan", "ltx"])
def test_the_class_is_read_from_the_folder(tmp_path, kind):
    wan = kind == "wan"
    (tiny_wan() if wan else tiny_vae()).save_pretrained(tmp_path)
    assert vae_sizes(tmp_path) == ((WAN_CHANNELS, 8, 4) if wan else (CHANNELS, 32, 8))
    loaded = load_video_vae(tmp_path, torch.bfloat16)
    assert type(loaded) is vae_class(tmp_path) is (WanVAE if wan else VideoVAE)
    assert loaded.dtype == (torch.float32 if wan else torch.bfloat16)
    assert (loaded.channels, loaded.compression, loaded.stride) == vae_sizes(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=f"safetensors of an {type(loaded).network}, found"):
        load_video_vae(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderDC"}))
    with pytest.raises(ValueError, match="'AutoencoderDC', expected AutoencoderKLLTX2Video or AutoencoderKLWan"):
        vae_class(tmp_path)
    with pytest.raises(ValueError, match="expected the config.json of"):
        vae_class(tmp_path / "nothing")


def test_a_tail_is_let_go_of_when_it_is_replaced(vae):
    """Else a stream holds the last inputs of every convolution twice: at 480p 3 GB."""
    latents = torch.randn(1, WAN_CHANNELS, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    handed = [vae.stream_pixels(latents[:, :, :1])[1]]
    first = weakref.ref(handed[0][0])
    assert isinstance(first(), torch.Tensor)
    seen = []
    hook = vae.vae.decoder.conv_out.register_forward_hook(lambda *_: seen.append(first()))
    vae.stream_pixels(latents[:, :, 1:], handed.pop())
    hook.remove()
    assert seen == [None]
