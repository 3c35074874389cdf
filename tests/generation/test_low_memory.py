"""Little memory on the whole way, of pictures and videos: quantised networks, the plan told first, 4096 px in tiles."""

import io
import re
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from sana_wm.generation import clip_job, image_job, memory_plan
from sana_wm.generation.clip_job import generate_clips
from sana_wm.generation.clip_release import video_coder
from sana_wm.generation.clip_settings import ClipSettings
from sana_wm.generation.image_file import read_settings
from sana_wm.generation.image_job import generate_images
from sana_wm.generation.image_release import networks_of
from sana_wm.generation.image_settings import ImageSettings
from sana_wm.generation.memory_formulas import Asked, VideoCoder, gemma2_2b
from sana_wm.generation.memory_plan import Networks, changes_that_help, plan_memory
from sana_wm.generation.mp4 import read_about
from sana_wm.models.dc_ae import DCAE_PRESETS, Decoder
from sana_wm.models.presets import preset
from sana_wm.models.quantised import kind_of
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.wan_vae import load_video_vae
from tests.generation.tiny_clip import tiny_clip_release
from tests.generation.tiny_image import diffusers_transformer, tiny_image_release

pytest.importorskip("diffusers")
QUIET = Console(quiet=True)
WAN = VideoCoder(126_892_531, torch.float32, 8, 4, 96.0, True, True, 256)  # of Wan 2.1


@pytest.fixture(scope="module")
def sana(tmp_path_factory):
    return tiny_image_release(tmp_path_factory.mktemp("sana"))


def settings(release, out, **changes):
    given = {"prompt": "a cat", "height": 64, "width": 96, "steps": 2, "device": "cpu"}
    return ImageSettings(str(release), out=out, **given | changes)


def pixels(path):
    return np.asarray(Image.open(path)).astype(float)


# --- quantised -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "most"), [("int8", 3), ("int4", 40)])
def test_pictures_of_quantised_networks_look_alike(sana, tmp_path, monkeypatch, kind, most):
    pytest.importorskip("torchao")
    (full,) = generate_images(settings(sana, tmp_path / "full.png"), QUIET).paths
    seen = []
    for owner, name in ((image_job, "SanaTransformer"), (image_job, "load_text_encoder")):
        build = getattr(owner, name)

        def noted(*args, build=build, **how):
            made = build(*args, **how)
            seen.append(kind_of(made))
            return made

        if name == "SanaTransformer":
            build = build.from_pretrained
            monkeypatch.setattr(
                SanaTransformer, "from_pretrained", lambda *a, noted=noted, b=build, **h: noted(*a, build=b, **h)
            )
        else:
            monkeypatch.setattr(owner, name, noted)
    both = {"quantise": kind, "quantise_text": kind}
    (small,) = generate_images(settings(sana, tmp_path / "small.png", **both), QUIET).paths
    assert seen == [kind, kind]
    assert 0 < np.abs(pixels(full) - pixels(small)).mean() < most
    assert {name: read_settings(small)[name] for name in both} == both and "quantise" not in read_settings(full)


@pytest.mark.parametrize("name", ["quantise", "quantise_text"])
def test_kinds_that_there_are_not_are_refused(sana, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}=int3: expected one of none, int8, int4"):
        settings(sana, tmp_path, **{name: "int3"})
    assert settings(sana, tmp_path, **{name: None}).kind(name) is None
    with pytest.raises(ValueError, match="plan=1"):
        settings(sana, tmp_path, plan=1)


def test_another_kind_than_the_files_have_is_refused_before_anything_is_read(sana, tmp_path, monkeypatch):
    pytest.importorskip("torchao")
    release = tmp_path / "small"
    shutil.copytree(sana, release, ignore=shutil.ignore_patterns("transformer"))
    SanaTransformer.from_pretrained(sana / "transformer", quantise="int8").save_pretrained(release / "transformer")
    monkeypatch.setattr(image_job, "load_text_encoder", None)  # not reached
    with pytest.raises(ValueError, match="saved in int8: load it as it is, or the full-precision weights in int4"):
        generate_images(settings(release, tmp_path / "a.png", quantise="int4"), QUIET)


# --- the plan --------------------------------------------------------------------------------------------------------


def told(given):
    text = io.StringIO()
    made = generate_images(given, Console(file=text, width=200))
    return made, text.getvalue()


def test_a_plan_reads_no_weights_and_writes_nothing(sana, tmp_path, monkeypatch):
    def read(*_, **__):
        raise AssertionError("weights were read")

    for name in ("load_text_encoder", "SanaTransformer", "DCAE"):
        monkeypatch.setattr(image_job, name, read)
    made, text = told(settings(sana, tmp_path / "out", plan=True))
    assert made.paths == [] and not (tmp_path / "out").exists() and made.memory == "expected memory"
    assert re.findall(r"^(\S.*?) +weights", text, re.MULTILINE) == ["text encoder", "transformer", "autoencoder"]
    assert f"expected peak {made.peak / 1e9:.2f} GB; available on cpu" in text and "does not fit" not in text


