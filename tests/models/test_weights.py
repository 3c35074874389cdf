"""Published weights: names, layouts, shards, what is refused, and what comes out again."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_wm.models.presets import PRESETS, from_diffusers, padded_scale, preset
from sana_wm.models.transformer import SanaConfig, SanaTransformer
from sana_wm.models.weights import published_name
from tests.models.sana_reference import inputs, reference, reference_module, run_reference

SMALL = {"grid": (3, 5), "window": 4}
SANA_WM = [name for name in PRESETS if name.startswith("sana-wm")]
GIVEN = {"lanes": 1, "frames": 3, "dtype": torch.float32}


@torch.no_grad()
def velocity(net):
    return net(**inputs(net.config, **GIVEN)).velocity


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that diffusers saved, and what ours computes with it."""
    folder = tmp_path_factory.mktemp("saved")
    reference(torch.float32, num_layers=4).save_pretrained(folder)
    return folder, velocity(SanaTransformer.from_pretrained(folder, **SMALL))


def weights_of(folder):
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def as_nvlabs(tensors, prefix=""):
    """Names as in the files of NVlabs, with the buffers that they have besides."""
    numbers = {"linear_1": "mlp.0", "linear_2": "mlp.2"}
    renamed = {}
    for name, tensor in tensors.items():
        for ours, theirs in numbers.items():
            name = name.replace(f"t_embedder.{ours}", f"t_embedder.{theirs}")
        renamed[prefix + name] = tensor
    return renamed | {
        f"{prefix}pos_embed": torch.zeros(1, 7, 32),
        f"{prefix}y_embedder.y_embedding": torch.zeros(6, 10),
    }


@pytest.mark.parametrize("name", SANA_WM)
def test_the_published_network_has_all_its_tensors(name):
    """2,661,800,448 parameters in 850 tensors and 20 buffers that nothing reads (spec 2.1, 2.7); on the meta device."""
    with torch.device("meta"):
        ours = SanaTransformer(preset(name))
        theirs = reference_module().SanaWMTransformer3DModel()
    state = ours.state_dict()
    assert sum(p.numel() for p in ours.parameters()) == 2_661_800_448
    assert len(state) == 870 and sum(t.numel() for t in state.values()) == 2_661_800_468
    assert {published_name(key) for key in state} == set(theirs.state_dict())
    assert sum(p.numel() for p in ours.blocks[0].parameters()) == 130_764_561 - 1  # the spec counts the buffer
    assert sum(p.numel() for p in ours.blocks[3].parameters()) == 130_746_641 - 1


def test_the_bidirectional_preset_is_what_the_published_config_says():
    config = dict(
        reference_module().SanaWMTransformer3DModel(num_layers=1, hidden_size=112, num_attention_heads=1).config
    )
    published = from_diffusers(config | {"num_layers": 20, "hidden_size": 2240, "num_attention_heads": 20})
    assert SanaConfig.from_dict(published | {"plucker_blocks": -1}) == preset("sana-wm-bidirectional")


def test_presets_can_be_changed_and_are_known_by_name():
    assert preset("sana-wm-streaming", window=6).window == 6
    with pytest.raises(ValueError, match="unknown preset 'sana-wm'; known: .*sana-wm-bidirectional"):
        preset("sana-wm")


@pytest.mark.parametrize("dim,scale", [(16, 128), (32, 32), (64, 64), (72, 128), (112, 128), (128, 128), (136, 256)])
def test_flash_kernels_pad_heads(dim, scale):
    assert padded_scale(dim) == scale**-0.5


def test_shards_are_read_through_their_index(saved, tmp_path):
    reference(torch.float32, num_layers=4).save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert torch.equal(velocity(SanaTransformer.from_pretrained(tmp_path, **SMALL)), saved[1])
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    with pytest.raises(ValueError, match="index.json names diffusion_pytorch_model-00002-of-.*, which is not there"):
        SanaTransformer.from_pretrained(tmp_path, **SMALL)


def test_the_folder_of_a_pipeline_is_read_at_its_transformer(saved, tmp_path):
    (tmp_path / "transformer").symlink_to(saved[0])
    assert torch.equal(velocity(SanaTransformer.from_pretrained(tmp_path, **SMALL)), saved[1])


@pytest.mark.parametrize("prefix", ["", "model.", "generator.", "generator.model."])
def test_an_nvlabs_checkpoint_tells_its_sizes_by_its_tensors(saved, tmp_path, prefix):
    file = tmp_path / "model.safetensors"
    tensors = as_nvlabs(weights_of(saved[0]), prefix)
    if prefix.startswith("generator."):
        tensors["critic.model.x_embedder.proj.bias"] = torch.zeros(3)
    save_file(tensors, file)
    for path in (file, tmp_path):
        ours = SanaTransformer.from_pretrained(path, **SMALL, camera_scale=128**-0.5)
        assert torch.equal(velocity(ours), saved[1])
    assert (ours.config.heads, ours.config.mlp_ratio, ours.config.softmax_every) == (2, 2.5, 2)


