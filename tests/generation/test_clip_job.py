"""The video job: settings, names and folders, and the whole way from prompts to MP4 files, in miniature."""

import gc
import io
import json
import shutil

import av
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from sana_wm.generation.clip_job import generate_clips
from sana_wm.generation.clip_names import RELEASES
from sana_wm.generation.clip_release import (
    base_of,
    known_preset,
    locate_clip_release,
    named_preset,
    patch_of,
    released_sampling,
)
from sana_wm.generation.clip_sampling import SAMPLING, ClipSampling
from sana_wm.generation.clip_settings import ClipSettings
from sana_wm.generation.mp4 import read_about
from sana_wm.generation.which_job import job_of
from sana_wm.models.family import FAMILY
from sana_wm.models.prompt_encoder import instruction
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.weights import published_from_ours
from tests.generation.tiny_clip import tiny_clip_release

pytest.importorskip("diffusers")
QUIET = Console(quiet=True)
SMALL = {"size": [32, 48], "device": "cpu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Releases whose transformers say no size that bins are known for, so that any size goes.

    "draft" is LongSANA as a draft of diffusers has it, "long" the same as we write it, in blocks of 2 latent frames.
    """
    place = tmp_path_factory.mktemp("releases")
    tiny_clip_release(place / "clip", shift=5.0, sample_size=4)
    tiny_clip_release(place / "draft", causal=True, sample_size=4)
    tiny_clip_release(place / "ltx", vae="ltx", sample_size=4)
    shutil.copytree(place / "draft", place / "long", ignore=shutil.ignore_patterns("transformer"))
    network = SanaTransformer.from_pretrained(place / "draft" / "transformer", chunk_size=2, sample_size=0)
    network.save_pretrained(place / "long" / "transformer")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    Image.fromarray(pixels).save(place / "p.png")
    return place


def shown(path):
    with av.open(str(path)) as video:
        return np.stack([picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)]).astype(int)


def clips(place, out, kind="clip", **changes):
    given = {"prompt": "a cat"} | SMALL | ({"frames": 9, "steps": 2} if kind == "clip" else {"frames": 17})
    if {"prompts", "script"} & set(changes):
        given.pop("prompt")
    return generate_clips(ClipSettings(str(place / kind), out=out, **given | changes), QUIET)


# --- settings --------------------------------------------------------------------------------------------------------


def test_lanes_are_prompts_times_videos(tmp_path):
    (tmp_path / "prompts.txt").write_text("A cat\n\n  a DOG, running!  \n")
    settings = ClipSettings("m", prompts=tmp_path / "prompts.txt", videos=2, seed=7, out=tmp_path)
    assert [(lane.scenes, lane.seed) for lane in settings.lanes()] == [
        (((0.0, text),), seed) for text in ("A cat", "a DOG, running!") for seed in (7, 8)
    ]
    names = [lane.path.name for lane in settings.lanes()]
    assert names == ["0-a-cat-7.mp4", "1-a-cat-8.mp4", "2-a-dog-running-7.mp4", "3-a-dog-running-8.mp4"]


def test_a_picture_needs_no_prompt(place, tmp_path):
    (lane,) = ClipSettings("m", image=place / "p.png", out=tmp_path).lanes()
    assert lane.scenes == ((0.0, ""),) and lane.path.name == "0-p-0.mp4"
    assert [lane.path.name for lane in ClipSettings("m", prompt="?!", out=tmp_path).lanes()] == ["0-video-0.mp4"]


def test_what_is_given_replaces_the_release():
    given = {"steps": 30, "guided": [0.2, 0.9], "motion": 0, "fps": 24}
    sampling = ClipSettings("m", prompt="x", **given).sampling(ClipSampling(shift=7.0))
    assert sampling == ClipSampling(steps=30, shift=7.0, guided=(0.2, 0.9), motion=0, fps=24)
    listed = ClipSettings("m", prompt="x", steps=[1000, 900, 0]).sampling(SAMPLING["longsana-2b-480p"])
    torch.testing.assert_close(listed.schedule(), torch.tensor([1.0, 0.9, 0.0]))


@pytest.mark.parametrize(
    ("given", "stride", "frames"),
    [({}, 4, 81), ({"frames": 33}, 4, 33), ({"seconds": 5}, 4, 81), ({"seconds": 5}, 8, 81), ({"seconds": 0.1}, 8, 9),
     ({"seconds": 60}, 4, 961), ({"seconds": 2, "fps": 24}, 8, 49)],
)  # fmt: skip
def test_length(given, stride, frames):
    settings = ClipSettings("m", prompt="x", **given)
    assert settings.num_frames(settings.sampling(ClipSampling()), stride) == frames
    assert (frames - 1) % stride == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"prompt": None}, "got none of prompt, prompts and script"),
        ({"prompts": "there.txt"}, "got prompt and prompts"),
        ({"prompt": None, "prompts": "missing.txt"}, "no such file"),
        ({"prompt": None, "prompts": "empty.txt"}, "holds no text"),
        ({"prompt": None, "script": "empty.txt"}, "holds no scenes"),
        ({"prompt": None, "script": "there.txt"}, "line 1: 'x'; expected a time in seconds and a prompt"),
        ({"prompt": None, "script": "late.txt"}, "begins at 2 seconds; expected a time 0, for the first"),
        ({"prompt": None, "script": "back.txt"}, "line 3: begins at 4 seconds; expected a time after 4"),
        ({"videos": 0}, "videos=0"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"frames": 5, "seconds": 1}, "give one"),
        ({"frames": True}, "frames=True"),
        ({"seconds": 0}, "seconds=0"),
        ({"seconds": float("inf")}, "seconds=inf"),
        ({"fps": -1}, "fps=-1"),
        ({"motion": -1}, "motion=-1"),
        ({"height": 64}, "both or neither"),
        ({"height": 63, "width": 64}, "height=63: expected an even number"),
        ({"size": 64, "height": 64, "width": 64}, "give size, or the other two"),
        ({"size": [64, 32, 32]}, r"\[height,width\]"),
        ({"dtype": "float16"}, "expected one of auto"),
        ({"offload": "some"}, "expected one of auto, sequential"),
        ({"tiling": True}, "tiling=True"),
        ({"preset": "sana-1600m"}, "expected one of null, sana-video-2b-480p"),
        ({"null_mask": "none"}, "null_mask=none"),
        ({"out": "a.mp4", "videos": 2}, "name a folder"),
        ({"out": "there.mp4"}, "exists"),
        ({"image": "missing.png"}, "no such file"),
        ({"transformer": "missing"}, "no such file or folder"),
        ({"guidance": "abc"}, "guidance=abc"),
        ({"guided": [0.9, 0.1]}, "guided="),
        ({"shift": float("nan")}, "shift=nan"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"steps": [1000]}, "steps="),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, changes, match):
    monkeypatch.chdir(tmp_path)
    texts = {"there.txt": "x", "there.mp4": "x", "empty.txt": "\n", "late.txt": "2 x", "back.txt": "0 a\n4 b\n4 c"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match):
        ClipSettings(**{"model": "m", "prompt": "x"} | changes).lanes()


@pytest.mark.parametrize(
    ("model", "changes", "match"),
    [
        ("sana-video-2b", {"prompt": None, "script": "story.txt"}, "only LongSANA, which goes block by block"),
        ("sana-video-2b-720p", {"steps": [1000, 500, 0]}, "only LongSANA reads a list"),
        ("longsana-2b", {"guided": [0.1, 0.9]}, "LongSANA does not read it"),
        (RELEASES["longsana-2b"], {"steps": [500, 1000, 0]}, "decreasing list"),
        ("somewhere", {"preset": "sana-video-2b-480p", "steps": [1000, 0]}, "only LongSANA reads a list"),
    ],
)
def test_settings_that_would_not_be_read_are_refused_before_anything_is_fetched(
    tmp_path, monkeypatch, model, changes, match
):
    from sana_wm.generation import clip_job

    def fetched(model):
        raise AssertionError("too late")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text("0 x")
    monkeypatch.setattr(clip_job, "locate_clip_release", fetched)
    with pytest.raises(ValueError, match=match):
        generate_clips(ClipSettings(**{"model": model, "prompt": "x", "out": tmp_path / "out"} | changes), QUIET)


# --- releases --------------------------------------------------------------------------------------------------------


def test_names():
    assert all(job_of(name) == "clip" for name in (*RELEASES, *RELEASES.values()))
    assert {named_preset(name) for name in RELEASES} == set(SAMPLING) <= set(FAMILY)
    assert {name for name in FAMILY if "video" in name or "longsana" in name} <= set(RELEASES)
    assert named_preset("sana-video-2b") == "sana-video-2b-480p" and named_preset("somewhere") is None


def test_names_are_resolved_without_torch():
    import subprocess
    import sys

    code = "import sys; from sana_wm.generation.which_job import job_of; job_of('sana-video-2b'); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_folder_says(place, tmp_path):
    clip, long = place / "clip", place / "long"
    assert {job_of(str(folder)) for folder in (clip, long, place / "ltx")} == {"clip"}
    assert released_sampling("x", clip, None, None) == ClipSampling(shift=5.0)
    assert released_sampling("x", place / "draft", None, None) == SAMPLING["longsana-2b-480p"]
    assert released_sampling("x", long, None, None) == SAMPLING["longsana-2b-480p"]
    assert released_sampling("x", clip, None, "longsana-2b-480p") == SAMPLING["longsana-2b-480p"]
    assert released_sampling("sana-video-2b", clip, None, None).shift == 8.0  # the name knows better than the file
    assert released_sampling("sana-video-2b", clip, long / "transformer", None) == SAMPLING["longsana-2b-480p"]
    for repo in set(RELEASES.values()):
        cached = tmp_path / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc"
        assert {named_preset(str(path)) for path in (repo, tmp_path / repo.split("/")[1], cached)} == {
            named_preset(repo)
        }
    assert locate_clip_release(str(clip)) == clip
    with pytest.raises(ValueError, match="lacks transformer/.* of a video release"):
        locate_clip_release(str(tmp_path))
    with pytest.raises(ValueError, match="known names: sana-video-2b"):
        locate_clip_release("nothing")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    with pytest.raises(ValueError, match=r"flow_shift.*preset=sana-video-2b-480p\|"):
        released_sampling("x", tmp_path, None, None)


@pytest.mark.parametrize(
    ("config", "channels", "base", "patch"),
    [
        ({"sample_size": 30, "patch_size": [1, 2, 2]}, 16, 480, 2),
        ({"sample_size": 22, "patch_size": [1, 1, 1]}, 128, 720, 1),
        ({"sample_size": 30, "patch_size": 2}, 16, 480, 2),
        ({}, 16, 480, 2),
        ({}, 128, 720, 1),
        ({"sample_size": 0}, 128, None, 1),
    ],
)
def test_sizes_that_a_transformer_was_trained_at(config, channels, base, patch):
    assert (base_of(config, channels), patch_of(config, channels)) == (base, patch)


def test_longsanas_class_of_diffusers_draft_is_read_as_the_causal_member(place):
    net = SanaTransformer.from_pretrained(place / "draft" / "transformer")
    plain = SanaTransformer.from_pretrained(place / "clip" / "transformer")
    assert net.config.temporal == "chunk_causal" and net.config.chunks(21) == (11, 10)
    assert plain.config.temporal == "bidirectional"
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_prompts_become_files_that_can_be_made_again(place, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    shared = {"steps": 2, "frames": 9, "guidance": 3.0}
    made = clips(
        place, tmp_path / "out", prompts=tmp_path / "prompts.txt", videos=2, seed=3, cache=tmp_path / "cache", **shared
    )
    assert made.paths == sorted((tmp_path / "out").iterdir()) and len(made.paths) == 4 and made.frames == 36
    videos = [shown(path) for path in made.paths]
    assert all(video.shape == (9, 32, 48, 3) for video in videos)
    assert np.abs(videos[0] - videos[1]).mean() > 2  # another seed
    assert len(list((tmp_path / "cache").iterdir())) == 3  # two prompts and the negative one
    about = read_about(made.paths[3])
    assert (about["prompt"], about["seed"], about["shift"], about["steps"]) == ("a dog", 4, 5.0, 2)
    assert (about["frames"], about["fps"], about["dtype"]) == (9, 16.0, "float32")
    assert about["instruction"] == instruction("video") and about["guidance"] == 3.0
    alone = tmp_path / "one.mp4"
    (again,) = clips(place, alone, prompt=about["prompt"], seed=about["seed"], **shared).paths
    assert np.abs(shown(again) - videos[3]).max() <= 3
    with pytest.raises(ValueError, match="exists"):
        clips(place, alone)


@pytest.mark.parametrize(("kind", "frames"), [("clip", 9), ("ltx", 17), ("long", 17)])
def test_a_video_begins_with_the_picture(place, tmp_path, kind, frames):
    size = {"size": [64, 96]} if kind == "ltx" else {}
    how = {"frames": frames, "image": place / "p.png", **size} | ({} if kind == "long" else {"steps": 2})
    one, two = (shown(clips(place, tmp_path / f"{seed}.mp4", kind, seed=seed, **how).paths[0]) for seed in (0, 1))
    assert len(one) == frames and one.shape[1:3] == tuple(size.get("size", SMALL["size"]))
    assert np.abs(one[0] - two[0]).max() <= 12 < np.abs(one[-1] - two[-1]).max()  # the codec is not exact
    assert read_about(tmp_path / "0.mp4")["image"].endswith("p.png")
    without = shown(clips(place, tmp_path / "w.mp4", kind, **how | {"image": None}).paths[0])
    assert np.abs(one[0] - without[0]).mean() > 0.3


def test_scenes_that_no_block_reads_are_refused(place, tmp_path):
    (tmp_path / "story.txt").write_text("0 a cat\n0.5 a dog\n1 a fish\n")
    with pytest.raises(ValueError, match="scenes at 0.5 seconds would never be read.*begin at 0, 2.25 seconds"):
        clips(place, tmp_path / "b.mp4", kind="long", script=tmp_path / "story.txt", fps=4)
    assert not (tmp_path / "b.mp4").exists()


def test_longsanas_script_changes_the_blocks_behind_it(place, tmp_path):
    (tmp_path / "story.txt").write_text("0 a cat\n\n2.5 It rains, [hard]\n")
    how = {"kind": "long", "frames": 25, "fps": 4}  # 7 latents: blocks of 3, 2 and 2, from frames 0, 9 and 17
    plain = shown(clips(place, tmp_path / "a.mp4", **how).paths[0])
    (path,) = clips(place, tmp_path / "b.mp4", script=tmp_path / "story.txt", **how).paths
    told = shown(path)
    assert len(plain) == len(told) == 25
    assert np.array_equal(plain[:17], told[:17])  # 2.5 seconds are frame 10, and the block of it had begun
    assert np.abs(plain[17:] - told[17:]).mean() > 0.3
    assert read_about(path)["script"] == [[0, "a cat"], [2.5, "It rains, [hard]"]]


def live_bytes() -> int:
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_longsana_takes_the_memory_of_its_second_block_for_any_length(place, tmp_path, monkeypatch):
    from sana_wm.generation.mp4 import Mp4Writer

    write, seen, sizes = Mp4Writer.write, [], []

    def watched(video, frames):
        write(video, frames)
        if video.num_frames % 8 == 1:  # a block is done
            seen.append(live_bytes())
            sizes.append(video.path.stat().st_size)

    monkeypatch.setattr(Mp4Writer, "write", watched)
    clips(place, tmp_path / "a.mp4", "long", frames=41, steps=1)
    assert len(seen) == 6 and len(set(seen[2:])) == 1
    assert all(b > a for a, b in zip(sizes[1:], sizes[2:], strict=False))  # the file grows on the way


@pytest.mark.parametrize("picture", [False, True])
@pytest.mark.parametrize("kind", ["clip", "long"])
def test_networks_take_turns(place, tmp_path, monkeypatch, kind, picture):
    """Of whole clips one network is in memory at a time; of LongSANA one is on the device at a time."""
    import weakref
    from contextlib import contextmanager

    from sana_wm.generation import clip_job, image_release

    alive, order, busy, turns = [], [], [], []

    def watched(build, name):
        def load(*args, **how):
            gc.collect()
            if kind == "clip":
                assert [other() for other in alive if other() is not None] == []
            made = build(*args, **how)
            alive.append(weakref.ref(made))
            order.append(name)
            return made

        return load

    class Recorder:
        sequential = True

        @contextmanager
        def use(self, module):
            assert busy == []
            busy.append(module)
            turns.append(type(module).__name__)
            yield
            busy.clear()

    for owner, name in ((image_release, "PromptEncoder"), (clip_job, "SanaTransformer")):
        monkeypatch.setattr(
            getattr(owner, name), "from_pretrained", watched(getattr(owner, name).from_pretrained, name)
        )
    monkeypatch.setattr(clip_job, "load_video_vae", watched(clip_job.load_video_vae, "VAE"))
    monkeypatch.setattr(clip_job, "choose_offload", lambda *_: Recorder())
    image = {"image": place / "p.png"} if picture else {}
    made = clips(place, tmp_path / "out", kind, videos=2, frames=17, steps=1, **image)
    assert len(made.paths) == 2
    if kind == "clip":
        assert order == ["PromptEncoder", *["VAE"] * picture, "SanaTransformer", "VAE"] and not turns
    else:
        assert order == ["PromptEncoder", "VAE", "SanaTransformer"]
        assert set(turns) == {"SanaTransformer", "WanVAE"} and turns.count("WanVAE") > 10


def test_weights_of_another_folder(place, tmp_path):
    """LongSANA's beside the other parts of SANA-Video, as NVlabs publishes them."""
    (path,) = clips(place, tmp_path / "a.mp4", transformer=place / "long" / "transformer", frames=17, steps=1).paths
    assert read_about(path)["sampler"] == "renoise"
    assert np.array_equal(shown(path), shown(clips(place, tmp_path / "b.mp4", "long", steps=1).paths[0]))
    with pytest.raises(ValueError, match="channels in patches of 1, expected 4 and 2|patches of"):
        clips(place, tmp_path / "c.mp4", transformer=place / "ltx" / "transformer", size=[64, 96], frames=9)


def test_weights_without_a_config_are_what_the_name_or_preset_says(place, tmp_path):
    """A single file with NVlabs' names, as converted from what NVlabs publishes."""
    net = SanaTransformer.from_pretrained(place / "draft" / "transformer")
    file = tmp_path / "longsana.safetensors"
    save_file({name: t.contiguous() for name, t in published_from_ours(net.state_dict(), 2).items()}, file)
    clip = place / "clip"
    assert released_sampling("longsana-2b", clip, file, None) == SAMPLING["longsana-2b-480p"]
    assert released_sampling("x", clip, file, "longsana-2b-480p") == SAMPLING["longsana-2b-480p"]
    assert released_sampling("x", clip, file, None) == ClipSampling(shift=5.0)
    assert known_preset("longsana-2b", place / "clip" / "transformer") is None  # which says that it is SANA-Video
    own = tmp_path / "own"
    SanaTransformer.from_pretrained(clip / "transformer").save_pretrained(own)
    renamed = tmp_path / RELEASES["longsana-2b"].split("/")[1]
    shutil.copytree(place / "clip", renamed)
    (made,) = generate_clips(
        ClipSettings(str(renamed), prompt="x", frames=9, steps=1, out=tmp_path / "a.mp4", **SMALL), QUIET
    ).paths
    assert read_about(made)["sampler"] == "renoise"  # by the name of the folder, whatever the transformer's class
    shutil.rmtree(renamed / "transformer")
    shutil.copytree(own, renamed / "transformer")
    with pytest.raises(ValueError, match="it sees whole clips .*give preset=longsana-2b-480p"):
        generate_clips(ClipSettings(str(renamed), prompt="x", out=tmp_path / "b.mp4", **SMALL), QUIET)


def test_a_stop_says_how_far_it_came(place, tmp_path, monkeypatch):
    from sana_wm.generation.mp4 import Mp4Writer

    write, stop = Mp4Writer.write, KeyboardInterrupt()

    def broken(video, frames):
        if video.path.name.startswith("1-") and video.num_frames >= 5:
            raise stop
        write(video, frames)

    monkeypatch.setattr(Mp4Writer, "write", broken)
    with pytest.raises(KeyboardInterrupt, match="1 of 3 videos were written, and .*1-a-cat-1.mp4 holds 5 of 9 frames"):
        clips(place, tmp_path, videos=3)
    assert len(shown(tmp_path / "1-a-cat-1.mp4")) == 5
    stop = MemoryError()
    with pytest.raises(
        ValueError, match=r"out of memory on cpu at 'decode 2/3'.*dtype=bfloat16.*tiling=on.*frames=5.*1 of"
    ):
        clips(place, tmp_path, videos=3, overwrite=True)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"frames": 8}, "frames=8: expected 4 k \\+ 1, as 5 or 9"),
        ({"size": [32, 40]}, "multiples of 16 pixels"),
        ({"size": None}, "no base size: give height and width"),
        ({"frames": 1, "image": True}, "ask for 5 or more"),
        ({"image": False}, "not a readable picture"),
        (
            {"kind": "long", "script": "story.txt"},
            "last scene begins at 2 seconds and the video ends at 1.06.*seconds=12",
        ),
    ],
)
def test_mistakes_that_only_the_release_shows_are_told_before_weights_are_read(
    place, tmp_path, monkeypatch, changes, match
):
    from sana_wm.generation import clip_job

    (tmp_path / "no.png").write_text("no picture")
    (tmp_path / "story.txt").write_text("0 a\n2 b")
    monkeypatch.chdir(tmp_path)
    if "image" in changes:
        changes = changes | {"image": place / "p.png" if changes["image"] else tmp_path / "no.png"}
    monkeypatch.setattr(clip_job, "load_text_encoder", None)
    with pytest.raises(ValueError, match=match):
        clips(place, tmp_path / "a.mp4", **changes)
    assert not (tmp_path / "a.mp4").exists()


