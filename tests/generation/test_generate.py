"""The command on a tiny release: a clip and a stream end as videos of the right length and size."""

import sys

import av
import numpy as np
import pytest
from PIL import Image

from sana_wm import generate
from tests.models.tiny_sana_wm import tiny_release

pytest.importorskip("diffusers")


@pytest.mark.parametrize(
    ("streaming", "frames", "settings"),
    [(False, 17, ["steps=3", "preset=sana-wm-bidirectional"]), (True, 25, [])],
)
def test_a_video(tmp_path, monkeypatch, streaming, frames, settings):
    release = tiny_release(tmp_path / "release", streaming=streaming)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)).save(tmp_path / "p.png")
    out = tmp_path / "v.mp4"
    given = [f"model={release}"]
    given += [f"image={tmp_path / 'p.png'}", "prompt=a room, [dusk]", f"action=w-10,dw-{frames - 11}"]
    monkeypatch.setattr(sys, "argv", ["generate", *given, "resolution=[64,96]", f"out={out}", *settings])
    generate.main()
    with av.open(str(out)) as video:
        pictures = list(video.decode(video=0))
    assert len(pictures) == frames and (pictures[0].height, pictures[0].width) == (64, 96)
