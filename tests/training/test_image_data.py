"""Pictures into buckets, latents and features into caches."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sana_wm.data import latent_cache
from sana_wm.data.picture_files import open_picture
from sana_wm.generation.aspect import bins, nearest_bin
from sana_wm.generation.image_file import to_pixels
from sana_wm.models.prompt_encoder import PromptEncoder
from sana_wm.models.transformer import SanaConfig, SanaTransformer
from sana_wm.training.image_data import ImageData, encode_pictures, make_buckets, sort_pictures, summary
from sana_wm.training.image_set import Bucket, ImageSet
from sana_wm.training.image_texts import encode_captions
from tests.generation.tiny_image import autoencoders
from tests.models.tiny_sana_wm import tiny_gemma2, tiny_tokenizer
from tests.training.tiny_pictures import BASE, CELL, picture, write_pictures

pytest.importorskip("diffusers")
QUIET = lambda done, total: None  # noqa: E731


class Counting:
    """An autoencoder that counts the pictures it encodes, and may be cut off."""

    def __init__(self, after: int | None = None):
        self.network, self.seen, self.after = autoencoders(stages=4)[1], 0, after
        self.encode = self.network.encode
        self.network.encode = self._encode

    def _encode(self, pixels):
        if self.after is not None and self.seen >= self.after:
            raise KeyboardInterrupt
        self.seen += len(pixels)
        return self.encode(pixels)

    def __call__(self):
        return self.network


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "pictures")


def sorted_(folder, **changes):
    data = replace(ImageData(str(folder), upscale=True, held_out=0.25), **changes)
    return sort_pictures(data, BASE, CELL, folder.parent / "notes.json", QUIET)


def test_bins_of_any_base():
    for base, cell in ((48, 8), (96, 16), (768, 32), (640, 32)):
        table = bins(base, cell)
        assert table[1.0] == (base, base) and list(table) == sorted(table) and len(table) > 4
        assert all(side % cell == 0 for size in table.values() for side in size)
        assert all(0.75 < height * width / base**2 < 1.3 for height, width in table.values())
        assert nearest_bin(7 * base, 7 * base, base, cell) == (base, base)
    assert bins(512, 32) == bins(512) and bins(4096, 32) == bins(4096)
    with pytest.raises(ValueError, match="multiple of 32"):
        bins(100, 32)


def test_every_picture_goes_to_the_nearest_bin(folder):
    pictures = sorted_(folder)
    assert len(pictures) == 12 and not pictures.lost
    for size, bin_ in pictures.bins.items():
        for one, _ in bin_:
            opened = open_picture(one.picture.read())
            assert size == nearest_bin(opened.height, opened.width, BASE, CELL)
    assert len(pictures.bins) == 3 and set(sorted_(folder, square=True).bins) == {(BASE, BASE)}


def test_held_out_pictures_stay_so_when_others_come(folder):
    before = sorted_(folder)
    apart = {one.name for size, bin_ in before.bins.items() for one, _ in bin_[: before.held_out[size]]}
    assert len(apart) == 3
    for number in range(20, 23):
        shutil.copy(folder / "00.png", folder / f"{number}.png")
        shutil.copy(folder / "00.txt", folder / f"{number}.txt")
    after = sorted_(folder)
    now = {one.name for size, bin_ in after.bins.items() for one, _ in bin_[: after.held_out[size]]}
    assert len(now) == 4 and len(apart & now) >= 2


def test_what_is_left_out_is_named(folder):
    whole = (folder / "04.jpg").read_bytes()
    (folder / "04.jpg").write_bytes(whole[: len(whole) // 2])
    picture("red", 30, 30).save(folder / "small.png")
    (folder / "small.txt").write_text("small")
    (folder / "07.txt").unlink()
    (folder / "scored.json").write_text('{"a": 10, "b": 12}')
    picture("red", 60, 60).save(folder / "scored.png")
    pictures = sorted_(folder, upscale=False, least_score=20.0)
    reasons = dict(pictures.lost)
    assert set(reasons) == {"04", "07", "small", "scored"}
    assert reasons["04"].startswith("cannot be read") and reasons["07"].startswith("no captions")
    assert reasons["small"].startswith("30x30 pixels are too few for 48x48") and "least_score" in reasons["scored"]
    assert len(pictures) == 10
    assert summary(pictures.lost).startswith("4 left out (04: cannot be read") and summary(pictures.lost).endswith(
        "...)"
    )
    for path in list(folder.glob("*.txt"))[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="1 usable pictures, expected 2 or more; 13 left out"):
        sorted_(folder, least_score=20.0)


def test_a_picture_is_decoded_once_to_check_it(folder, monkeypatch):
    sorted_(folder)
    opened = []
    monkeypatch.setattr("sana_wm.training.image_data.open_picture", lambda data: opened.append(1) or open_picture(data))
    sorted_(folder)
    assert not opened
    Image.new("RGB", (60, 60)).save(folder / "03.png")
    sorted_(folder)
    assert len(opened) == 1


def encode(folder, pictures, dcae=None, identity="vae"):
    dcae = dcae or Counting()
    return encode_pictures(pictures, dcae, identity, folder.parent / "latents", QUIET), dcae.seen


def test_latents_are_those_of_the_cropped_picture(folder):
    pictures, dcae = sorted_(folder), autoencoders(stages=4)[1]
    latents, _ = encode(folder, pictures)
    for size, bin_ in pictures.bins.items():
        for row, (one, _) in enumerate(bin_):
            with torch.no_grad():
                pixels = to_pixels(open_picture(one.picture.read()), *size)
                expected = dcae.encode(pixels)[0].numpy() * dcae.scaling_factor
            np.testing.assert_allclose(latents[size][row], expected, atol=2e-3)
        assert isinstance(latents[size], np.memmap) and latents[size].dtype == np.float16


def test_only_what_changed_is_encoded_again(folder):
    pictures = sorted_(folder)
    before, seen = encode(folder, pictures)
    assert seen == 12 and encode(folder, sorted_(folder))[1] == 0
    size = next(iter(pictures.bins))
    one, _ = pictures.bins[size][0]
    old = np.array(before[size][0])
    opened = open_picture(one.picture.read())
    Image.new("RGB", opened.size, "black").save(one.picture.path)
    after, seen = encode(folder, sorted_(folder))
    assert seen == len(pictures.bins[size]) and not np.allclose(after[size][0], old, atol=1e-2)
    assert encode(folder, sorted_(folder), identity="another")[1] == 12


def test_an_interrupted_encoding_is_gone_on_with(folder, monkeypatch):
    monkeypatch.setattr(latent_cache, "NOTE_EVERY", 1)
    monkeypatch.setattr("sana_wm.training.image_data.AT_ONCE", 1)
    pictures = sorted_(folder)
    with pytest.raises(KeyboardInterrupt):
        encode(folder, pictures, Counting(after=7))
    latents, seen = encode(folder, pictures)
    assert seen == 5
    fresh, _ = encode_pictures(pictures, Counting(), "vae", folder.parent / "fresh", QUIET), 0
    assert all(np.array_equal(latents[size], fresh[size]) for size in fresh)


def test_captions_are_drawn_by_their_scores():
    captions = np.array([[0, 1, -1], [2, -1, -1], [3, 4, 5]])
    weights = np.array([[0.75, 0.25, 0], [1, 0, 0], [0, 0.5, 0.5]], np.float32)
    rng, rows = np.random.default_rng(0), np.repeat([0, 1, 2], 2000)
    for bucket, expected in (
        (Bucket(np.zeros((3, 1, 1, 1)), captions, weights), [0.75, 0.25, 1, 0, 0.5, 0.5]),
        (Bucket(np.zeros((3, 1, 1, 1)), captions), [0.5, 0.5, 1, 1 / 3, 1 / 3, 1 / 3]),
    ):
        drawn = np.bincount(bucket.draw_captions(rows, rng), minlength=6) / 2000
        np.testing.assert_allclose(drawn, expected, atol=0.05)


def test_scores_become_odds(folder):
    (folder / "00.txt").unlink()
    (folder / "00.json").write_text('{"good": 26.1, "better": 26.2, "bad": 20}')
    pictures = sorted_(folder, least_score=25.0)
    rows = {text: row for row, text in enumerate(pictures.texts())}
    latents = {size: np.zeros((len(bin_), 1, 1, 1)) for size, bin_ in pictures.bins.items()}
    buckets = [bucket for part in make_buckets(pictures, latents, rows) for bucket in part]
    assert sum(len(bucket.latents) for bucket in buckets) == 12
    (weights,) = [
        bucket.weights[row] for bucket in buckets if bucket.weights is not None
        for row in np.flatnonzero(bucket.captions[:, 0] == rows["good"])
    ]  # fmt: skip
    np.testing.assert_allclose(weights[:2], [1 / (1 + np.e), np.e / (1 + np.e)], rtol=1e-4)
    assert "bad" not in rows


# --- captions --------------------------------------------------------------------------------------------------------

PREFIX = "Say what is seen:\n"
TEXTS = ["All red.", "A much longer caption of a picture in green and blue.", " two  blanks"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tiny_gemma2().save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    return folder / "text_encoder", folder / "tokenizer"


def captions(encoder, folder, texts=TEXTS, prefix=PREFIX, batch=2):
    device = torch.device("cpu")
    return encode_captions(list(texts), *encoder, prefix, folder, torch.float32, device, QUIET, batch)


@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_features_are_the_encoders_up_to_the_last_token(encoder, tmp_path, prefix):
    made = captions(encoder, tmp_path, prefix=prefix)
    whole = PromptEncoder.from_pretrained(*encoder, torch.float32, prefix=prefix)
    features, mask = whole([text.strip() for text in TEXTS])
    longest = made.text.shape[1]
    assert longest == int(mask.sum(1).max()) < 80 and not mask[:, longest:].any()
    np.testing.assert_array_equal(made.mask, mask[:, :longest])
    np.testing.assert_allclose(made.text, features[:, :longest], atol=2e-3)
    null, null_mask = whole([""], instruct=False)
    np.testing.assert_allclose(made.null_text, null[0, :longest], atol=2e-3)
    np.testing.assert_array_equal(made.null_mask, null_mask[0, :longest])


def test_a_long_caption_is_cut_as_the_encoder_cuts_it(encoder, tmp_path):
    texts = ["word " * 100, "x"]
    made = captions(encoder, tmp_path, texts)
    _, mask = PromptEncoder.from_pretrained(*encoder, torch.float32, prefix=PREFIX)([text.strip() for text in texts])
    assert made.cut == 1 and made.text.shape[1] == 300
    np.testing.assert_array_equal(made.mask, mask)


def test_cutting_padding_off_changes_no_velocity(encoder, tmp_path):
    """Not that of guidance's other half either, which reads the empty text where the caption has tokens."""
    made = captions(encoder, tmp_path)
    whole = PromptEncoder.from_pretrained(*encoder, torch.float32, prefix=PREFIX)
    sizes = {"in_channels": 2, "grid": None, "width": 16, "depth": 2, "heads": 2, "mixer": "relu", "softmax_every": 0}
    modes = {"temporal": "bidirectional", "temporal_conv": False, "positions": "none", "text_dim": made.text.shape[-1]}
    torch.manual_seed(0)
    network = SanaTransformer(SanaConfig(**sizes, **modes)).eval()
    torch.nn.init.normal_(network.final_linear.weight)
    features, mask = whole([text.strip() for text in TEXTS])
    null, _ = whole([""], instruct=False)
    x, time = torch.randn(3, 2, 1, 2, 3), torch.tensor([500.0, 100.0, 900.0])
    for full, short in (
        (features, torch.from_numpy(made.text.astype(np.float32))),
        (null.expand(3, -1, -1), torch.from_numpy(made.null_text.astype(np.float32)).expand(3, -1, -1)),
    ):
        with torch.no_grad():
            expected = network(x, time, full, mask).velocity
            got = network(x, time, short, torch.from_numpy(made.mask)).velocity
        torch.testing.assert_close(got, expected, rtol=0, atol=5e-3)