def test_the_plan_comes_before_the_work_and_names_what_to_change(sana, tmp_path, monkeypatch):
    _, text = told(settings(sana, tmp_path / "a.png"))
    assert text.index("expected peak") < text.index("load text encoder")
    published = Networks(preset("sana-600m", depth=2), gemma2_2b(), DCAE_PRESETS["f32c32-sana-1.1"])
    monkeypatch.setattr(image_job, "networks_of", lambda folder: published)
    for available, expected in ((6e9, "dtype=bfloat16"), (3e9, "quantise_text=int4")):
        monkeypatch.setattr(memory_plan, "available_memory", lambda device, bytes=available: int(bytes))
        _, text = told(settings(sana, tmp_path / "b.png", plan=True))
        assert "it does not fit" in text
        assert re.findall(r"^  (\S+): expected peak \d+\.\d\d GB$", text, re.MULTILINE) == [expected], text
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 1)
    monkeypatch.setattr(memory_plan, "changes_that_help", lambda *_: [])
    assert "a machine with more memory" in told(settings(sana, tmp_path / "b.png", plan=True))[1]


def test_a_release_is_known_from_headers_alone(sana):
    networks = networks_of(sana)
    assert networks.transformer.width == 16 and networks.autoencoder.compression == 32 and networks.saved_as is None
    assert networks.text["layers.0.self_attn.q_proj.weight"] == (8, networks.transformer.text_dim)