def test_a_checkpoint_runs_in_the_modes_of_a_preset(saved):
    ours = SanaTransformer.from_pretrained(saved[0], preset="sana-wm-streaming", grid=(3, 5))
    c = ours.config
    assert (c.temporal, c.chunk_size, c.first_chunk_plus_one, c.window, c.sink) == ("chunk_causal", 3, True, 3, 4)
    assert (c.width, c.depth, c.ucpe_stabilise) == (32, 4, "beta_only")


@pytest.mark.parametrize("shard", ["5GB", "30KB"])
def test_our_own_folders_come_back(saved, tmp_path, shard):
    ours = SanaTransformer.from_pretrained(saved[0], **SMALL)
    ours.save_pretrained(tmp_path, max_shard_size=shard)
    again = SanaTransformer.from_pretrained(tmp_path)
    assert again.config == ours.config and torch.equal(velocity(again), saved[1])
    assert SanaTransformer.from_pretrained(tmp_path, dtype=torch.float64).dtype == torch.float64


def test_our_own_folders_come_back_with_actions_and_without_cameras(tmp_path):
    ours = SanaTransformer(SanaConfig(in_channels=3, width=16, heads=2, depth=2, action_dim=2, source=True))
    torch.nn.init.normal_(ours.final_linear.weight)
    ours.save_pretrained(tmp_path)
    again = SanaTransformer.from_pretrained(tmp_path)
    given = torch.randn(1, 3, 2, 4, 4), torch.rand(1, 2)
    with torch.no_grad():
        a, b = (net.eval()(*given, actions=torch.ones(1, 2, 2)).velocity for net in (ours, again))
    assert torch.equal(a, b)
    with pytest.raises(ValueError, match="diffusers has no place for .*gate_bias=False.*action_dim=2.*text_dim=0"):
        ours.save_pretrained(tmp_path, layout="diffusers")


def test_what_we_save_for_diffusers_diffusers_reads(saved, tmp_path):
    ours = SanaTransformer.from_pretrained(saved[0], **SMALL)
    ours.save_pretrained(tmp_path, layout="diffusers", max_shard_size="40KB")
    theirs = reference_module().SanaWMTransformer3DModel.from_pretrained(tmp_path)
    expected = run_reference(theirs.eval(), inputs(ours.config, **GIVEN))
    torch.testing.assert_close(saved[1], expected, atol=1e-5, rtol=1e-5)
    before, after = weights_of(saved[0]), theirs.state_dict()
    assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_tensors_that_do_not_fit_are_named(saved, tmp_path):
    tensors = weights_of(saved[0])
    del tensors["blocks.2.cross_attn.kv_linear.weight"], tensors["t_block.1.bias"]
    tensors["blocks.4.attn.qkv.weight"] = torch.zeros(2, 2)
    tensors["final_layer.linear.bias"] = torch.zeros(5)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((saved[0] / "config.json").read_text())
    with pytest.raises(ValueError) as error:
        SanaTransformer.from_pretrained(tmp_path, **SMALL)
    for problem in (
        "missing blocks.2.cross_attn.kv_linear.weight (64, 32)",
        "missing t_block.1.bias (192,)",
        "extra blocks.4.attn.qkv.weight (2, 2)",
        "final_layer.linear.bias has shape (5,), expected (3,)",
    ):
        assert problem in str(error.value)
    assert str(error.value).count(";") == 3


def test_tensors_that_nothing_reads_may_be_left_behind(saved, tmp_path):
    ours = SanaTransformer.from_pretrained(saved[0], **SMALL, unused_parameters=False)
    assert not any("unused" in name or "raymap" in name for name in ours.state_dict())
    assert torch.equal(velocity(ours), saved[1])
    tensors = {
        name: t for name, t in weights_of(saved[0]).items() if "recall_gate" not in name and "raymap" not in name
    }
    save_file(tensors, tmp_path / "bare.safetensors")
    ours = SanaTransformer.from_pretrained(tmp_path / "bare.safetensors", **SMALL, camera_scale=128**-0.5)
    assert torch.equal(velocity(ours), saved[1])


@pytest.mark.parametrize("name", ["model.pth", "model.bin"])
def test_a_pickle_is_refused_and_the_conversion_works(saved, tmp_path, name, monkeypatch):
    torch.save({"generator": weights_of(saved[0]), "step": 3}, tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match="a pickle can run anything.*save_file") as error:
            SanaTransformer.from_pretrained(path)
    command = str(error.value).split('python -c "')[1].removesuffix('"')
    exec(command)
    ours = SanaTransformer.from_pretrained(tmp_path / "model.safetensors", **SMALL, camera_scale=128**-0.5)
    assert torch.equal(velocity(ours), saved[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_chunk_plucker_post_attn": False}, "use_chunk_plucker_post_attn=False"),
        ({"qk_norm": False}, "qk_norm=False"),
        ({"patch_size": [2, 1, 1]}, r"patch_size=\[2, 1, 1\]"),
        ({"conv_kernel_size": 0}, "conv_kernel_size=0"),
    ],
)
def test_a_configuration_that_computes_something_else_is_refused(saved, tmp_path, change, message):
    config = json.loads((saved[0] / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=message):
        SanaTransformer.from_pretrained(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        SanaTransformer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no .safetensors file"):
        SanaTransformer.from_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not the weights of a SANA transformer: no tensor x_embedder.proj.weight"):
        SanaTransformer.from_pretrained(tmp_path)
