"""Video files: frames by number whatever the coding, and colours that survive it."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sana_wm.data import DatasetError, VideoEncoding
from sana_wm.data.video import VideoFileReader, VideoFileWriter, decode_image, encode_png
from tests.data.datasets import encode_video

LENGTH = 60
LEVELS = (np.arange(LENGTH) * 83) % 211 + 20  # neighbours differ by at least 83


@pytest.fixture(scope="module")
def long_groups(tmp_path_factory):
    """A key frame every 16 frames, with pictures stored out of order between them."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    frames = np.broadcast_to(LEVELS.astype(np.uint8)[:, None, None, None], (LENGTH, 16, 24, 3))
    encode_video(path, np.ascontiguousarray(frames), Fraction(30000, 1001), g="16", bf="3", keyint_min="16")
    return VideoFileReader(path)


@settings(max_examples=40, deadline=None)
@given(ranges=st.lists(st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)), min_size=1, max_size=4))
def test_any_sequence_of_ranges_gives_the_frames_of_those_numbers(long_groups, ranges):
    assert long_groups.num_frames == LENGTH
    for start, stop in (sorted(pair) for pair in ranges):
        frames = long_groups.read(start, stop)
        assert frames.shape == (stop - start, 16, 24, 3)
        np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), LEVELS[start:stop], atol=3)


def test_reading_on_gives_the_same_as_seeking(long_groups):
    seeking = np.concatenate([long_groups.read(t, t + 1) for t in reversed(range(LENGTH))])[::-1]
    reading_on = np.concatenate([long_groups.read(t, t + 5) for t in range(0, LENGTH, 5)])
    np.testing.assert_array_equal(seeking, reading_on)


def test_ranges_outside_the_file(long_groups):
    with pytest.raises(DatasetError, match=f"holds {LENGTH} frames"):
        long_groups.read(LENGTH - 1, LENGTH + 1)
    assert long_groups.read(3, 4).mean() == pytest.approx(LEVELS[3], abs=3)


def flat_graphics(length: int) -> np.ndarray:
    """A grey T-like block, a green one and a blue disc on white, with anti-aliased borders, moving by sub-pixels."""
    y, x = (np.mgrid[:256, :256] + 0.5) / 256
    frames = []
    for t in range(length):
        angle = 0.1 * t
        u = (x - 0.5 - 0.01 * t) * np.cos(angle) + (y - 0.4) * np.sin(angle)
        v = -(x - 0.5 - 0.01 * t) * np.sin(angle) + (y - 0.4) * np.cos(angle)
        big = np.full((256, 256, 3), 255.0)
        big[(abs(x - 0.6) < 0.15) & (abs(y - 0.7) < 0.05)] = (144, 238, 144)
        big[((abs(u) < 0.2) & (abs(v) < 0.06)) | ((abs(u) < 0.06) & (v > 0) & (v < 0.25))] = (119, 136, 153)
        big[(x - 0.2 - 0.02 * t) ** 2 + (y - 0.3) ** 2 < 0.03**2] = (65, 105, 225)
        frames.append(big.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3)))
    return np.round(frames).astype(np.uint8)


def test_a_picture_that_the_decoder_made_up_is_not_passed_on(tmp_path):
    """H.264 decoders conceal damage: they give a picture all the same, filled in from its neighbours."""
    path = tmp_path / "v.mp4"
    encode_video(path, flat_graphics(8), Fraction(10))
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][5]
    contents = bytearray(path.read_bytes())
    quarter = packet.size // 4
    contents[packet.pos + 2 * quarter : packet.pos + 3 * quarter] = bytes(quarter)
    path.write_bytes(contents)
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 8  # none is missing, no error is raised
    with pytest.raises(DatasetError, match="damaged"):
        VideoFileReader(path).read(0, 8)
    assert VideoFileReader(path).read(0, 2).shape == (2, 64, 64, 3)


def test_default_encoding_keeps_small_flat_graphics(tmp_path):
    frames = flat_graphics(20)
    path = tmp_path / "v.mp4"
    writer = VideoFileWriter(path, 10, 64, 64, VideoEncoding())
    writer.write(frames)
    writer.close()
    decoded = VideoFileReader(path).read(0, 20).astype(np.float64)
    psnr = 10 * np.log10(255**2 / ((decoded - frames) ** 2).mean(axis=(1, 2, 3)))
    assert psnr.min() > 42
    assert path.stat().st_size < 20 * 1500


@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9"])
def test_other_codecs(tmp_path, codec):
    frames = np.broadcast_to(LEVELS[:8].astype(np.uint8)[:, None, None, None], (8, 64, 64, 3))
    options = {"crf": "20", "preset": "8"} if codec == "libsvtav1" else {"crf": "20"}
    writer = VideoFileWriter(tmp_path / "v.mp4", 10, 64, 64, VideoEncoding(codec, "yuv420p", 2, options))
    writer.write(frames)
    writer.close()
    decoded = VideoFileReader(tmp_path / "v.mp4").read(0, 8)
    np.testing.assert_allclose(decoded.mean(axis=(1, 2, 3)), LEVELS[:8], atol=4)


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_png_is_lossless(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(pixels), "cell"), pixels)
