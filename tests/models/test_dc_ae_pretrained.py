"""Folders of DC-AE weights: ours, diffusers' and mit-han-lab's, each read and written."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_wm.models.dc_ae import DCAE, DCAE_PRESETS
from sana_wm.models.dc_ae_pretrained import from_diffusers, to_diffusers
from sana_wm.models.dc_ae_weights import config_from_mit, mit_from_ours, mit_name
from tests.models.dc_ae_reference import VARIANTS, close, pair, small

# What diffusers' own converter can read: it knows one scale, and the same stem on both sides.
CONVERTIBLE = ["sana", "in", "batch norm everywhere", "one width", "wide first"]


def same(a: DCAE, b: DCAE) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shard", ["5GB", "9KB"])
def test_folders_of_diffusers_are_read(variant, shard, tmp_path):
    reference, ours = pair(VARIANTS[variant])
    reference.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "9KB")
    read = DCAE.from_pretrained(tmp_path)
    assert read.config == ours.config
    assert same(read, ours) and not read.training
    images = torch.randn(1, 3, 20, 12)
    with torch.no_grad():
        close(read.encode(images), reference.encode(images).latent)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shard", ["5GB", "9KB"])
def test_diffusers_reads_what_is_written_for_it(variant, shard, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    reference, ours = pair(VARIANTS[variant])
    ours.to(memory_format=torch.channels_last).save_pretrained(tmp_path, layout="diffusers", max_shard_size=shard)
    read = diffusers.AutoencoderDC.from_pretrained(tmp_path)
    theirs = reference.state_dict()
    assert read.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in read.state_dict().items())
    assert read.config.scaling_factor == ours.scaling_factor
    latents = torch.randn(1, 4, 5, 3)
    with torch.no_grad():
        close(ours.decode(latents), read.decode(latents).sample)


@pytest.mark.parametrize("layout", ["sana_wm", "diffusers", "mit"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_comes_back_the_same(variant, layout, tmp_path):
    _, ours = pair(VARIANTS[variant])
    ours.save_pretrained(tmp_path, layout=layout, max_shard_size="9KB")
    read = DCAE.from_pretrained(tmp_path)
    assert same(read, ours)
    assert read.config == ours.config and read.scaling_factor == ours.scaling_factor


@pytest.mark.parametrize("variant", CONVERTIBLE)
def test_names_of_mit_han_lab_are_those_that_diffusers_converts(variant):
    """mit-han-lab -> ours -> diffusers is what diffusers' own converter makes of it."""
    utilities = pytest.importorskip("diffusers.loaders.single_file_utils")
    reference, ours = pair(VARIANTS[variant])
    theirs = mit_from_ours(ours.state_dict(), ours.config)
    converted = utilities.convert_autoencoder_dc_checkpoint_to_diffusers(dict(theirs))
    expected = reference.state_dict()
    assert converted.keys() == expected.keys()
    for name, tensor in converted.items():
        assert torch.equal(tensor.reshape(expected[name].shape), expected[name]), name


def test_names_of_the_published_files():
    """Names that diffusers recognises files of mit-han-lab by, and one of each kind."""
    sana, deep = DCAE_PRESETS["f32c32-sana-1.0"], DCAE_PRESETS["f32c32-in"]
    assert mit_name("encoder.conv_in.bias", sana) == "encoder.project_in.conv.bias"
    assert mit_name("encoder.conv_in.conv.bias", deep) == "encoder.project_in.conv.conv.bias"
    assert mit_name("decoder.up_blocks.1.0.conv.bias", deep) == "decoder.stages.1.op_list.0.main.conv.conv.bias"
    assert mit_name("encoder.down_blocks.0.2.conv.bias", sana) == "encoder.stages.0.op_list.2.main.conv.bias"
    assert mit_name("encoder.conv_out.weight", sana) == "encoder.project_out.main.op_list.0.conv.weight"
    assert mit_name("decoder.norm_out.weight", sana) == "decoder.project_out.op_list.0.weight"
    assert mit_name("decoder.conv_out.bias", sana) == "decoder.project_out.op_list.2.conv.bias"
    assert mit_name("decoder.up_blocks.1.1.norm.bias", deep) == "decoder.stages.1.op_list.1.main.conv2.norm.bias"
    block = "encoder.stages.3.op_list.0."
    for ours, theirs in {
        "attn.to_k.weight": "context_module.main.qkv.conv.weight",
        "attn.to_out.weight": "context_module.main.proj.conv.weight",
        "attn.norm_out.bias": "context_module.main.proj.norm.bias",
        "conv_out.conv_inverted.bias": "local_module.main.inverted_conv.conv.bias",
        "conv_out.conv_point.weight": "local_module.main.point_conv.conv.weight",
        "conv_out.norm.weight": "local_module.main.point_conv.norm.weight",
    }.items():
        assert mit_name("encoder.down_blocks.3.0." + ours, sana) == block + theirs
    name = mit_name("encoder.down_blocks.3.0.attn.to_qkv_multiscale.0.proj_out.weight", sana)
    assert name == "encoder.stages.3.op_list.0.context_module.main.aggreg.0.1.weight"


@pytest.mark.parametrize("variant", VARIANTS)
def test_configuration_of_bare_mit_weights_is_read_from_their_shapes(variant, tmp_path):
    _, ours = pair(VARIANTS[variant])
    save_file({n: t.contiguous() for n, t in mit_from_ours(ours.state_dict(), ours.config).items()},
              tmp_path / "model.safetensors")  # fmt: skip
    names = ("out_activation", "scaling_factor", "encoder_shortcut", "decoder_shortcut")
    hidden = {name: getattr(ours.config, name) for name in names}
    if not any(ours.config.multiscales):
        hidden["head_dim"] = 8
    for path in (tmp_path, tmp_path / "model.safetensors"):
        read = DCAE.from_pretrained(path, **hidden)
        assert same(read, ours)
        images = torch.randn(1, 3, 20, 12)
        with torch.no_grad():
            latents = ours.encode(images)
            close(read.encode(images), latents)
            close(read.decode(latents), ours.decode(latents))


