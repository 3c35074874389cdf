"""python -m sana_wm.train stage=image, at tiny size: pictures and captions -> a release that generates."""

import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from sana_wm.generation.image_job import generate_images
from sana_wm.generation.image_release import TRAINED_HERE, sampling_of
from sana_wm.generation.image_settings import ImageSettings as GenerationSettings
from sana_wm.models.family import FAMILY
from sana_wm.models.transformer import SanaTransformer
from sana_wm.train import arguments
from sana_wm.training.batches import noise_generator
from sana_wm.training.finetune_lora import LoraSettings, add_lora
from sana_wm.training.image import ImageRun, train_images
from sana_wm.training.image_set import ImageBatch
from sana_wm.training.image_settings import new_config
from sana_wm.training.image_stage import ImageLoss, ImageTraining
from sana_wm.training.loop import Interrupted
from tests.generation.tiny_image import diffusers_transformer
from tests.models.tiny_sana_wm import randomised
from tests.training.tiny_pictures import BASE, CELL, tiny_release, write_pictures

pytest.importorskip("diffusers")
SMALL = [
    "data.upscale=true", "data.held_out=0.2", "loss.batch_size=4", "loop.steps=12", "loop.warmup=2", "loop.ema=0.9",
    "loop.clip=1", "loop.optimizer.lr=1e-2", "loop.bf16=off", "samples=2", "device=cpu", "wandb.mode=disabled",
]  # fmt: skip
SCRATCH = ["model.width=16", "model.depth=2", "model.heads=2", "model.positions=sincos", f"size={BASE}"]
LORA = ["method=lora", "lora.rank=3", "lora.alpha=6"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """release/ and pictures/, and instruction.txt: diffusers' is long for an encoder of bytes."""
    folder = tmp_path_factory.mktemp("image")
    tiny_release(folder / "release")
    write_pictures(folder / "pictures")
    (folder / "instruction.txt").write_text("Say what is seen:\n")
    return folder


def configuration(place, out, *overrides):
    """Of a fine-tuning where no size is given, else of a network from scratch."""
    given = [f"data.root={place / 'pictures'}", f"out={out}", f"instruction={place / 'instruction.txt'}", *SMALL]
    if any(argument.startswith("model.") for argument in overrides):
        given += [f"parts.{part}={place / 'release' / part}" for part in ("vae", "text_encoder", "tokenizer")]
    else:
        given.append(f"init={place / 'release'}")
    with initialize_config_module("sana_wm.configs", version_base="1.3"):
        config = compose("train_image", [*given, f"cache={place / 'cache'}", *overrides])
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


KINDS = {"scratch": SCRATCH, "full": [], "lora": LORA}
ALL = KINDS | {"came": [*SCRATCH, "loop.optimizer.name=came", "loop.optimizer.lr=1e-3"]}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, place):
    """kind, configuration, and the folder of a finished run."""
    if request.param == "lora":
        pytest.importorskip("peft")
    out, config = place / request.param, configuration(place, place / request.param, *KINDS[request.param])
    before = {path: path.read_bytes() for path in (place / "release").rglob("*.*")}
    assert train_images(config) == out / "release"
    assert before == {path: path.read_bytes() for path in (place / "release").rglob("*.*")}
    return request.param, config, out


def weights(folder):
    return load_file(folder / "release" / "transformer" / "diffusion_pytorch_model.safetensors")


def test_the_release_generates(trained, place, tmp_path):
    _, _, out = trained
    settings = GenerationSettings(
        str(out / "release"), prompt="All red.", height=50, width=70, steps=2, out=tmp_path / "a.png", device="cpu",
        instruction=place / "instruction.txt",
    )  # fmt: skip
    (path,) = generate_images(settings, Console(quiet=True)).paths
    assert Image.open(path).size == (70, 50)


def test_diffusers_reads_the_release_and_computes_the_same(trained):
    import diffusers

    kind, _, out = trained
    pipeline = diffusers.SanaPipeline.from_pretrained(out / "release")
    shift = pipeline.scheduler.config.flow_shift
    assert shift == (3.0 if kind == "scratch" else 2.5) and pipeline.vae_scale_factor == CELL
    ours = SanaTransformer.from_pretrained(out / "release" / "transformer")
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 4, 5, 6, generator=generator), torch.randn(2, 7, 8, generator=generator)
    time, mask = torch.tensor([900.0, 35.5]), torch.arange(7) < torch.tensor([[7], [3]])
    with torch.no_grad():
        got = ours(x[:, :, None], time, text, mask).velocity[:, :, 0]
        expected = pipeline.transformer(
            x, encoder_hidden_states=text, timestep=time, encoder_attention_mask=mask.long()
        ).sample
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert got.abs().max() > 0.01