def test_captions_are_encoded_once(encoder, tmp_path, monkeypatch):
    first = captions(encoder, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(PromptEncoder, "from_pretrained", lambda *_, **__: pytest.fail("read again"))
        again = captions(encoder, tmp_path)
        assert np.array_equal(first.text, again.text)
        with pytest.raises(BaseException, match="read again"):
            captions(encoder, tmp_path, [*TEXTS, "new"])
        with pytest.raises(BaseException, match="read again"):
            captions(encoder, tmp_path, prefix="Other:\n")
    assert captions(encoder, tmp_path, [*TEXTS, "new"]).text.shape[0] == 4


def test_no_text_keeps_the_captions_mask():
    text, mask = np.ones((2, 3, 4), np.float16), np.array([[1, 1, 0], [1, 1, 1]], bool)
    bucket = Bucket(np.zeros((2, 1, 1, 1), np.float16), np.array([[0], [1]]))
    pictures = ImageSet((bucket,), text, mask, np.zeros((3, 4), np.float16), np.array([True, False, False]))
    batch = pictures.take(bucket, np.array([0, 1]), np.array([0, 1]))
    dropped = pictures.without_text(batch, torch.tensor([True, False]))
    assert not dropped.text[0].any() and dropped.text[1].all() and torch.equal(dropped.text_mask, batch.text_mask)


def test_touching_a_file_changes_no_split(folder):
    before = sorted_(folder)
    os.utime(folder / "00.png", ns=(1, 1))
    after = sorted_(folder)
    names = lambda pictures: [[one.name for one, _ in bin_] for bin_ in pictures.bins.values()]  # noqa: E731
    assert names(before) == names(after) and before.held_out == after.held_out
