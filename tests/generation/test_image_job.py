"""Prompts to PNG files: settings, releases, and the whole way on a tiny release."""

import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sana_wm.generation.image_file import read_settings
from sana_wm.generation.image_job import generate_images
from sana_wm.generation.image_names import RELEASES
from sana_wm.generation.image_release import base_of, locate_image_release, sampling_of
from sana_wm.generation.image_sampling import SAMPLING, Sampling
from sana_wm.generation.image_settings import ImageSettings
from sana_wm.generation.which_job import job_of
from sana_wm.models.prompt_encoder import instruction
from tests.generation.tiny_image import tiny_image_release

pytest.importorskip("diffusers")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def sana(tmp_path_factory):
    return tiny_image_release(tmp_path_factory.mktemp("sana"), shift=2.5)


@pytest.fixture(scope="module")
def sprint(tmp_path_factory):
    return tiny_image_release(tmp_path_factory.mktemp("sprint"), sprint=True)


def makes_images(model):
    return job_of(model) == "image"


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


# --- settings --------------------------------------------------------------------------------------------------------


def test_lanes_are_prompts_times_images(tmp_path):
    (tmp_path / "prompts.txt").write_text("A cat\n\n  a DOG, running!  \n")
    settings = ImageSettings("sana-1600m", prompts=tmp_path / "prompts.txt", images=2, seed=7, out=tmp_path)
    assert [(lane.prompt, lane.seed) for lane in settings.lanes()] == [
        ("A cat", 7), ("A cat", 8), ("a DOG, running!", 7), ("a DOG, running!", 8)
    ]  # fmt: skip
    names = [lane.path.name for lane in settings.lanes()]
    assert names == ["0-a-cat-7.png", "1-a-cat-8.png", "2-a-dog-running-7.png", "3-a-dog-running-8.png"]


def test_what_is_given_replaces_the_release():
    settings = ImageSettings("sana-1600m-4k", prompt="x", steps=14, guided=[0.2, 0.9])
    sampling = settings.sampling(SAMPLING["sana-1600m-4k"])
    assert sampling == Sampling(steps=14, shift=6.0, guidance=5.0, guided=(0.2, 0.9))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"prompt": None}, "got neither"),
        ({"prompts": "there.txt"}, "got both"),
        ({"prompt": None, "prompts": "missing.txt"}, "no such file"),
        ({"prompt": None, "prompts": "empty.txt"}, "holds no text"),
        ({"images": 0}, "images=0"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"height": 64}, "both or neither"),
        ({"height": -1, "width": 3}, "height=-1"),
        ({"strength": 0.0}, "strength"),
        ({"dtype": "float16"}, "expected one of auto"),
        ({"out": "a.png", "images": 2}, "name a folder"),
        ({"out": "there.png"}, "exists"),
        ({"picture": "missing.png"}, "no such file"),
        ({"guidance": "abc"}, "guidance=abc"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"guided": 0.3}, "guided=0.3"),
        ({"guided": [0.5]}, "guided="),
        ({"guided": [0.9, 0.1]}, "guided="),
        ({"guided": [0.1, float("nan")]}, "guided="),
        ({"tile": 100}, "multiple of 32"),
        ({"shift": float("nan")}, "shift=nan"),
        ({"strength": "much"}, "strength=much"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"steps": 2, "times": [1.5, 1.0, 0.0]}, "give one"),
        ({"times": 1.5}, "times=1.5"),
        ({"times": [1.0, 1.5, 0.0]}, "falling"),
        ({"null_mask": "none"}, "null_mask=none"),
        ({"size": 64, "height": 64, "width": 64}, "give size, or the other two"),
        ({"size": [64, 32, 32]}, r"\[height,width\]"),
        ({"size": "big"}, "height=big"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, changes, match):
    monkeypatch.chdir(tmp_path)
    for name in ("there.txt", "there.png", "empty.txt"):
        (tmp_path / name).write_text("" if name.startswith("empty") else "x")
    with pytest.raises(ValueError, match=match):
        ImageSettings(**{"model": "m", "prompt": "x"} | changes).lanes()


