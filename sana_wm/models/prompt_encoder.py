"""Prompts to features: Gemma-2 with SANA's fixed instruction before the prompt (SANA-WM, spec 2.5; sana_family 3)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sana_wm.models.quantised import check_kind
from sana_wm.models.quantised_text import load_quantised_text
from sana_wm.nn.widened import widened

MAX_TOKENS = 300


# What holds the instruction of each member in diffusers: the default of its pipeline, or a constant beside it.
PIPELINES = {"image": "SanaPipeline", "sprint": "SanaSprintPipeline", "video": "SanaVideoPipeline"}
WORLD = "sana-wm"


def instruction(member: str = WORLD) -> str:
    """What stands before prompts, as diffusers' pipeline of that member has it; one line follows the other.

    It is part of the trained model, token by token, so it is read, not written here. Official YAML files hold the same
    with other quotation marks: :func:`read_instruction` takes theirs.

    Args:
        member: ``"sana-wm"``, ``"image"``, ``"sprint"`` or ``"video"``, each with a wording of its own but for the two
            of images.

    Raises:
        ImportError: without diffusers. ValueError: an unknown member.
    """
    if member not in (WORLD, *PIPELINES):
        raise ValueError(f"instruction of {member!r}: expected one of {sorted([WORLD, *PIPELINES])}")
    try:
        import diffusers
        from diffusers.pipelines.sana_wm.pipeline_sana_wm import DEFAULT_CHI_PROMPT
    except ImportError as error:
        raise ImportError(
            "the instruction before SANA's prompts is read from diffusers (0.42 or later): pip install "
            "'sana-wm[ltx]', or give a file that holds it"
        ) from error
    if member == WORLD:
        return "\n".join(DEFAULT_CHI_PROMPT)
    call = getattr(diffusers, PIPELINES[member]).__call__
    return "\n".join(inspect.signature(call).parameters["complex_human_instruction"].default)


def prepare_prompt(prompt: str, lowercase: bool = False) -> str:
    """A prompt as it is encoded: without blanks at its ends, as NVlabs' code has it.

    diffusers' image, Sprint and video pipelines (not that of SANA-WM) put it in small letters too, ``lowercase=True``.
    What a picture is to spell out loses by it.
    """
    return prompt.strip().lower() if lowercase else prompt.strip()


def read_instruction(path: str | Path) -> str:
    """An instruction from a file: text as it stands, or the ``text_encoder.chi_prompt`` of an official YAML (or JSON).

    Raises:
        ValueError: a YAML or JSON file without that entry.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml", ".json"):
        return path.read_text()
    from omegaconf import OmegaConf

    lines = OmegaConf.select(OmegaConf.load(path), "text_encoder.chi_prompt")
    if lines is None:
        raise ValueError(f"{path}: expected text_encoder.chi_prompt, a list of lines")
    return lines if isinstance(lines, str) else "\n".join(lines)


class PromptEncoder(nn.Module):
    """A decoder-only language model whose last hidden states are the features of a prompt.

    Args:
        model: transformers' Gemma2Model, or any that returns ``last_hidden_state``. tokenizer: its tokenizer.
        prefix: what stands before a prompt; None: :func:`instruction`.
        max_tokens: of a prompt's features.
    """

    def __init__(self, model: nn.Module, tokenizer, prefix: str | None = None, max_tokens: int = MAX_TOKENS):
        super().__init__()
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.prefix = instruction() if prefix is None else prefix
        self.max_tokens = max_tokens

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        tokenizer: str | Path | None = None,
        dtype: torch.dtype | None = None,
        *,
        quantise: str | None = None,
        **settings,
    ) -> PromptEncoder:
        """Read the folders that transformers saved; without ``tokenizer`` it lies beside the model's weights.

        Args:
            quantise: "int8" or "int4", see :func:`sana_wm.models.quantised_text.load_quantised_text`.

        Raises:
            ValueError: a folder that does not hold them (or holds pickles only); dtype float16.
        """
        check_kind(quantise)
        if dtype == torch.float16:
            raise ValueError(
                "Gemma-2's hidden states leave the range of float16: give dtype torch.bfloat16 or torch.float32"
            )
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        model, tokenizer = Path(model), Path(model if tokenizer is None else tokenizer)
        if not (model / "config.json").is_file() or not list(model.glob("*.safetensors")):
            raise ValueError(f"{model}: expected the config.json and .safetensors of a Gemma-2 text encoder")
        if not any((model / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
            found = ", ".join(sorted(file.name for file in model.glob("*.safetensors")))
            raise ValueError(
                f"{model}: expected model.safetensors or model.safetensors.index.json, found {found}. Of a variant "
                "(.fp16, .bf16), rename its files to those names, in its index too"
            )
        if not (tokenizer / "tokenizer.json").is_file() and not (tokenizer / "tokenizer.model").is_file():
            raise ValueError(f"{tokenizer}: expected the tokenizer.json (or tokenizer.model) of the text encoder")
        config = AutoConfig.from_pretrained(model, local_files_only=True)
        if quantise is not None:
            network = load_quantised_text(model, config, dtype, quantise)
        else:
            network = AutoModel.from_pretrained(
                model, config=config, dtype=dtype, use_safetensors=True, local_files_only=True
            )
        return cls(network, AutoTokenizer.from_pretrained(tokenizer, local_files_only=True), **settings)

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    @widened
    def forward(self, prompts: Sequence[str], instruct: bool = True) -> tuple[Tensor, Tensor]:
        """Features (B, L, C) of prompts and their mask (B, L) bool, L = max_tokens.

        With the instruction the sequence is as long as the instruction and L - 2 tokens together, and what is kept is
        its first token and its last L - 1: of a short prompt the prompt, the end of the instruction and padding.

        Args:
            prompts: one text per lane. instruct: put the instruction before them; not for a negative prompt.
        """
        prefix = self.prefix if instruct else ""
        length = len(self.tokenizer.encode(prefix)) + self.max_tokens - 2 if prefix else self.max_tokens
        tokens = self.tokenizer(
            [prefix + prompt for prompt in prompts],
            max_length=length,
            padding="max_length",
            padding_side="right",  # as in training; Gemma's own default is the left
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        hidden = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        kept = torch.tensor([0, *range(length - self.max_tokens + 1, length)], device=hidden.device)
        return hidden[:, kept], tokens.attention_mask[:, kept].bool()