def test_training_lowers_the_loss_and_says_so(trained):
    kind, _, out = trained
    told = json.loads((out / "measured.json").read_text())
    flow = told["flow_loss"]
    assert flow["after"]["mean"] < 0.95 * flow["before"]["mean"] and told["steps"] == 12
    assert flow["difference"]["mean"] == pytest.approx(flow["other_caption"]["mean"] - flow["after"]["mean"])
    assert told["pictures"]["train"] == 10 and told["pictures"]["held_out"] == 2
    assert f"{flow['after']['mean']:.4f}" in (out / "release" / "card.md").read_text()
    sheet = Image.open(out / "samples" / "step-000012.png")
    assert sheet.height > 64 and len((out / "samples" / "captions.txt").read_text().splitlines()) == 2


def test_a_finished_run_is_only_loaded(trained):
    _, config, out = trained
    before = weights(out)
    train_images(config)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(out).items())


@pytest.mark.parametrize("kind", [*KINDS, "came"])
def test_a_stopped_run_resumes_to_the_same_bits(place, tmp_path, kind, monkeypatch):
    pytest.importorskip({"came": "pytorch_optimizer", "lora": "peft"}.get(kind, "torch"))
    whole = place / kind
    if not (whole / "release").is_dir():
        train_images(configuration(place, whole, *ALL[kind]))
    config, losses = configuration(place, tmp_path / "stopped", *ALL[kind]), ImageRun.losses

    def stops(self, step, progress):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(self, step, progress)

    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="stopped at step 6"):
        patched.setattr(ImageRun, "losses", stops)
        train_images(config)
    train_images(config)
    expected, got = weights(whole), weights(tmp_path / "stopped")
    assert expected.keys() == got.keys() and all(torch.equal(expected[name], got[name]) for name in got)


def test_checkpointing_changes_no_weight(place, tmp_path):
    made = {}
    for name, more in {"plain": [], "less memory": ["checkpointing=true", "guidance=1"]}.items():
        train_images(configuration(place, tmp_path / name, *SCRATCH, *more, "loop.steps=3", "samples=1"))
        made[name] = weights(tmp_path / name)
    for name, tensor in made["plain"].items():
        torch.testing.assert_close(made["less memory"][name], tensor)


def test_lora_begins_as_the_release_to_the_bit_and_leaves_an_adapter(place, tmp_path):
    peft = pytest.importorskip("peft")
    base = SanaTransformer.from_pretrained(place / "release" / "transformer")
    x, time = torch.randn(2, 4, 1, 5, 6), torch.tensor([900.0, 35.0])
    text = torch.randn(2, 7, 8)
    with torch.no_grad():
        expected = base(x, time, text).velocity
        adapted = add_lora(base, LoraSettings(3, 6), "base", seed=0)
        assert torch.equal(base(x, time, text).velocity, expected)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names)

    out = place / "lora"
    if not (out / "release").is_dir():
        train_images(configuration(place, out, *LORA))
    fresh = SanaTransformer.from_pretrained(place / "release" / "transformer")
    merged = peft.PeftModel.from_pretrained(fresh, out / "adapter").merge_and_unload()
    released = SanaTransformer.from_pretrained(out / "release" / "transformer")
    with torch.no_grad():
        got = merged(x, time, text).velocity
        torch.testing.assert_close(released(x, time, text).velocity, got, rtol=1e-4, atol=1e-5)
        assert (got - expected).abs().max() > 1e-3


def test_other_pictures_are_not_gone_on_with(place, tmp_path):
    config = configuration(place, tmp_path / "run", *SCRATCH, "loop.steps=2", "samples=0")
    train_images(config)
    write_pictures(tmp_path / "more", 13)
    with pytest.raises(ValueError, match="the pictures was .*Go back to them"):
        train_images(config | {"data": config["data"] | {"root": str(tmp_path / "more")}})


def test_what_is_left_out_is_printed_and_listed(place, tmp_path, capsys):
    pictures = write_pictures(tmp_path / "pictures", 6)
    (pictures / "02.txt").unlink()
    train_images(
        configuration(place, tmp_path / "run", *SCRATCH, f"data.root={pictures}", "loop.steps=1", "samples=0",
                      f"cache={tmp_path / 'cache'}")
    )  # fmt: skip
    assert "1 left out (02: no captions" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "run" / "left-out.txt").read_text().startswith("02: no captions")


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["method=lora", *SCRATCH], "method=lora changes a network"),
        (["method=half"], "expected full or lora"),
        (["loss.batch_size=0"], "batch_size from 1"),
        (["+loss.sift=2"], "unknown settings .*sift"),
        (["size=50"], "multiple of 8"),
        (["data.held_out=0"], "a share between 0 and 1"),
        (["loop.optimizer.name=lion"], "expected 'adamw', 'muon' or 'came'"),
        (["parts.vae=nowhere"], "vae=nowhere: no such folder"),
        (["init=null"], "got neither of init and model"),
        (["model.width=16", "init=x"], "got both of init and model"),
        (["model.width=16", f"size={BASE}"], "model.depth is missing"),
        (["model.width=16", "model.depth=1", "model.heads=1"], "size is missing"),
        (["model.preset=sana-sprint-600m"], "expected one of sana-600m-512"),
        (["data.root=nowhere"], "expected a folder"),
    ],
)
def test_mistakes_are_named(place, tmp_path, overrides, match):
    with pytest.raises(ValueError, match=match):
        train_images(configuration(place, tmp_path / "run", *overrides))