def test_want_of_memory_says_what_was_expected_and_what_helps(sana, tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(image_job, "write_png", full)
    with pytest.raises(ValueError, match=r"expected was a peak of \d.*quantise=int8, or int4"):
        generate_images(settings(sana, tmp_path), QUIET)


# --- videos ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip_release(tmp_path_factory.mktemp("clip"), shift=5.0, sample_size=4)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return tiny_clip_release(tmp_path_factory.mktemp("long"), causal=True, sample_size=4)


def video(release, out, **changes):
    given = {"prompt": "a cat", "size": [32, 48], "frames": 9, "steps": 2, "device": "cpu"}
    return ClipSettings(str(release), out=out, **given | changes)


def told_of_video(given):
    text = io.StringIO()
    made = generate_clips(given, Console(file=text, width=200))
    return made, text.getvalue()


@pytest.mark.parametrize(("kind", "most"), [("int8", 3), ("int4", 40)])
def test_videos_of_quantised_networks_look_alike(clip, tmp_path, kind, most):
    pytest.importorskip("torchao")
    both = {"quantise": kind, "quantise_text": kind}
    frames = []
    for name, given in (("full", {}), ("small", both)):
        (path,) = generate_clips(video(clip, tmp_path / f"{name}.mp4", **given), QUIET).paths
        assert {key: value for key, value in read_about(path).items() if key in both} == given
        with av.open(str(path)) as opened:
            shown = [picture.to_ndarray(format="rgb24").astype(float) for picture in opened.decode(video=0)]
        frames.append(np.stack(shown))
    assert 0 < np.abs(frames[0] - frames[1]).mean() < most


def test_a_plan_of_a_video_reads_no_weights_and_writes_nothing(clip, long, tmp_path, monkeypatch):
    def read(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(SanaTransformer, "from_pretrained", read)
    for name in ("load_text_encoder", "load_video_vae"):
        monkeypatch.setattr(clip_job, name, read)
    for release, frames, phases in (
        (clip, 9, ["text encoder", "transformer", "autoencoder"]),
        (long, 17, ["text encoder", "transformer and autoencoder"]),
    ):
        steps = {} if release == clip else {"steps": None}
        made, text = told_of_video(video(release, tmp_path / "out", plan=True, frames=frames, **steps))
        assert made.paths == [] and not (tmp_path / "out").exists() and made.memory == "expected memory"
        assert re.findall(r"^(\S.*?) +weights", text, re.MULTILINE) == phases
        assert f"expected peak {made.peak / 1e9:.2f} GB; available on cpu" in text and "does not fit" not in text


@pytest.mark.parametrize(("model", "size", "phases"), [
    ("sana-600m-512", (512, 512), 3), ("sana-1600m-4k", (4096, 4096), 3), ("sana-sprint-600m", (1024, 1024), 3),
    ("sana-video-2b", (480, 832), 3), ("sana-video-2b-720p", (704, 1280), 3), ("longsana-2b", (480, 832), 2),
])  # fmt: skip
def test_a_plan_of_a_published_member_needs_no_file(model, size, phases, tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("something was fetched")

    monkeypatch.setattr("sana_wm.generation.image_release.fetch", fetch)
    seen = []
    for job in (image_job, clip_job):
        monkeypatch.setattr(job, "plan_memory", lambda *asked: seen.append(asked) or plan_memory(*asked))
    video = "video" in model or "long" in model
    make, kind = (generate_clips, ClipSettings) if video else (generate_images, ImageSettings)
    given = {"prompt": "a cat", "out": tmp_path / "out", "dtype": "bfloat16", "device": "cpu"}
    text = io.StringIO()
    made = make(kind(model, plan=True, **given), Console(file=text, width=200))
    ((networks, asked, _),) = seen
    cell = getattr(networks.autoencoder, "cell", None) or networks.autoencoder.compression
    assert tuple(side * cell for side in asked.grid) == size
    told = re.findall(r"^\S.*? +weights +([\d.]+)", text.getvalue(), re.MULTILINE)
    assert len(told) == phases and told[0] == "5.23" and made.peak > 5.5e9
    with pytest.raises(AssertionError, match="fetched"):  # not the plan alone
        make(kind(model, **given), QUIET)


def test_a_plan_of_a_video_names_what_to_change(clip, tmp_path, monkeypatch):
    published = Networks(preset("sana-video-2b-480p", depth=2), gemma2_2b(), WAN)
    monkeypatch.setattr(clip_job, "networks_of", lambda *_: published)
    asked = Asked((60, 104), 21, dtype=torch.float32)
    for gigabytes, expected in ((11, ["dtype=bfloat16"]), (1, [])):
        monkeypatch.setattr(memory_plan, "available_memory", lambda device, gb=gigabytes: int(gb * 1e9))
        plan = plan_memory(published, asked, "cpu")
        changes = [name for name, _ in changes_that_help(published, asked, "cpu", plan)]
        assert changes[: len(expected)] == expected and (gigabytes == 11) == (len(changes) == len(expected)), changes
    assert {"tiling=on", "dtype=bfloat16", "frames=37"} < set(changes)
    _, text = told_of_video(video(clip, tmp_path / "a.mp4", plan=True))
    assert "it does not fit. Add" in text


def test_weights_of_video_autoencoders_are_counted_to_the_byte(clip):
    for kind, dtype in (("clip", torch.float32), ("ltx", torch.bfloat16)):
        release = clip if kind == "clip" else tiny_clip_release(clip.parent / "ltx", vae="ltx", sample_size=4)
        network = load_video_vae(release / "vae", dtype)
        held = sum(tensor.nbytes for tensor in network.vae.state_dict().values())
        assert video_coder(release / "vae").weights(Asked((2, 3), dtype=dtype)) == held


def test_decoding_latent_by_latent_takes_the_same_for_any_length_and_tiles_take_less():
    short, far = (WAN.working(Asked((60, 104), frames)) for frames in (21, 210))
    assert short == far > 9e9 > 4e9 > WAN.working(Asked((60, 104), 21, tiling="on"))
    ltx = replace(WAN, dtype=None, features=8.0, streams=False, by_frame=False, cell=32, stride=8, tile=512)
    sizes = [ltx.working(Asked((22, 40), frames, tiling=how)) for frames in (11, 21) for how in ("auto", "off")]
    assert sizes[0] < sizes[1] < sizes[3] and 1.8 * sizes[0] < sizes[2] < 2 * sizes[0]


# --- 4096 pixels -----------------------------------------------------------------------------------------------------


def test_4096_pixels_are_decoded_in_tiles(tmp_path, monkeypatch):
    """The whole way of the 4K member: its positions and its shift, 128 x 128 latents, 25 tiles, one picture."""
    release = tiny_image_release(tmp_path / "release")
    large = diffusers_transformer(sample_size=128, interpolation_scale=2.0, num_layers=1)
    large.save_pretrained(release / "transformer")
    tiles, forward = [], Decoder.forward

    def decode(self, latents):
        tiles.append(tuple(latents.shape[2:]))
        return forward(self, latents)

    monkeypatch.setattr(Decoder, "forward", decode)
    given = ImageSettings(
        str(release), prompt="a cat", size=4096, steps=1, guidance=1.0, device="cpu", out=tmp_path / "a.png"
    )
    (path,) = generate_images(given, QUIET).paths
    about = read_settings(path)
    assert (about["height"], about["width"], about["shift"]) == (4096, 4096, 6.0)
    last = [(32, 16)], [(16, 32)] * 4 + [(16, 16)]
    assert tiles == ([(32, 32)] * 4 + last[0]) * 4 + last[1]
    with Image.open(path) as picture:
        assert picture.size == (4096, 4096)
        corners = np.asarray(picture)[[0, -1]][:, [0, -1]].astype(float)
    assert corners.std() > 0  # no tile was left out
