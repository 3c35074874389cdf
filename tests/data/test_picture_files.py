"""Pictures and captions from folders and tar shards, whole and damaged."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from sana_wm.data.captions import Captions, read_captions
from sana_wm.data.picture_files import list_pictures, open_picture

INK = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))


def encoded(picture=INK, kind="PNG", **how) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def write_tar(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            told = tarfile.TarInfo(name)
            told.size = len(data)
            shard.addfile(told, io.BytesIO(data))
    return path


FILES = {
    "b.png": encoded(), "b.txt": b" second \n\nfirst\nsecond\n", "a.JPG": encoded(kind="JPEG"), "a.txt": b"one",
    "deep/c.webp": encoded(kind="WEBP", lossless=True), "deep/c.json": b'{"x y": 25.5, "z": 27}',
}  # fmt: skip


def write_folder(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_folder_and_tar_are_the_same_set(tmp_path):
    folder = write_folder(tmp_path / "folder", FILES | {".hidden/d.png": encoded(), "readme.md": b"#"})
    shard = write_tar(tmp_path / "all.tar", dict(reversed(FILES.items())))
    (here, lost), (there, lost_too) = list_pictures(folder), list_pictures(shard)
    assert lost == lost_too == []
    assert [one.name for one in here] == ["a", "b", "deep/c"]
    for one, other in zip(here, there, strict=True):
        assert (one.name, one.captions) == (other.name, other.captions)
        assert one.picture.read() == other.picture.read()
    assert here[1].captions == Captions(("second", "first"))
    assert here[2].captions == Captions(("x y", "z"), (25.5, 27.0))


def test_shards_may_repeat_keys(tmp_path):
    for shard in ("0.tar", "1.tar"):
        write_tar(tmp_path / shard, {"k.png": encoded(), "k.txt": shard.encode()})
    listed, lost = list_pictures(tmp_path)
    assert [(one.name, one.captions.texts) for one in listed] == [("0/k", ("0.tar",)), ("1/k", ("1.tar",))] and not lost


def test_names_in_a_tar_lead_nowhere(tmp_path):
    """A member is bytes in the shard, whatever it is called, and links are not followed."""
    shard = write_tar(tmp_path / "s.tar", {"../../up.png": encoded(), "../../up.txt": b"x", "/abs.png": encoded()})
    with tarfile.open(shard, "a") as opened:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        opened.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    listed, lost = list_pictures(shard)
    assert [one.name for one in listed] == ["../../up"] and open_picture(listed[0].picture.read()).size == (7, 5)
    assert lost == [("/abs", "no captions (.txt or .json)")] and sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_used_is_told(tmp_path):
    files = {
        "a.png": encoded(), "b.txt": b"words", "c.png": encoded(), "c.txt": b"\n \n", "d.gif": b"GIF89a",
        "e.png": encoded(), "e.jpg": encoded(kind="JPEG"), "e.txt": b"x", "f.png": encoded(), "f.json": b"{oops",
        "g.png": encoded(), "g.json": b'{"width": 3, "url": "x"}', "h.png": encoded(), "h.txt": b"\xff\xfe\xff",
    }  # fmt: skip
    listed, lost = list_pictures(write_folder(tmp_path, files))
    reasons = dict(lost)
    assert [one.name for one in listed] == ["e"] and len(lost) == 8
    assert reasons["a"].startswith("no captions") and reasons["b"] == "captions without a picture"
    assert reasons["c"] == "its .txt holds no caption" and reasons["d.gif"].startswith("not one of .png")
    assert reasons["e.png"] == "there is a .jpg of the same name"
    assert reasons["f"].startswith("its .json cannot be read") and "neither a list" in reasons["g"]
    assert reasons["h"].startswith("its .txt cannot be read")


@pytest.mark.parametrize("name", ["cut.tar", "packed.tar", "nowhere", "empty", "x.zip"])
def test_damaged_and_absent_sets_are_refused(tmp_path, name):
    write_tar(tmp_path / "whole.tar", {"k.png": encoded() * 300, "k.txt": b"x"})
    whole = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(encoded()) * 200])
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as shard:
        shard.addfile(tarfile.TarInfo("k.png"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="whole, uncompressed tar|expected a folder|holds no picture"):
        list_pictures(tmp_path / name)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["a ", "b", "a", " "], Captions(("a", "b"))),
        ({"a": 30, " b": 25.5}, Captions(("a", "b"), (30.0, 25.5))),
        ({"caption": "a", "width": 5}, Captions(("a",))),
        ({"captions": {"a": 1.5}, "url": "u"}, Captions(("a",), (1.5,))),
        ({"caption": 30, "b": 2}, Captions(("caption", "b"), (30.0, 2.0))),
    ],
)
def test_layouts_of_json(told, expected):
    assert read_captions(json.dumps(told).encode(), ".json") == expected


def test_pictures_are_upright_rgb_on_white():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert open_picture(encoded(kind="JPEG", exif=exif)).size == (5, 7)
    clear = Image.new("RGBA", (3, 4), (255, 0, 0, 0))
    assert open_picture(encoded(clear)).getpixel((1, 1)) == (255, 255, 255)
    palette = INK.convert("P")
    assert open_picture(encoded(palette)).mode == "RGB" and open_picture(encoded(INK.convert("L"))).mode == "RGB"


@pytest.mark.parametrize("data", [b"", b"no picture", encoded()[:-30], encoded(Image.new("I;16", (4, 4)))])
def test_broken_pictures_say_so(data):
    with pytest.raises(ValueError, match="cannot be read"):
        open_picture(data)