@pytest.mark.parametrize(("size", "sides"), [(96, (96, 96)), ([64, 96], (64, 96)), (None, (None, None))])
def test_size_is_short_for_height_and_width(size, sides):
    settings = ImageSettings("m", prompt="x", size=size)
    assert (settings.height, settings.width) == sides


@pytest.mark.parametrize(
    ("model", "changes", "match"),
    [
        ("sana-sprint-600m", {"negative_prompt": "blurry"}, "negative_prompt=blurry: a Sprint member does not read"),
        ("sana-sprint-600m", {"shift": 3.0}, "shift=3.0"),
        ("sana-sprint-600m", {"guided": (0.1, 0.9)}, "guided="),
        (RELEASES["sana-sprint-1600m"], {"null_mask": "prompt"}, "null_mask=prompt"),
        ("sana-1600m", {"times": (1.5, 0.0)}, "only Sprint members read"),
        ("sana-1600m", {"picture": "there.png"}, "only Sprint members read"),
    ],
)
def test_settings_that_would_not_be_read_are_refused_before_anything_is_fetched(
    tmp_path, monkeypatch, model, changes, match
):
    from sana_wm.generation import image_job

    def fetched(model):
        raise AssertionError("too late")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").write_text("x")
    monkeypatch.setattr(image_job, "locate_image_release", fetched)
    with pytest.raises(ValueError, match=match):
        generate_images(ImageSettings(model, prompt="x", out=tmp_path / "out", **changes), QUIET)


# --- releases --------------------------------------------------------------------------------------------------------


def test_what_a_folder_says(sana, sprint, tmp_path):
    assert all(makes_images(name) for name in (*RELEASES, *RELEASES.values(), str(sana), str(sprint)))
    assert not makes_images("sana-wm") and not makes_images(str(tmp_path))
    assert set(RELEASES) == set(SAMPLING)
    assert sampling_of("somewhere", sana) == Sampling(shift=2.5)
    assert sampling_of("somewhere", sprint) == Sampling("scm", steps=2)
    assert sampling_of("sana-600m", sana).shift == 4.0  # the name knows better than the file
    for name, repo in RELEASES.items():
        cached = tmp_path / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc"
        for other in (repo, str(tmp_path / repo.split("/")[1]), str(cached)):
            assert sampling_of(other, sana) == SAMPLING[name], other
    assert base_of(sana) == 512 and locate_image_release(str(sana)) == sana
    with pytest.raises(ValueError, match="lacks transformer/"):
        locate_image_release(str(tmp_path))
    with pytest.raises(ValueError, match="known names: sana-600m-512"):
        locate_image_release("nothing")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    with pytest.raises(ValueError, match="flow_shift"):
        sampling_of("somewhere", tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"sample_size": 32, "num_layers": 28, "qk_norm": None}, Sampling(shift=4.0)),
        ({"sample_size": 32, "num_layers": 28, "qk_norm": "rms_norm_across_heads"}, Sampling(shift=3.0)),
        ({"sample_size": 16, "num_layers": 28, "qk_norm": None}, Sampling(shift=3.0)),
        ({"sample_size": 128, "num_layers": 20}, Sampling(shift=6.0, guidance=5.0)),
    ],
)
def test_a_folder_of_any_name_is_known_by_its_transformer(tmp_path, config, expected):
    for part, file, values in (
        ("scheduler", "scheduler_config.json", {"flow_shift": 3.0}), ("transformer", "config.json", config)
    ):  # fmt: skip
        (tmp_path / part).mkdir()
        (tmp_path / part / file).write_text(json.dumps(values))
    assert sampling_of(str(tmp_path), tmp_path) == expected


