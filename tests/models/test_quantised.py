"""Weights in 8 and 4 bits: how far they are from the full ones, how many bytes they take, and how they are read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sana_wm.models.prompt_cache import PromptCache
from sana_wm.models.prompt_encoder import PromptEncoder
from sana_wm.models.quantised import (
    GROUP,
    KINDS,
    QuantisedEmbedding,
    QuantisedLinear,
    kind_of,
    quantise,
    quantised_bytes,
    quantised_names,
    torchao_primitives,
)
from sana_wm.models.transformer import SanaConfig, SanaTransformer
from sana_wm.models.weights import published_from_ours
from tests.models.tiny_sana_wm import randomised, tiny_gemma2, tiny_tokenizer

pytest.importorskip("torchao")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
SIZES = [(37, 5), (64, 33), (GROUP, 1), (2, 3)]


def layer(columns, rows, kind, bias=True, device="cpu"):
    torch.manual_seed(0)
    full = nn.Linear(columns, rows, bias=bias).to(device)
    made = QuantisedLinear(full, kind)
    made.fill(full.weight)
    return full, made


def network(depth=2, **changes) -> SanaTransformer:
    settings = {
        "in_channels": 3, "grid": None, "width": 48, "depth": depth, "heads": 2, "mlp_ratio": 2.5, "mixer": "relu",
        "softmax_every": 0, "temporal": "bidirectional", "text_dim": 7, "qk_norm": False, "temporal_conv": False,
        "positions": "none", "sample_size": 32,
    } | changes  # fmt: skip
    torch.manual_seed(0)
    return randomised(SanaTransformer(SanaConfig(**settings)), std=0.1)


@torch.no_grad()
def velocity(net):
    g = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 3, 1, 5, 3, generator=g), torch.randn(2, 4, 7, generator=g)
    return net(latents, torch.tensor([200.0, 700.0]), text).velocity.float()


def error(found, expected):
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_weights_are_rounded_to_the_nearest_step(columns, rows, kind, device):
    full, made = layer(columns, rows, kind, device=device)
    if kind == "int8":
        step, most = made.scale, 0.5
    else:  # a step that is rounded too, and a zero point that is whole
        step, most = made.scale.float().repeat_interleave(GROUP, dim=1)[:, :columns], 1.05
    assert ((made.weight - full.weight).abs() <= most * step + 1e-7).all()
    x = torch.randn(2, 3, columns, device=device)
    assert torch.allclose(made(x), nn.functional.linear(x, made.weight, full.bias), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_torchaos(kind):
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, MappingType, PerGroup, quantize_

    full, made = layer(64, 33, kind)
    with torch.no_grad():
        full.weight += 0.2  # not symmetric
    made.fill(full.weight)
    config = Int8WeightOnlyConfig(set_inductor_config=False)
    if kind == "int4":
        how = {"granularity": PerGroup(GROUP), "mapping_type": MappingType.ASYMMETRIC, "scale_dtype": torch.bfloat16}
        config = IntxWeightOnlyConfig(weight_dtype=torch.int4, **how)
    theirs = nn.Sequential(full)
    quantize_(theirs, config)
    expected = theirs[0].weight.dequantize().float()
    # theirs may round a weight that lies between two steps to the other one
    step = made.scale.float().repeat_interleave(64 // made.scale.shape[1], dim=1)
    assert ((made.weight - expected).abs() <= 0.01 * step).float().mean() > 0.98
    assert ((made.weight - expected).abs() <= 1.01 * step).all()


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.5), ("int4", 0.297)])
def test_bytes_are_a_half_and_less_than_a_third_of_bfloat16(kind, share):
    _, made = layer(320, 96, kind, bias=False)
    held = sum(buffer.nbytes for buffer in made.buffers())
    assert held == quantised_bytes(96, 320, kind) and held / (2 * 320 * 96) == pytest.approx(share, rel=0.02)


def test_a_row_that_fills_no_group_pads_it_without_widening_its_range():
    full, made = layer(GROUP + 5, 3, "int4")
    assert made.packed.shape == (3, GROUP) and made.scale.shape == (3, 2)
    _, alone = layer(GROUP, 3, "int4")
    alone.fill(full.weight[:, :GROUP])
    assert torch.equal(alone.weight, made.weight[:, :GROUP])
    short = QuantisedLinear(nn.Linear(5, 3), "int4")
    short.fill(full.weight[:, GROUP:])
    assert torch.equal(short.weight, made.weight[:, GROUP:])


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_in_the_dtype_of_the_input_or_of_autocast(kind):
    full, made = layer(70, 6, kind)
    x = torch.randn(4, 70)
    assert made(x).dtype == torch.float32 and made.to(torch.float32)(x.bfloat16()).dtype == torch.bfloat16
    assert error(made(x.bfloat16()), made(x)) < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(x), made(x.bfloat16())) and made(x).dtype == full(x).dtype
    x.requires_grad_()
    made(x).sum().backward()
    assert torch.allclose(x.grad, made.weight.sum(0).expand_as(x), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_slices_of_rows_make_the_whole(kind, monkeypatch):
    from sana_wm.models import quantised

    full, made = layer(70, 11, kind)
    x = torch.randn(4, 70)
    expected = made(x)
    monkeypatch.setattr(quantised, "SLICE", 3 * 70)
    _, sliced = layer(70, 11, kind)
    assert torch.equal(sliced.packed, made.packed) and torch.allclose(sliced(x), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_large_inputs_stay_in_the_range_of_float16(kind):
    full, made = layer(2240, 5, kind)
    x = 100 * torch.randn(8, 2240)
    found = made(x.half())
    assert torch.isfinite(found).all() and error(found, full(x)) < (0.2 if kind == "int4" else 0.02)


def test_a_scaled_table_of_tokens():
    table = tiny_gemma2(width=70).embed_tokens
    made = QuantisedEmbedding(table)
    made.fill(table.weight)
    index = torch.tensor([[3, 1], [3, 0]])
    assert made(index).shape == (2, 2, 70) and error(made(index), table(index)) < 0.01


def test_constant_rows_and_mistakes():
    for kind in KINDS:
        zeros = QuantisedLinear(nn.Linear(40, 2), kind)
        zeros.fill(torch.tensor([[0.0], [3.0]]).expand(2, 40))
        assert torch.allclose(zeros.weight, torch.tensor([[0.0], [3.0]]).expand(2, 40), rtol=0.01)
        with pytest.raises(ValueError, match="expected"):
            zeros.fill(torch.zeros(2, 41))
    with pytest.raises(ValueError, match="quantise=int3: expected one of none, int8, int4"):
        quantise(network(), "int3")


def test_without_torchao_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"pip install 'sana-wm\[quant\]'"):
        torchao_primitives()


# --- networks --------------------------------------------------------------------------------------------------------


def test_blocks_are_quantised_and_what_stands_around_them_is_not():
    net = network()
    names = quantised_names(net)
    assert {name.split(".", 2)[2] for name in names} == {
        "attn.qkv", "attn.proj", "text_attn.q", "text_attn.kv", "text_attn.proj", "ffn.inverted", "ffn.point"
    }  # fmt: skip
    published = SanaConfig.from_dict(network().config.to_dict() | {"width": 2240, "heads": 70, "text_dim": 2304})
    with torch.device("meta"):
        large = SanaTransformer(published)
    per_block = sum(large.get_submodule(name).weight.numel() for name in quantised_names(large)) / 2
    around = sum(p.numel() for name, p in large.named_parameters() if not name.startswith("blocks."))
    assert around / (20 * per_block + around) < 0.031  # of the published depth


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.012), ("int4", 0.2)])
def test_the_output_of_a_network_stays_near(kind, most):
    net = network()
    expected = velocity(net)
    rounding = error(velocity(network().bfloat16()), expected)
    found = error(velocity(quantise(network(), kind)), expected)
    assert 0 < found < most
    assert found < (3 if kind == "int8" else 50) * rounding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["sana_wm", "diffusers"])
def test_reading_rounds_to_the_same_as_rounding_in_memory(tmp_path, kind, layout):
    net = network()
    with pytest.warns() if layout == "diffusers" else torch.no_grad():
        net.save_pretrained(tmp_path, layout=layout, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    read = SanaTransformer.from_pretrained(tmp_path, quantise=kind)
    assert kind_of(read) == kind and read.dtype == torch.float32
    assert torch.equal(velocity(read), velocity(quantise(net, kind)))
    half = SanaTransformer.from_pretrained(tmp_path, quantise=kind, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.blocks[0].attn.qkv.scale.dtype == read.blocks[0].attn.qkv.scale.dtype
    assert torch.equal(half.blocks[1].ffn.point.packed, read.blocks[1].ffn.point.packed)


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_weights_are_saved_as_safetensors(tmp_path, kind):
    net = quantise(network(), kind)
    net.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}
    tensors = load_file(next(tmp_path.glob("*.safetensors")))
    assert tensors["blocks.0.ffn.point.packed"].dtype == (torch.int8 if kind == "int8" else torch.uint8)
    for how in ({}, {"quantise": kind}):
        again = SanaTransformer.from_pretrained(tmp_path, **how)
        assert kind_of(again) == kind and torch.equal(velocity(again), velocity(net))
    half = SanaTransformer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.blocks[0].attn.qkv.scale.dtype == net.blocks[0].attn.qkv.scale.dtype
    other = KINDS[1 - KINDS.index(kind)]
    with pytest.raises(ValueError, match=f"saved in {kind}"):
        SanaTransformer.from_pretrained(tmp_path, quantise=other)
    with pytest.raises(ValueError, match="no place for int"):
        net.save_pretrained(tmp_path / "theirs", layout="diffusers")
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"quantised": "int3"}))
    with pytest.raises(ValueError, match="quantised=int3"):
        SanaTransformer.from_pretrained(tmp_path)


def test_a_trainers_file_with_another_network_in_it_is_rounded_too(tmp_path):
    net = network()
    published = published_from_ours(net.state_dict(), 1)
    critic = {"critic.blocks.9.mlp.point_conv.conv.weight": torch.zeros(3, 3, 1, 1), "critic.x": torch.zeros(2)}
    save_file({f"generator.{name}": t for name, t in published.items()} | critic, tmp_path / "model.safetensors")
    how = {"heads": 2, "text_heads": 2, "integer_timesteps": False}
    read = SanaTransformer.from_pretrained(tmp_path / "model.safetensors", quantise="int8", **how)
    same = SanaTransformer.from_pretrained(tmp_path / "model.safetensors", **how)
    assert torch.equal(velocity(read), velocity(quantise(same, "int8")))


LOADING = """
import re, sys, torch
from sana_wm.models.quantised import torchao_primitives
from sana_wm.models.transformer import SanaTransformer
torch.set_num_threads(1)
def told(what):
    return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
