"""SANA-Video and LongSANA in miniature: diffusers' networks with random weights, as folders of a release too."""

import json

import pytest
import torch

from sana_wm.models.prompt_encoder import PromptEncoder, instruction
from tests.models.tiny_sana_wm import TEXT_DIM, randomised, tiny_gemma2, tiny_tokenizer, tiny_vae

WAN_CHANNELS, LTX_CHANNELS = 4, 6  # LTX_CHANNELS: those of tiny_vae


def tiny_wan(seed: int = 0, **changes):
    """AutoencoderKLWan with the strides of the real one, 4 x 8 x 8, and statistics that are not 0 and 1."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    settings = {
        "base_dim": 4, "z_dim": WAN_CHANNELS, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1,
        "latents_mean": (torch.randn(WAN_CHANNELS) * 0.1).tolist(),
        "latents_std": (torch.rand(WAN_CHANNELS) * 0.5 + 0.2).tolist(),
    } | changes  # fmt: skip
    return diffusers.AutoencoderKLWan(**settings).eval()


def video_transformer(vae: str = "wan", seed: int = 0, **changes):
    """diffusers' SanaVideoTransformer3DModel for the latents of either autoencoder."""
    diffusers = pytest.importorskip("diffusers")
    channels, patch = (WAN_CHANNELS, (1, 2, 2)) if vae == "wan" else (LTX_CHANNELS, (1, 1, 1))
    settings = {
        "in_channels": channels, "out_channels": channels, "num_attention_heads": 2, "attention_head_dim": 12,
        "num_layers": 2, "num_cross_attention_heads": 3, "cross_attention_head_dim": 8, "cross_attention_dim": 24,
        "caption_channels": TEXT_DIM, "mlp_ratio": 2.5, "sample_size": 30 if vae == "wan" else 22, "patch_size": patch,
    } | changes  # fmt: skip
    torch.manual_seed(seed)
    return randomised(diffusers.SanaVideoTransformer3DModel(**settings), seed, std=0.1)


def video_encoder() -> PromptEncoder:
    return PromptEncoder(tiny_gemma2(), tiny_tokenizer(), prefix=instruction("video"))


def flow_scheduler(shift: float = 8.0):
    import diffusers

    settings = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    return diffusers.DPMSolverMultistepScheduler(**settings)


def tiny_clip_release(folder, vae: str = "wan", shift: float = 8.0, causal: bool = False, **changes):
    """Write what diffusers publishes of a video member: its index and the five folders.

    Args:
        causal: of LongSANA, whose transformer's class diffusers does not have. changes: of the transformer.
    """
    video_transformer(vae, **changes).save_pretrained(folder / "transformer")
    (tiny_wan() if vae == "wan" else tiny_vae()).save_pretrained(folder / "vae")
    tiny_gemma2().save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    flow_scheduler(shift).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SanaVideoPipeline"}))
    if causal:
        file = folder / "transformer" / "config.json"
        config = json.loads(file.read_text()) | {"_class_name": "SanaVideoCausalTransformer3DModel"}
        file.write_text(json.dumps(config))
    return folder
