"""``stage=sprint`` from settings to a release, in miniature."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from sana_wm.generation.image_job import generate_images
from sana_wm.generation.image_settings import ImageSettings
from sana_wm.models.transformer import SanaTransformer
from sana_wm.training import sprint
from sana_wm.training.sprint import distil
from tests.generation.tiny_image import CHANNELS, tiny_image_release
from tests.models.tiny_sana_wm import TEXT_DIM
from tests.training import sprint_toys

LOOP = {"steps": 2, "minutes": None, "warmup": 1, "bf16": "off", "optimizer": {"name": "adamw", "lr": 1e-3}}


def values(out: Path, **changes) -> dict:
    """Those of configs/train_sprint.yaml, as few steps of small batches."""
    config = OmegaConf.load(str(files("sana_wm.configs") / "train_sprint.yaml"))
    del config["hydra"]
    short = {"out": str(out), "device": "cpu", "data": {"root": "pictures"}, "wandb": {"mode": "disabled"}}
    short |= {name: {"loop": LOOP, "loss": {"batch_size": 3}} for name in ("teach", "dense", "distil")}
    return OmegaConf.to_container(OmegaConf.merge(config, short, changes))


@pytest.fixture
def told(monkeypatch):
    """Pictures that fit the miniature release, in place of those that data= names."""
    monkeypatch.setattr(sprint_toys, "CHANNELS", CHANNELS)
    monkeypatch.setattr(sprint_toys, "TEXT_DIM", TEXT_DIM)
    monkeypatch.setattr(sprint, "image_set_of", lambda *_: sprint_toys.pictures())


def test_a_release_becomes_a_sprint_release(tmp_path, told):
    """The teacher has another time and no norms, so that it learns them first; what comes out generates."""
    diffusers = pytest.importorskip("diffusers")
    teacher = tiny_image_release(tmp_path / "teacher")
    folder = distil(values(tmp_path / "run", teacher=str(teacher)))
    assert (tmp_path / "run" / "dense.safetensors").is_file() and not (tmp_path / "run" / "teach.safetensors").exists()
    theirs = diffusers.SanaTransformer2DModel.from_pretrained(folder / "transformer").eval()
    ours = SanaTransformer.from_pretrained(folder / "transformer")
    assert theirs.config.guidance_embeds and theirs.config.qk_norm == "rms_norm_across_heads"
    assert ours.config.guidance and ours.config.timestep_scale == 0.001 and not ours.config.integer_timesteps
    x, s, text = torch.randn(2, CHANNELS, 2, 3), torch.tensor([0.3, 0.9]), torch.randn(2, 4, TEXT_DIM)
    scale = torch.tensor([0.45, 0.1])
    with torch.no_grad():
        got = ours(x[:, :, None], s, text, guidance=scale).velocity[:, :, 0]
        expected = theirs(x, encoder_hidden_states=text, timestep=s, guidance=scale).sample
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    scheduler = diffusers.SCMScheduler.from_pretrained(folder / "scheduler")
    assert scheduler.config.sigma_data == 0.5 and scheduler.config.prediction_type == "trigflow"
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "SanaSprintPipeline"
    pipeline = diffusers.SanaSprintPipeline(
        transformer=theirs, scheduler=scheduler, tokenizer=None, text_encoder=None,
        vae=diffusers.AutoencoderDC.from_pretrained(folder / "vae"),
    )  # fmt: skip
    latents = pipeline(
        prompt_embeds=text[:1], prompt_attention_mask=torch.ones(1, 4), num_inference_steps=1, output_type="latent",
        intermediate_timesteps=None, height=64, width=96, use_resolution_binning=False,
    ).images  # fmt: skip
    assert latents.shape == (1, CHANNELS, 2, 3) and torch.isfinite(latents).all()
    made = generate_images(
        ImageSettings(str(folder), prompt="a duck", steps=1, size=64, out=tmp_path / "duck.png", device="cpu")
    )
    assert Image.open(made.paths[0]).size == (64, 64)


def test_everything_is_loaded_where_it_is_finished(tmp_path, told, capsys):
    teacher = tiny_image_release(tmp_path / "teacher")
    asked = values(tmp_path / "run", teacher=str(teacher))
    first = (distil(asked) / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    capsys.readouterr()
    again = (distil(asked) / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert first == again and capsys.readouterr().out.count("was trained before (2 steps)") == 2
    with pytest.raises(ValueError, match="begun with other settings: seed was 0, now 1"):
        distil(asked | {"seed": 1})


def test_a_student_begins_where_another_ended(tmp_path, told):
    teacher, weights = tiny_image_release(tmp_path / "teacher"), "transformer/diffusion_pytorch_model.safetensors"
    first = distil(values(tmp_path / "first", teacher=str(teacher)))
    still = {"loop": {"optimizer": {"lr": 0.0}}}
    asked = {"teacher": str(teacher), "distil": still}
    on = distil(values(tmp_path / "on", student=str(first), **asked))
    afresh = distil(values(tmp_path / "afresh", **asked))
    assert (on / weights).read_bytes() == (first / weights).read_bytes() != (afresh / weights).read_bytes()
    with pytest.raises(ValueError, match="not a student of this teacher"):
        distil(values(tmp_path / "wrong", student=str(teacher), **asked))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": None}, "teacher= is missing.*pusht-states"),
        ({"distil": {"loss": {"guidence": [1]}}}, "guidence"),
        ({"distil": {"loop": {"bf16": "auto"}}}, "need float32"),
        ({"teacher": "nowhere/at all"}, "nowhere/at all"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path, told, changes, words):
    with pytest.raises(ValueError, match=words):
        distil(values(tmp_path, **changes))


def test_pictures_of_another_autoencoder_are_refused(tmp_path, monkeypatch):
    teacher = tiny_image_release(tmp_path / "teacher")
    monkeypatch.setattr(sprint, "image_set_of", lambda *_: sprint_toys.pictures())
    with pytest.raises(ValueError, match=f"latents have {sprint_toys.CHANNELS} channels, the teacher takes {CHANNELS}"):
        distil(values(tmp_path / "run", teacher=str(teacher)))