def test_repositories_are_told_apart(tmp_path, monkeypatch):
    import huggingface_hub

    def index(repo, name):
        if repo.startswith("Efficient"):
            raise OSError("no network")
        (tmp_path / name).write_text(json.dumps({"_class_name": repo.split("/")[1]}))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", index)
    assert makes_images("someone/SanaSprintPipeline") and makes_images("Efficient-Large-Model/Sana_1600M_1024px_x")
    assert not makes_images("someone/SanaWMPipeline") and not makes_images("Efficient-Large-Model/SANA-WM_other")
    assert job_of("someone/SanaVideoPipeline") == job_of("Efficient-Large-Model/SANA-Video_2B_x") == "clip"
    for model in ("someone/SanaControlNetPipeline", "Efficient-Large-Model/SANA-Video_2.0_5B_720p"):
        with pytest.raises(ValueError, match="no generator for it yet; SanaTransformer.from_pretrained"):
            makes_images(model)


def test_members_without_a_generator_are_named():
    from sana_wm.generation.clip_names import RELEASES as CLIPS
    from sana_wm.models.family import FAMILY

    without = {name for name in FAMILY if name not in RELEASES and name not in CLIPS}
    assert without == {"sana-streaming-2b", "sana-streaming-2b-bidirectional"}
    for name in without:
        with pytest.raises(ValueError, match="edits videos: there is no generator for it yet"):
            makes_images(name)