# --- the command -----------------------------------------------------------------------------------------------------


def command(monkeypatch, *arguments):
    from sana_wm import generate

    monkeypatch.setattr("sys.argv", ["generate", *arguments])
    generate.main()


def test_the_command(place, tmp_path, monkeypatch, capsys):
    small = ["size=[32,48]", "device=cpu", "frames=5", "steps=1"]
    command(monkeypatch, f"model={place / 'clip'}", "prompt=it's [one], two", f"out={tmp_path / 'a b.mp4'}", *small)
    assert "a b.mp4: 5 frames in " in capsys.readouterr().out
    assert read_about(tmp_path / "a b.mp4")["prompt"] == "it's [one], two"
    (tmp_path / "my story.txt").write_text("0 x")
    script = f"script={tmp_path / 'my story.txt'}"
    command(monkeypatch, f"model={place / 'long'}", script, "videos=2", f"out={tmp_path / 'more'}", *small)
    assert "2 videos, " in capsys.readouterr().out


def test_the_command_names_mistakes(place, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="got none of prompt, prompts and script"):
        command(monkeypatch, f"model={place / 'clip'}")
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "model=sana-video-2b", "videoss=3")
    assert stopped.value.code == 1 and "videoss" in capsys.readouterr().err


def test_notes_say_what_is_made(place, tmp_path):
    out = io.StringIO()
    settings = ClipSettings(
        str(place / "long"), prompt="x", image=place / "p.png", steps=1, frames=5, out=tmp_path, **SMALL
    )
    generate_clips(settings, Console(file=out, width=300))
    assert "it may leave the picture" in out.getvalue() and "5 frames of 32x48 at 16 fps: 1 steps" in out.getvalue()