torchao_primitives()
before = told("VmRSS")
kind = None if sys.argv[2] == "none" else sys.argv[2]
net = SanaTransformer.from_pretrained(sys.argv[1], quantise=kind, dtype=torch.bfloat16)
print(told("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_reading_never_holds_the_network_in_full(tmp_path):
    net = network(depth=12, width=512, heads=4)
    full = sum(p.nbytes for p in net.parameters())
    net.save_pretrained(tmp_path)

    def grown(kind):
        command = [sys.executable, "-c", LOADING, str(tmp_path), kind]
        return int(re.findall(r"\d+", subprocess.run(command, capture_output=True, text=True, check=True).stdout)[-1])

    # Files of 200 MB in float32: int8 is a quarter of that, and one block of a file and what torch needs come to it.
    assert grown("int8") < 0.75 * full


# --- text encoders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_text_encoders_are_rounded_as_they_are_read(tmp_path, kind, headed):
    model = randomised(tiny_gemma2(width=64), std=0.02)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    if headed:  # as the language model itself is published
        tensors = {f"model.{name}": t for name, t in load_file(tmp_path / "model.safetensors").items()}
        save_file(tensors | {"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors", {"format": "pt"})
    full = PromptEncoder(model, tiny_tokenizer(), prefix="say ")
    read = PromptEncoder.from_pretrained(tmp_path, prefix="say ", dtype=torch.float32, quantise=kind)
    (expected, mask), (found, _) = full(["a cat", "dogs"]), read(["a cat", "dogs"])
    assert isinstance(read.model.embed_tokens, QuantisedEmbedding) and kind_of(read.model) == kind
    assert 0 < error(found[mask], expected[mask]) < (0.03 if kind == "int8" else 0.3)
    inside = quantise(model, kind, embeddings=True)
    assert torch.allclose(PromptEncoder(inside, tiny_tokenizer(), prefix="say ")(["a cat"])[0], read(["a cat"])[0])
    assert found.dtype == torch.float32 and read.width == 64 and str(read.device) == "cpu"


def test_text_encoders_that_do_not_fit_are_refused(tmp_path):
    tiny_gemma2().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing layers.1.mlp.up_proj.weight"):
        PromptEncoder.from_pretrained(tmp_path, prefix="", quantise="int8")
    with pytest.raises(ValueError, match="quantise=int2"):
        PromptEncoder.from_pretrained(tmp_path, prefix="", quantise="int2")


def test_features_of_a_quantised_encoder_are_not_taken_for_those_of_the_full_one(tmp_path):
    tiny_gemma2().save_pretrained(tmp_path / "text")
    tiny_tokenizer().save_pretrained(tmp_path / "text")
    made = [
        PromptCache.from_pretrained(
            tmp_path / "cache", tmp_path / "text", dtype=torch.float32, prefix="", quantise=kind
        )
        for kind in (None, *KINDS)
    ]
    features = [cache(["a cat"])[0] for cache in made]
    assert len(list((tmp_path / "cache").iterdir())) == 3 and not torch.equal(features[0], features[2])