def test_only_the_files_that_are_read_are_fetched(tmp_path, monkeypatch):
    import fnmatch
    from types import SimpleNamespace

    import huggingface_hub

    names = ["vae/x.safetensors", "vae/x.bf16.safetensors", "text_encoder/model.fp16.safetensors", "vae/x.bin"]
    told = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])
    fetched = []

    def download(repo, ignore_patterns):
        fetched.extend(n for n in names if not any(fnmatch.fnmatch(n, pattern) for pattern in ignore_patterns))
        return tmp_path

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: told)
    with pytest.raises(ValueError, match="lacks"):
        locate_image_release("someone/pictures")
    assert fetched == [names[0], names[2]]


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_prompts_become_files_that_can_be_made_again(sana, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    shared = {"height": 60, "width": 90, "steps": 2, "device": "cpu"}
    settings = ImageSettings(
        str(sana), prompts=tmp_path / "prompts.txt", images=2, seed=3, batch=3, cache=tmp_path / "cache",
        out=tmp_path / "out", **shared,
    )  # fmt: skip
    made = generate_images(settings, QUIET)
    assert made.paths == sorted((tmp_path / "out").iterdir()) and len(made.paths) == 4
    assert all(pixels(path).shape == (60, 90, 3) for path in made.paths)
    assert np.abs(pixels(made.paths[0]) - pixels(made.paths[1])).mean() > 2  # another seed
    assert len(list((tmp_path / "cache").iterdir())) == 3  # two prompts and the negative one
    about = read_settings(made.paths[3])
    assert (about["prompt"], about["seed"], about["shift"], about["steps"]) == ("a dog", 4, 2.5, 2)
    assert about["dtype"] == "float32" and about["instruction"] == instruction("image")
    alone = ImageSettings(str(sana), prompt=about["prompt"], seed=about["seed"], out=tmp_path / "one.png", **shared)
    (again,) = generate_images(alone, QUIET).paths
    assert np.abs(pixels(again) - pixels(made.paths[3])).max() <= 1
    with pytest.raises(ValueError, match="exists"):
        generate_images(alone, QUIET)
    with pytest.raises(ValueError, match="only Sprint"):
        generate_images(ImageSettings(str(sana), prompt="x", picture=again, out=tmp_path), QUIET)


def test_sprint_from_a_picture(sprint, tmp_path):
    shared = {"model": str(sprint), "prompt": "a cat", "height": 64, "width": 64, "device": "cpu"}
    (first,) = generate_images(ImageSettings(out=tmp_path / "a.png", **shared), QUIET).paths
    settings = ImageSettings(picture=first, strength=0.5, out=tmp_path / "b.png", **shared)
    (second,) = generate_images(settings, QUIET).paths
    assert read_settings(second)["strength"] == 0.5 and read_settings(second)["sampler"] == "scm"
    assert np.abs(pixels(first) - pixels(second)).mean() > 1


@pytest.mark.parametrize("kind", ["sana", "sprint"])
def test_one_network_is_in_memory_at_a_time(request, tmp_path, monkeypatch, kind):
    import gc
    import weakref

    from sana_wm.generation import image_job, image_release

    alive, order = [], []

    def watched(build, name):
        def load(*args, **how):
            gc.collect()
            assert [other() for other in alive if other() is not None] == []
            made = build(*args, **how)
            alive.append(weakref.ref(made))
            order.append(name)
            return made

        return load

    for owner, name in ((image_release, "PromptEncoder"), (image_job, "SanaTransformer"), (image_job, "DCAE")):
        build = getattr(owner, name).from_pretrained
        monkeypatch.setattr(getattr(owner, name), "from_pretrained", watched(build, name))
    Image.new("RGB", (32, 32)).save(tmp_path / "p.png")
    picture = {"picture": tmp_path / "p.png"} if kind == "sprint" else {}
    settings = ImageSettings(
        str(request.getfixturevalue(kind)), prompt="x", images=2, steps=1, height=32, width=32, out=tmp_path / "out",
        device="cpu", **picture,
    )  # fmt: skip
    assert len(generate_images(settings, QUIET).paths) == 2
    assert order == ["PromptEncoder", *["DCAE"] * len(picture), "SanaTransformer", "DCAE"]


def test_a_stop_says_how_far_it_came(sana, tmp_path, monkeypatch):
    from sana_wm.generation import image_job

    def write(picture, path, settings):
        if settings["seed"] == 1:
            raise KeyboardInterrupt
        return path

    monkeypatch.setattr(image_job, "write_png", write)
    settings = ImageSettings(str(sana), prompt="x", images=3, steps=1, height=32, width=32, out=tmp_path, device="cpu")
    with pytest.raises(KeyboardInterrupt, match="1 of 3 pictures"):
        generate_images(settings, QUIET)

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(image_job, "write_png", full)
    with pytest.raises(ValueError, match=r"out of memory on cpu at 'decode'.*dtype=bfloat16.*0 of 3"):
        generate_images(settings, QUIET)


# --- the command -----------------------------------------------------------------------------------------------------


def command(monkeypatch, *arguments):
    from sana_wm import generate

    monkeypatch.setattr("sys.argv", ["generate", *arguments])
    generate.main()


def test_the_command(sana, tmp_path, monkeypatch, capsys):
    size = ["size=[32,48]", "steps=1", "device=cpu"]
    command(monkeypatch, f"model={sana}", "prompt=it's [one], two", f"out={tmp_path / 'a b.png'}", *size)
    assert "a b.png: " in capsys.readouterr().out
    assert read_settings(tmp_path / "a b.png")["prompt"] == "it's [one], two"
    command(monkeypatch, f"model={sana}", "prompt=x", "images=2", f"out={tmp_path / 'more'}", *size)
    assert "2 pictures, " in capsys.readouterr().out


def test_the_command_names_mistakes(sana, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="got neither of prompt and prompts"):
        command(monkeypatch, f"model={sana}")
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "model=sana-1600m", "imagess=3")
    assert stopped.value.code == 1 and "imagess" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{broken", "[1]"])
def test_the_command_names_a_broken_index(tmp_path, monkeypatch, text):
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(SystemExit, match="error: .*model_index.json"):
        command(monkeypatch, f"model={tmp_path}", "prompt=x")


def test_the_command_names_members_without_a_generator(monkeypatch):
    with pytest.raises(SystemExit, match="error: model=sana-streaming-2b is a member that edits"):
        command(monkeypatch, "model=sana-streaming-2b", "prompt=x")