def test_a_sprint_member_is_refused(place, tmp_path):
    shutil.copytree(place / "release", tmp_path / "sprint")
    told = json.loads((tmp_path / "sprint" / "model_index.json").read_text())
    (tmp_path / "sprint" / "model_index.json").write_text(json.dumps(told | {"_class_name": "SanaSprintPipeline"}))
    with pytest.raises(ValueError, match="distilled from one with stage=sprint"):
        train_images(configuration(place, tmp_path / "run", f"init={tmp_path / 'sprint'}"))


def test_parts_that_do_not_fit_are_refused(place, tmp_path):
    tiny_release(tmp_path / "wide")
    diffusers_transformer(caption_channels=12).save_pretrained(tmp_path / "wide" / "transformer")
    with pytest.raises(ValueError, match="makes 8 channels, .* takes 12"):
        train_images(configuration(place, tmp_path / "run", f"init={tmp_path / 'wide'}"))


@pytest.mark.parametrize("preset", ["sana-600m-512", "sana-1600m-4k", "sana1.5-1600m"])
def test_a_preset_is_the_published_size_with_the_parts_own_widths(preset):
    config, known = new_config({"preset": preset, "depth": 3}, 1024, 32, 5, 9), FAMILY[preset]
    assert (config.in_channels, config.text_dim, config.depth, config.sample_size) == (5, 9, 3, 32)
    for name in ("width", "heads", "text_heads", "qk_norm", "positions", "mlp_ratio"):
        assert getattr(config, name) == known.get(name, getattr(config, name)), name


def test_the_command_line(place, tmp_path):
    assert arguments(["stage=image", "data=my pictures", "model=sana-600m", "size=64"]) == [
        "--config-name=train_image", "stage=image", "data.root='my pictures'", "model.preset='sana-600m'", "size=64"
    ]  # fmt: skip
    command = [
        sys.executable, "-m", "sana_wm.train", "stage=image", f"data={place / 'pictures'}", *SCRATCH, *SMALL,
        *(f"{part}={place / 'release' / part}" for part in ("vae", "text_encoder", "tokenizer")),
        "loop.steps=2", f"out={tmp_path / 'run'}", f"cache={place / 'cache'}",
        f"instruction={place / 'instruction.txt'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "release" / "model_index.json").is_file() and "release saved" in done.stdout


def test_the_loss_is_that_of_the_flow(place, tmp_path):
    """Held-out errors are the squared error of noise - latent; the network is zero at the start."""
    config = configuration(place, tmp_path / "run", *SCRATCH)
    job = ImageRun(config)
    job.prepare()
    training = ImageTraining(job.open_transformer(), job.loss, job.held_out, 0, "off")
    own, other = training.held_out(job.held_out)
    job.log.close()
    latents = np.concatenate([bucket.latents.reshape(len(bucket.latents), -1) for bucket in job.held_out.buckets])
    np.testing.assert_allclose(own.mean(), 1 + (latents.astype(np.float64) ** 2).mean(), rtol=0.35)
    np.testing.assert_array_equal(own, other)
    randomised(training.transformer, std=0.3)
    own, other = training.held_out(job.held_out)
    assert (own != other).all()  # the text is read
    np.testing.assert_array_equal(own, training.held_out(job.held_out).own)


class Exact(torch.nn.Module):
    """The velocity of known latents: noise - latents = (x - latents) / sigma."""

    device, config = torch.device("cpu"), SimpleNamespace(timestep_scale=1.0)

    def __init__(self, latents):
        super().__init__()
        self.latents = latents

    def forward(self, x, time, text, mask):
        sigma = (time / 1000)[:, None, None, None]
        return SimpleNamespace(velocity=((x[:, :, 0] - self.latents) / sigma)[:, :, None])


def test_the_exact_velocity_has_no_error():
    latents = torch.randn(4, 3, 2, 5)
    batch = ImageBatch(latents, torch.zeros(4, 1, 1), torch.ones(4, 1, dtype=torch.bool))
    training = ImageTraining(Exact(latents), ImageLoss(4), None, 0, "off")
    assert training.errors(batch, noise_generator(0, 0, torch.device("cpu"))).max() < 1e-6


@pytest.mark.parametrize("sizes", [{"sample_size": 128}, {"num_layers": 28, "sample_size": 32}])
def test_a_release_is_sampled_at_the_shift_it_was_trained_at(place, tmp_path, sizes):
    """Whatever published members of its size, whose files say less than their names, are sampled at."""
    folder = tmp_path / "release"
    shutil.copytree(place / "release", folder)
    for part, name, told in (
        ("transformer", "config.json", {"num_layers": 2, "qk_norm": None} | sizes),
        ("scheduler", "scheduler_config.json", {"flow_shift": 1.5, TRAINED_HERE: True}),
    ):
        file = folder / part / name
        file.write_text(json.dumps(json.loads(file.read_text()) | told))
    assert sampling_of(str(folder), folder).shift == 1.5
