"""A SANA-WM release in miniature: every component with random weights, in the folders that diffusers publishes."""

import json
from pathlib import Path

import torch

from sana_wm.models.transformer import SanaConfig, SanaTransformer

CHANNELS, TEXT_DIM, COMPRESSION, STRIDE = 6, 8, 32, 8


def tiny_vae(seed: int = 0, **changes):
    """AutoencoderKLLTX2Video with the strides of the real one, 8 x 32 x 32, and statistics that are not 0 and 1."""
    from diffusers import AutoencoderKLLTX2Video

    torch.manual_seed(seed)
    settings = {
        "latent_channels": CHANNELS, "block_out_channels": (4, 8, 8, 8), "decoder_block_out_channels": (8, 16, 32),
        "layers_per_block": (1, 1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1),
        "spatial_compression_ratio": COMPRESSION, "temporal_compression_ratio": STRIDE,
    } | changes  # fmt: skip
    vae = AutoencoderKLLTX2Video(**settings)
    vae.latents_mean.copy_(torch.randn(CHANNELS) * 0.1)
    vae.latents_std.copy_(torch.rand(CHANNELS) * 0.5 + 0.2)
    return vae.eval()


def tiny_tokenizer():
    """Gemma's tokenizer with a vocabulary of bytes."""
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = special + [f"<0x{byte:02X}>" for byte in range(256)]
    return GemmaTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])


def tiny_gemma2(seed: int = 0, width: int = TEXT_DIM):
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=272, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=4096, sliding_window=4096,
    )  # fmt: skip
    return Gemma2Model(config).eval()


def randomised(network: torch.nn.Module, seed: int = 0, std: float = 0.05) -> torch.nn.Module:
    """No parameter at zero, so that every condition has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return network.eval()


def tiny_transformer(seed: int = 0, grid: tuple[int, int] = (2, 3), **changes) -> SanaTransformer:
    """SanaTransformer with everything that the published ones have; by default bidirectional."""
    settings = {
        "in_channels": CHANNELS, "grid": grid, "width": 32, "depth": 4, "heads": 2, "mlp_ratio": 2.0,
        "text_dim": TEXT_DIM, "camera": True, "plucker_channels": 6 * STRIDE, "gate_bias": True, "window": -1,
        "temporal": "bidirectional", "integer_timesteps": True, "unused_parameters": True, "frame_mask": "dilute",
    } | changes  # fmt: skip
    torch.manual_seed(seed)
    return randomised(SanaTransformer(SanaConfig(**settings)), seed)


def tiny_refiner_network(seed: int = 0, text_dim: int = 24):
    """diffusers' refiner of LTX-2 latents."""
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMLTX2RefinerTransformer3DModel

    torch.manual_seed(seed)
    return SanaWMLTX2RefinerTransformer3DModel(
        in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=12, num_layers=2,
        cross_attention_dim=24, caption_channels=text_dim, audio_in_channels=4, audio_out_channels=4,
        audio_num_attention_heads=2, audio_attention_head_dim=4, audio_cross_attention_dim=8,
    ).eval()  # fmt: skip


def tiny_refiner(folder: str | Path, seed: int = 0) -> Path:
    """Write the refiner's transformer/, connectors/, text_encoder/ (a Gemma-3) and tokenizer/ as diffusers does."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    folder, width, layers = Path(folder), 8, 2
    tiny_refiner_network(seed, width).save_pretrained(folder / "transformer")
    LTX2TextConnectors(
        caption_channels=width, text_proj_in_factor=layers + 1, video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=width // 2, video_connector_num_layers=1,
        audio_connector_num_attention_heads=2, audio_connector_attention_head_dim=width // 2,
        audio_connector_num_layers=1,
    ).save_pretrained(folder / "connectors")  # fmt: skip
    text = Gemma3TextConfig(
        vocab_size=272, hidden_size=width, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=2048,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16, patch_size=8
    )
    encoder = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )
    encoder.save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def tiny_release(folder: str | Path, seed: int = 0, streaming: bool = False, **changes) -> Path:
    """Write ``model_index.json``, transformer/, vae/, text_encoder/, tokenizer/ and scheduler/ as diffusers does.

    Args:
        streaming: also say in ``sana_wm.json`` that the weights are those of the few-step streaming student.
        changes: of the transformer.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tiny_transformer(seed, **changes).save_pretrained(folder / "transformer", layout="diffusers")
    tiny_vae(seed).save_pretrained(folder / "vae")
    tiny_gemma2(seed).save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler(shift=9.8).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "SanaWMPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "GemmaTokenizer"],
        "transformer": ["diffusers", "SanaWMTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLLTX2Video"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
    if streaming:
        (folder / "sana_wm.json").write_text(json.dumps({"preset": "sana-wm-streaming"}, indent=1))
    return folder
