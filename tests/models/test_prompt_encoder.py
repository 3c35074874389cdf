"""PromptEncoder against diffusers' SanaWMPipeline on a tiny Gemma-2."""

import pytest
import torch

from sana_wm.models.prompt_encoder import PromptEncoder, instruction
from tests.models.tiny_sana_wm import TEXT_DIM, tiny_gemma2, tiny_tokenizer

pytest.importorskip("diffusers")
PROMPTS = ["A robot pushes a block.", "", "long " * 200]


@pytest.fixture(scope="module")
def encoder():
    return PromptEncoder(tiny_gemma2(), tiny_tokenizer())


@pytest.mark.parametrize("prompt", PROMPTS)
def test_equals_the_pipeline(encoder, prompt):
    from diffusers import SanaWMPipeline
    from transformers import Gemma2ForCausalLM

    causal = Gemma2ForCausalLM(encoder.model.config).eval()
    causal.model = encoder.model
    pipe = SanaWMPipeline(encoder.tokenizer, causal, None, None, None)
    lines = instruction().split("\n")
    with torch.no_grad():
        text, mask, negative, negative_mask = pipe.encode_prompt(
            prompt, "blurry", device=torch.device("cpu"), chi_prompt=lines
        )
    got, got_mask = encoder([prompt])
    assert got.shape == (1, 300, TEXT_DIM)
    torch.testing.assert_close(got, text[:, 0])
    assert torch.equal(got_mask, mask.bool())
    got, got_mask = encoder(["blurry"], instruct=False)
    torch.testing.assert_close(got, negative[:, 0])
    assert torch.equal(got_mask, negative_mask.bool())


def test_lanes_do_not_depend_on_each_other(encoder):
    together, mask = encoder(PROMPTS)
    for lane, prompt in enumerate(PROMPTS):
        alone, own = encoder([prompt])
        torch.testing.assert_close(together[lane][mask[lane]], alone[0][own[0]])


def test_folder(encoder, tmp_path):
    encoder.model.save_pretrained(tmp_path / "text_encoder")
    with pytest.raises(ValueError, match="tokenizer.json"):
        PromptEncoder.from_pretrained(tmp_path / "text_encoder")
    encoder.tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = PromptEncoder.from_pretrained(tmp_path / "text_encoder", tmp_path / "tokenizer")
    torch.testing.assert_close(loaded(PROMPTS[:1])[0], encoder(PROMPTS[:1])[0])
    with pytest.raises(ValueError, match="Gemma-2"):
        PromptEncoder.from_pretrained(tmp_path / "tokenizer")
