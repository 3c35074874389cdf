import numpy as np
import pytest
import torch

from tests.world.tiny import CHANNELS, GRID, SIDE, tiny_frames, tiny_world


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_world().tokenizer


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (1, 2, 2)])
def test_shapes_keep_their_leading_axes(tokenizer, lead):
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*lead, SIDE, SIDE, 3), dtype=np.uint8))
    latents = tokenizer.encode(frames)
    assert latents.shape == (*lead, CHANNELS, *GRID)
    decoded = tokenizer.decode(latents)
    assert decoded.shape == (*lead, SIDE, SIDE, 3) and decoded.dtype == np.uint8


def test_latents_are_standardised_with_the_measured_statistics():
    tokenizer = tiny_world().tokenizer
    frames = torch.from_numpy(tiny_frames(1, 4)[0])
    tokenizer.latent_mean.zero_(), tokenizer.latent_std.fill_(1.0)
    raw = tokenizer.encode(frames)
    tokenizer.latent_mean.copy_(torch.arange(CHANNELS)[:, None, None]), tokenizer.latent_std.fill_(2.0)
    torch.testing.assert_close(tokenizer.encode(frames), (raw - torch.arange(CHANNELS)[:, None, None]) / 2)


def test_decode_undoes_the_normalisation():
    tokenizer = tiny_world().tokenizer
    frames = torch.from_numpy(tiny_frames(1, 4)[0])
    before = tokenizer.decode(tokenizer.encode(frames))
    tokenizer.latent_mean.fill_(3.0), tokenizer.latent_std.fill_(0.1)
    difference = tokenizer.decode(tokenizer.encode(frames)).astype(int) - before
    assert np.abs(difference).max() <= 1  # rounding


def test_the_background_is_taken_out_and_put_back():
    tokenizer = tiny_world().tokenizer
    background = tokenizer.background.permute(1, 2, 0).round()
    tokenizer.background.copy_(background.permute(2, 0, 1))
    assert (tokenizer.pixels(background[None].to(torch.uint8)) == 0).all()
    with torch.no_grad():
        for p in tokenizer.dcae.decoder.parameters():
            p.zero_()  # a decoder that says nothing
    decoded = tokenizer.decode(torch.zeros(2, CHANNELS, *GRID))
    np.testing.assert_array_equal(decoded, np.broadcast_to(background.numpy().astype(np.uint8), decoded.shape))


def test_pixels_are_differences_in_half_ranges():
    tokenizer = tiny_world().tokenizer
    tokenizer.background.fill_(127.5)
    frames = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    assert (tokenizer.pixels(frames) == -1).all() and (tokenizer.pixels(frames + 255) == 1).all()


def test_another_resolution_is_refused(tokenizer):
    with pytest.raises(ValueError, match="16x32 pixels, this world sees 32x32: resize"):
        tokenizer.encode(torch.zeros(1, 16, 32, 3, dtype=torch.uint8))
