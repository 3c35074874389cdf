"""The command on a tiny release, end to end: against diffusers' pipeline, as a stream, stopped, and with mistakes."""

import io
import shutil
import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from sana_wm import generate
from sana_wm.generation.mp4 import read_about
from sana_wm.generation.pipeline import _Generation
from sana_wm.generation.pipeline import generate as make_video
from sana_wm.generation.planned import Planned
from sana_wm.generation.progress import Phases
from sana_wm.generation.settings import GenerateSettings
from tests.models.sana_reference import exact
from tests.models.tiny_sana_wm import CHANNELS, tiny_refiner, tiny_release

diffusers = pytest.importorskip("diffusers")
SIZE, GRID = (64, 96), (2, 3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("releases")
    tiny_release(place / "clip")
    tiny_release(place / "stream", streaming=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)).save(place / "p.png")
    return place


def settings(place, out, kind="clip", **changes):
    given = {
        "image": place / "p.png", "prompt": "a room", "model": str(place / kind), "resolution": SIZE, "out": out,
        "action": "w-10,dw-6" if kind == "clip" else "w-10,dw-14",
    }  # fmt: skip
    given |= {"preset": "sana-wm-bidirectional", "steps": 3} if kind == "clip" else {}
    return GenerateSettings(**given | changes)


def pictures(given, noise=None):
    console = Console(file=io.StringIO())
    parts = list(_Generation(Planned.of(given), Phases(console), noise).pictures())
    return np.concatenate(parts)


def shown(path):
    with av.open(str(path)) as video:
        return [picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)]


@pytest.mark.parametrize(
    ("kind", "frames", "more"),
    [
        ("clip", 17, ["steps=3", "preset=sana-wm-bidirectional"]),
        ("clip", 17, ["steps=3", "preset=sana-wm-chunk-causal"]),
        ("stream", 25, []),
    ],
)
def test_the_command(place, tmp_path, monkeypatch, capsys, kind, frames, more):
    out = tmp_path / "new" / "v.mp4"
    given = [f"model={place / kind}", f"image={place / 'p.png'}", "prompt=it's a room, [dusk]"]
    given += [f"action=w-10,dw-{frames - 11}", "resolution=[64,96]", f"out={out}", *more]
    monkeypatch.setattr(sys, "argv", ["generate", *given])
    generate.main()
    assert f"{frames} frames" in capsys.readouterr().out
    video = shown(out)
    assert len(video) == frames and video[0].shape == (*SIZE, 3)
    about = read_about(out)
    assert about["settings"]["prompt"] == "it's a room, [dusk]" and about["fps"] == 16


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_clip_equals_that_of_the_pipeline(place, tmp_path, monkeypatch, guidance):
    from diffusers.pipelines.sana_wm import pipeline_sana_wm
    from transformers import AutoTokenizer, Gemma2ForCausalLM, Gemma2Model

    from sana_wm.models.prompt_encoder import instruction

    release, noise = place / "clip", torch.randn(1, CHANNELS, 3, *GRID)
    camera = [80.0, 80.0, 75.0, 50.0]
    got = pictures(
        settings(place, tmp_path / "v.mp4", keys="ad-strafe", intrinsics=camera, guidance=guidance),
        lambda start, stop: noise[:, :, start:stop],
    )
    encoder = Gemma2Model.from_pretrained(release / "text_encoder")
    causal = Gemma2ForCausalLM(encoder.config).eval()
    causal.model = encoder
    pipeline = diffusers.SanaWMPipeline(
        AutoTokenizer.from_pretrained(release / "tokenizer"), causal,
        diffusers.AutoencoderKLLTX2Video.from_pretrained(release / "vae"),
        diffusers.SanaWMTransformer3DModel.from_pretrained(release / "transformer"),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=9.8),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(pipeline_sana_wm, "randn_tensor", lambda *args, **kwargs: noise.clone())
    with exact(torch.float32):
        expected = pipeline(
            Image.open(place / "p.png"), "a room", action="w-10,dw-6", intrinsics=camera, height=SIZE[0], width=SIZE[1],
            num_frames=17, num_inference_steps=3, guidance_scale=guidance, chi_prompt=instruction().split("\n"),
        ).frames  # fmt: skip
    assert got.shape == expected.shape
    assert np.abs(got - 255 * expected).max() <= 2


def test_a_longer_stream_begins_with_the_shorter_one(place, tmp_path):
    short = pictures(settings(place, tmp_path / "a.mp4", "stream"))
    long = pictures(settings(place, tmp_path / "b.mp4", "stream", action="w-10,dw-14,a-24"))
    assert len(short) == 25 and len(long) == 49
    assert np.array_equal(long[:25], short)


@pytest.mark.parametrize(("kind", "frames"), [("clip", 17), ("stream", 25)])
def test_refined(place, tmp_path, kind, frames):
    """The refiner's own prompt, its blocks, and no first frame, which it leaves as it came."""
    refiner = tiny_refiner(tmp_path / "refiner")
    plain = pictures(settings(place, tmp_path / "a.mp4", kind))
    refined = pictures(settings(place, tmp_path / "b.mp4", kind, refine=True, components={"refiner": refiner}))
    assert len(plain) == frames and len(refined) == frames - 1
    assert np.abs(refined.astype(int) - plain[1:]).mean() > 1


def broken_at(frame, error):
    """Noise of a stream that fails when the chunk of this latent frame comes."""

    def noise(start, stop):
        if stop > frame:
            raise error
        return torch.zeros(1, CHANNELS, stop - start, *GRID)

    return noise


def test_a_stopped_video_can_be_played(place, tmp_path):
    given = settings(place, tmp_path / "v.mp4", "stream", action="w-48")
    with pytest.raises(KeyboardInterrupt, match="holds 25 of 49 frames and can be played"):
        make_video(given, Console(file=io.StringIO()), broken_at(4, KeyboardInterrupt()))
    assert len(shown(given.out)) == 25


def test_out_of_memory_says_what_to_change(place, tmp_path):
    given = settings(place, tmp_path / "v.mp4", action="w-32")
    failure = broken_at(1, RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(ValueError, match=r"on cpu at 'denoise'(.|\n)*1. streaming=true(.|\n)*num_frames="):
        make_video(given, Console(file=io.StringIO()), failure)
    assert not given.out.exists()


def test_mistakes_are_one_clear_error(place, tmp_path):
    bare, taken = tmp_path / "bare", tmp_path / "taken.mp4"
    shutil.copytree(place / "clip", bare)
    shutil.rmtree(bare / "text_encoder")
    taken.touch()
    (tmp_path / "no.png").write_text("no picture")
    np.save(tmp_path / "poses.npy", np.tile(np.eye(4), (5, 1, 1)))
    out = tmp_path / "v.mp4"
    for changes, message in (
        ({"model": str(bare)}, r"text_encoder=<path>(.|\n)*Gemma-2-2b-it"),
        ({"refine": True}, r"refiner: the LTX-2 refiner"),
        ({"image": tmp_path / "no.png"}, "not a readable picture"),
        ({"image": tmp_path / "nothing.png"}, "no such file"),
        ({"action": "w-10,x-5"}, r"segment 2 'x-5'(.|\n)*\^\^\^"),
        ({"action": None, "camera": tmp_path / "poses.npy"}, "got 5 poses, expected at least 9"),
        ({"num_frames": 100}, "lengthen it by"),
        ({"out": taken}, "overwrite=true"),
        ({"streaming": True}, "force=true"),
        ({"dtype": "float8"}, "expected one of auto, bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            Planned.of(settings(place, **{"out": out} | changes))
    assert not out.exists()
