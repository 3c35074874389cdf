"""SANA and Sprint in miniature: diffusers' networks with random weights, and ours or a wrapping beside them."""

import json

import pytest
import torch
from torch import nn

from sana_wm.models.dc_ae import DCAE, DCAEConfig
from sana_wm.models.prompt_encoder import PromptEncoder, instruction
from sana_wm.models.transformer import SanaOutput
from tests.models.tiny_sana_wm import TEXT_DIM, randomised, tiny_gemma2, tiny_tokenizer

CHANNELS = 4


def diffusers_transformer(sprint: bool = False, seed: int = 0, **changes):
    diffusers = pytest.importorskip("diffusers")
    settings = {
        "in_channels": CHANNELS, "out_channels": CHANNELS, "num_attention_heads": 2, "attention_head_dim": 8,
        "num_layers": 2, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16,
        "caption_channels": TEXT_DIM, "mlp_ratio": 2.5, "sample_size": 32, "patch_size": 1,
        "qk_norm": "rms_norm_across_heads" if sprint else None, "guidance_embeds": sprint,
    } | changes  # fmt: skip
    torch.manual_seed(seed)
    return randomised(diffusers.SanaTransformer2DModel(**settings), seed, std=0.1)


class Wrapped(nn.Module):
    """diffusers' transformer behind the interface of SanaTransformer."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, []

    @property
    def dtype(self):
        return self.network.dtype

    @property
    def device(self):
        return self.network.device

    @property
    def config(self):
        return self.network.config

    def encode_text(self, text, text_mask):
        return text, text_mask

    def forward(self, latents, timestep, text, guidance=None):
        self.calls.append((timestep, text[1], guidance))
        out = self.network(
            latents[:, :, 0], encoder_hidden_states=text[0], encoder_attention_mask=text[1].long(), timestep=timestep,
            guidance=guidance,
        ).sample  # fmt: skip
        return SanaOutput(out[:, :, None], None)


def autoencoders(stages: int = 4, seed: int = 0):
    """diffusers' AutoencoderDC and ours with its weights; pixels to a latent cell: 2 ** (stages - 1)."""
    diffusers = pytest.importorskip("diffusers")
    widths = (8,) * (stages - 2) + (16, 32)
    kinds = ("ResBlock",) * (stages - 1) + ("EfficientViTBlock",)
    scales, layers = ((),) * (stages - 1) + ((5,),), (1,) * stages
    torch.manual_seed(seed)
    theirs = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=CHANNELS, attention_head_dim=8, encoder_block_types=kinds,
        decoder_block_types=kinds, encoder_block_out_channels=widths, decoder_block_out_channels=widths,
        encoder_layers_per_block=layers, decoder_layers_per_block=layers, encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales, downsample_block_type="Conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    ).eval()  # fmt: skip
    types = ("res",) * (stages - 1) + ("vit",)
    ours = DCAE(DCAEConfig(3, CHANNELS, 8, widths, layers, layers, types, scales)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def encoder(member: str = "image") -> PromptEncoder:
    return PromptEncoder(tiny_gemma2(), tiny_tokenizer(), prefix=instruction(member))


def tiny_image_release(folder, sprint: bool = False, shift: float = 3.0):
    """Write what diffusers publishes of an image member of base 512: its index and the five folders."""
    import diffusers

    diffusers_transformer(sprint, sample_size=16).save_pretrained(folder / "transformer")
    autoencoders(stages=6)[0].save_pretrained(folder / "vae")
    tiny_gemma2().save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    scheduler = diffusers.SCMScheduler()
    if not sprint:
        settings = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
        scheduler = diffusers.DPMSolverMultistepScheduler(**settings)
    scheduler.save_pretrained(folder / "scheduler")
    name = "SanaSprintPipeline" if sprint else "SanaPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return folder