@pytest.mark.parametrize("name", [name for name in DCAE_PRESETS if not name.startswith("lite")])
def test_published_shapes_tell_their_preset(name):
    config = DCAE_PRESETS[name]
    with torch.device("meta"):
        state = DCAE(config).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in mit_from_ours(state, config).items()}
    if "sana" in name:
        assert config_from_mit(shapes, "file") == config
    else:  # in and mix are one network, their latents are scaled otherwise
        with pytest.raises(ValueError, match=re.escape(name)):
            config_from_mit(shapes, "file")


def test_a_config_that_names_the_model_is_enough(tmp_path, monkeypatch):
    config = replace(VARIANTS["in"], scaling_factor=0.3189)
    monkeypatch.setitem(DCAE_PRESETS, "f32c32-in", config)
    DCAE(config).save_pretrained(tmp_path, layout="mit")
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "dc-ae-f32c32-in-1.0"}))
    assert DCAE.from_pretrained(tmp_path).config == config
    (tmp_path / "config.json").unlink()
    assert DCAE.from_pretrained(tmp_path, preset="f32c32-in").config == config


def test_the_autoencoder_of_a_pipeline_is_found(tmp_path):
    reference, ours = pair(VARIANTS["sana"])
    (tmp_path / "transformer").mkdir()
    reference.save_pretrained(tmp_path / "vae")
    assert same(DCAE.from_pretrained(tmp_path), ours)
    assert same(DCAE.from_pretrained(tmp_path / "vae" / "diffusion_pytorch_model.safetensors"), ours)


def test_precision_and_changes(tmp_path):
    _, ours = pair(VARIANTS["in"])
    ours.save_pretrained(tmp_path)
    read = DCAE.from_pretrained(tmp_path, dtype=torch.bfloat16, scaling_factor=0.5)
    assert {p.dtype for p in read.parameters()} == {torch.bfloat16} and read.scaling_factor == 0.5
    assert {b.dtype for n, b in read.named_buffers() if n.endswith("batches_tracked")} == {torch.int64}
    with pytest.raises(ValueError, match="unknown tokenizer settings"):
        DCAE.from_pretrained(tmp_path, depth=3)


@pytest.mark.parametrize("layout", ["sana_wm", "diffusers", "mit"])
def test_tensors_that_do_not_fit_are_named(layout, tmp_path):
    _, ours = pair(VARIANTS["sana"])
    ours.save_pretrained(tmp_path, layout=layout)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    if layout == "mit":
        lost, bent = "encoder.project_in.conv.bias", "decoder.stages.2.op_list.0.context_module.main.qkv.conv.weight"
        settings = {"format": "sana_wm.dc_ae.1"} | ours.config.to_dict()
        (tmp_path / "config.json").write_text(json.dumps(settings))
    else:
        lost, bent = "encoder.conv_in.bias", "decoder.up_blocks.2.0.attn.to_q.weight"
    del tensors[lost]
    tensors[bent] = torch.zeros(3, 2)
    tensors["encoder.quant"] = torch.zeros(1)
    save_file(tensors, file)
    with pytest.raises(ValueError) as caught:
        DCAE.from_pretrained(tmp_path)
    for told in (f"missing {lost}", f"{bent} has shape (3, 2), expected", "extra encoder.quant"):
        assert told in str(caught.value)


def test_pickles_are_refused_with_advice(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "dc_ae.pt")
    for path in (tmp_path, tmp_path / "dc_ae.pt"):
        with pytest.raises(ValueError, match="a pickle can run anything.*save_file"):
            DCAE.from_pretrained(path)


def test_folders_without_a_configuration_or_of_something_else_are_refused(tmp_path):
    _, ours = pair(VARIANTS["sana"])
    ours.save_pretrained(tmp_path, layout="diffusers")
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(ValueError, match="AutoencoderKL, expected an AutoencoderDC"):
        DCAE.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="pass preset="):
        DCAE.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        DCAE.from_pretrained(tmp_path / "nowhere")


def test_networks_that_others_do_not_have_are_not_written_for_them(tmp_path):
    model = DCAE(small(encoder_layers=(1, 0, 1)))
    for layout in ("diffusers", "mit"):
        with pytest.raises(ValueError, match="no stages without blocks"):
            model.save_pretrained(tmp_path, layout=layout)
    model.save_pretrained(tmp_path)
    assert same(DCAE.from_pretrained(tmp_path), model)
    with pytest.raises(ValueError, match="expected 'sana_wm', 'diffusers' or 'mit'"):
        model.save_pretrained(tmp_path, layout="keras")


@pytest.mark.parametrize("name", DCAE_PRESETS)
def test_settings_of_diffusers_round_trip(name):
    settings = json.loads(json.dumps(to_diffusers(DCAE_PRESETS[name])))
    assert from_diffusers(settings | {"_diffusers_version": "0.42.1"}).of_decoder() == DCAE_PRESETS[name].of_decoder()
    again = from_diffusers(settings)
    assert to_diffusers(again) == to_diffusers(DCAE_PRESETS[name])
    with pytest.raises(ValueError, match="unknown settings.*'quant'"):
        from_diffusers(settings | {"quant": 1})


def test_settings_left_out_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        reference, ours = diffusers.AutoencoderDC(), DCAE(from_diffusers({}))
    theirs = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == theirs
    assert ours.scaling_factor == reference.config.scaling_factor
