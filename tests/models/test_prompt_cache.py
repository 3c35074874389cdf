"""Instructions and the cache of features, on a tiny Gemma-2."""

import inspect
import json
import os

import pytest
import torch

from sana_wm.models.prompt_cache import PromptCache, files_identity
from sana_wm.models.prompt_encoder import PromptEncoder, instruction, prepare_prompt, read_instruction
from tests.models.tiny_sana_wm import TEXT_DIM, tiny_gemma2, tiny_tokenizer

PREFIX = "Say more:\nUser: "
PROMPTS = ["A robot.", "", "two words", "A robot."]
TOKENS = 20


@pytest.fixture(scope="module")
def encoder():
    return PromptEncoder(tiny_gemma2(), tiny_tokenizer(), prefix=PREFIX, max_tokens=TOKENS)


class Loads:
    """How often the encoder was read."""

    def __init__(self, encoder):
        self.encoder, self.count = encoder, 0

    def __call__(self):
        self.count += 1
        return self.encoder


def cache(folder, encoder, identity="a", **changes):
    loads = Loads(encoder)
    settings = {"prefix": encoder.prefix, "max_tokens": encoder.max_tokens} | changes
    return PromptCache(folder, loads, identity, **settings), loads


@pytest.mark.parametrize("prompt", ["  A robot pushes a Block. ", "", "long " * 200])
def test_image_prompts_equal_those_of_the_pipeline(prompt):
    pytest.importorskip("diffusers")
    from diffusers import SanaPipeline

    ours = PromptEncoder(tiny_gemma2(), tiny_tokenizer(), prefix=instruction("image"))
    pipe = SanaPipeline(ours.tokenizer, ours.model, None, None, None)
    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    with torch.no_grad():
        text, mask, negative, negative_mask = pipe.encode_prompt(
            prompt, negative_prompt="blurry", device=torch.device("cpu"), complex_human_instruction=lines
        )
    cleaned = prepare_prompt(prompt, lowercase=True)
    assert prepare_prompt(prompt) == prompt.strip()
    for got, expected in ((ours([cleaned]), (text, mask)), (ours(["blurry"], False), (negative, negative_mask))):
        assert got[0].shape == (1, 300, TEXT_DIM)
        torch.testing.assert_close(got[0], expected[0])
        assert torch.equal(got[1], expected[1].bool())


def test_instructions_of_members():
    pytest.importorskip("diffusers")
    image, sprint, video = map(instruction, ("image", "sprint", "video"))
    assert image == sprint != video and image.count("\n") == 7
    with pytest.raises(ValueError, match="expected one of"):
        instruction("audio")


def test_instruction_from_a_file(tmp_path):
    (tmp_path / "plain.txt").write_text("one\ntwo: ")
    (tmp_path / "model.yaml").write_text('text_encoder:\n  chi_prompt:\n  - "one"\n  - "two: "\n')
    assert read_instruction(tmp_path / "plain.txt") == read_instruction(tmp_path / "model.yaml") == "one\ntwo: "
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="chi_prompt"):
        read_instruction(tmp_path / "other.json")


@pytest.mark.parametrize("instruct", [True, False])
def test_cached_features_are_those_of_the_encoder(encoder, tmp_path, instruct):
    expected = encoder(PROMPTS, instruct)
    for reads in (1, 0):  # the second cache finds everything on disk
        prompts, loads = cache(tmp_path, encoder)
        features, mask = prompts(PROMPTS, instruct)
        torch.testing.assert_close(features, expected[0])
        assert torch.equal(mask, expected[1]) and mask.dtype == torch.bool
        assert loads.count == reads
    assert len(list(tmp_path.iterdir())) == len(set(PROMPTS))


def test_what_changes_features_changes_the_name(encoder, tmp_path):
    cache(tmp_path, encoder)[0](["a"])
    cases = [({}, True, 0), ({}, False, 1), ({"identity": "b"}, True, 1)]
    for changes, instruct, reads in cases:
        prompts, loads = cache(tmp_path, encoder, **changes)
        prompts(["a"], instruct)
        assert loads.count == reads, (changes, instruct)
    other = PromptEncoder(encoder.model, encoder.tokenizer, prefix="Else: ", max_tokens=TOKENS)
    prompts, loads = cache(tmp_path, other)
    prompts(["a"])
    assert loads.count == 1
    wrong, _ = cache(tmp_path, encoder, prefix="Third: ")
    with pytest.raises(ValueError, match="another prefix"):
        wrong(["a"])


def test_only_new_prompts_are_encoded_and_the_encoder_can_be_let_go(encoder, tmp_path):
    prompts, loads = cache(tmp_path, encoder)
    prompts(["a", "b"])
    asked = []
    encoder.register_forward_pre_hook(lambda _, args: asked.append(list(args[0])))
    prompts(["b", "c", "a", "c"])
    encoder._forward_pre_hooks.clear()
    assert asked == [["c"]] and loads.count == 1
    prompts.release()
    prompts(["d"])
    assert loads.count == 2


def test_the_folder_stays_below_its_bound(encoder, tmp_path):
    prompts, _ = cache(tmp_path, encoder)
    for age, name in enumerate("abcd"):
        prompts([name])
        os.utime(prompts._path(name, True), (age, age))
    size = prompts._path("a", True).stat().st_size
    prompts(["a"])  # used again: b is now the oldest
    bounded, _ = cache(tmp_path, encoder, max_bytes=3 * size)
    bounded(["e"])
    assert [name for name in "abcde" if bounded._path(name, True).is_file()] == ["a", "d", "e"]


def test_files_that_others_remove_meanwhile_are_passed_over(encoder, tmp_path, monkeypatch):
    prompts, _ = cache(tmp_path, encoder, max_bytes=1)
    prompts(["a"])
    path, stat = type(tmp_path), type(tmp_path).stat
    gone = prompts._path("a", True)

    def lost(self, **how):
        if self == gone:
            raise FileNotFoundError(self)
        return stat(self, **how)

    monkeypatch.setattr(path, "stat", lost)
    features, _ = prompts(["b"])
    assert features.shape[0] == 1 and prompts._path("b", True) in tmp_path.iterdir()


def test_a_write_that_fails_leaves_nothing(encoder, tmp_path, monkeypatch):
    from sana_wm.models import prompt_cache

    def full(tensors, path):
        path = type(tmp_path)(path)
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(prompt_cache, "save_file", full)
    prompts, _ = cache(tmp_path, encoder)
    with pytest.raises(OSError, match="disk full"):
        prompts(["a"])
    assert list(tmp_path.iterdir()) == []


def test_folders_of_weights(encoder, tmp_path):
    model, tokenizer = tmp_path / "text_encoder", tmp_path / "tokenizer"
    encoder.model.save_pretrained(model)
    encoder.tokenizer.save_pretrained(tokenizer)
    settings = {"prefix": PREFIX, "max_tokens": TOKENS}
    prompts = PromptCache.from_pretrained(tmp_path / "cache", model, tokenizer, torch.float32, **settings)
    torch.testing.assert_close(prompts(PROMPTS)[0], encoder(PROMPTS)[0])
    before = files_identity(model, tokenizer)
    assert files_identity(model, tokenizer) == before
    tiny_gemma2(seed=1).save_pretrained(model)
    after = files_identity(model, tokenizer)
    assert after != before
    config = json.loads((model / "config.json").read_text()) | {"final_logit_softcapping": 31.0}
    (model / "config.json").write_text(json.dumps(config))
    assert files_identity(model, tokenizer) != after
    with pytest.raises(ValueError, match="float16"):
        PromptEncoder.from_pretrained(model, tokenizer, torch.float16)
