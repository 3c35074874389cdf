"""Variants of weights beside the plain ones, as published folders have them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sana_wm.models.pretrained import read_folder
from sana_wm.models.prompt_encoder import PromptEncoder
from sana_wm.models.weight_files import variants_beside_plain, weight_files
from tests.models.tiny_sana_wm import tiny_gemma2, tiny_tokenizer

PLAIN = "diffusion_pytorch_model.safetensors"


def write(folder, *names):
    for number, name in enumerate(names):
        save_file({f"w{number}": torch.full((1,), float(number))}, folder / name)


def write_index(folder, name, *shards):
    (folder / name).write_text(json.dumps({"weight_map": {f"w{i}": shard for i, shard in enumerate(shards)}}))


@pytest.mark.parametrize(
    "variants",
    [
        ["diffusion_pytorch_model.bf16.safetensors"],
        ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.int4.safetensors"],
        ["diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
         "diffusion_pytorch_model.fp16-00002-of-00002.safetensors"],
        ["diffusion_pytorch_model-00001-of-00001.fp16.safetensors"],
    ],
)  # fmt: skip
def test_the_plain_file_is_read(tmp_path, variants):
    write(tmp_path, PLAIN, *variants)
    write_index(tmp_path, "diffusion_pytorch_model.safetensors.index.fp16.json", *variants)
    assert list(read_folder(tmp_path)[2]) == ["w0"]
    (tmp_path / "diffusion_pytorch_model.safetensors.index.fp16.json").unlink()
    assert list(read_folder(tmp_path)[2]) == ["w0"]


def test_the_plain_shards_are_read(tmp_path):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    write(tmp_path, *shards, "model.fp16-00001-of-00002.safetensors", "model.bf16.safetensors")
    write_index(tmp_path, "model.safetensors.index.json", *shards)
    write_index(tmp_path, "model.fp16.safetensors.index.json", "model.fp16-00001-of-00002.safetensors")
    assert [file.name for file in weight_files(tmp_path)] == shards


def test_a_variant_that_is_alone_is_read(tmp_path):
    write(tmp_path, "model.fp16.safetensors")
    assert list(read_folder(tmp_path)[2]) == ["w0"]
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    shards = ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"]
    write(sharded, *shards)
    write_index(sharded, "model.safetensors.index.fp16.json", *shards)
    assert [file.name for file in weight_files(sharded)] == shards


def test_what_cannot_be_told_apart_is_refused(tmp_path):
    write(tmp_path, "model.fp16.safetensors", "model.bf16.safetensors")
    with pytest.raises(ValueError, match="2 .safetensors files and no index.*model.bf16"):
        weight_files(tmp_path)


def test_what_need_not_be_fetched():
    names = ["vae/x.safetensors", "vae/x.fp16.safetensors", "other/x.fp16.safetensors", "vae/config.json",
             "text_encoder/model.safetensors.index.json", "text_encoder/model.fp16-00001-of-00002.safetensors",
             "text_encoder/model.safetensors.index.fp16.json",
             "text_encoder/model-00001-of-00002.safetensors"]  # fmt: skip
    assert variants_beside_plain(names) == [names[1], names[5], names[6]]


def test_a_text_encoder_with_a_variant_only_is_named(tmp_path):
    tiny_gemma2().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp16.safetensors")
    with pytest.raises(ValueError, match="expected model.safetensors .*found model.fp16.safetensors"):
        PromptEncoder.from_pretrained(tmp_path)
