"""Pictures to PNG files and back."""

import numpy as np
import pytest
import torch
from PIL import Image

from sana_wm.generation.image_file import read_settings, to_pictures, to_pixels, write_png


def picture(size=(7, 5), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def test_pixels_and_pictures_are_inverse():
    given = picture()
    pixels = to_pixels(given, 5, 7)
    assert pixels.shape == (1, 3, 5, 7) and pixels.abs().max() <= 1
    assert np.array_equal(np.asarray(to_pictures(pixels)[0]), np.asarray(given))


def test_levels_are_rounded_and_clipped():
    values = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0])[None, None, None].expand(1, 3, 1, 5)
    assert np.asarray(to_pictures(values)[0])[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_picture_of_another_shape_is_cropped_about_its_centre():
    wide = Image.new("RGB", (30, 10), "blue")
    wide.paste(Image.new("RGB", (10, 10), "red"), (10, 0))
    pixels = to_pixels(wide, 20, 20)
    middle = pixels[0, :, :, 4:16]
    assert (middle[0] > 0.9).all() and (middle[2] < -0.9).all()


def test_settings_travel_with_the_file(tmp_path):
    settings = {"prompt": 'ein Würfel – "rot"\n', "seed": 2**40, "times": [1.5, 0.0], "negative": None}
    path = write_png(picture(), tmp_path / "new" / "a.png", settings)
    assert read_settings(path) == settings
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture()))
    picture().save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="holds no settings"):
        read_settings(tmp_path / "plain.png")


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_png(picture(), tmp_path / "a.png", {"seed": 1})

    def full(self, target, **_):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="disk full"):
        write_png(picture(seed=1), path, {"seed": 2})
    monkeypatch.undo()
    assert read_settings(path) == {"seed": 1} and list(tmp_path.iterdir()) == [path]
