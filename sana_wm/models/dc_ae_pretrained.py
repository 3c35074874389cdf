"""Folders of DC-AE weights: ours, diffusers' and mit-han-lab's; safetensors only."""

import json
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict

from sana_wm.models.dc_ae_config import DCAEConfig, dcae_preset
from sana_wm.models.dc_ae_weights import config_from_mit, is_mit, mit_from_ours, ours_from_mit
from sana_wm.models.pretrained import read_folder
from sana_wm.models.weights import PREFIXES, complain

FORMAT = "sana_wm.dc_ae.1"
# Values of diffusers' AutoencoderDC, theirs -> ours. Its code takes any other downsampling for a strided convolution.
BLOCKS = {"ResBlock": "res", "EfficientViTBlock": "vit"}
NORMS = {"rms_norm": "rms", "batch_norm": "batch"}
DOWN = {"pixel_unshuffle": "pixel_unshuffle", "Conv": "conv", "conv": "conv"}
SETTINGS = {
    "in_channels": "in_channels",
    "latent_channels": "latent_channels",
    "attention_head_dim": "head_dim",
    "encoder_block_out_channels": "widths",
    "decoder_block_out_channels": "decoder_widths",
    "encoder_layers_per_block": "encoder_layers",
    "decoder_layers_per_block": "decoder_layers",
    "encoder_block_types": "block_types",
    "decoder_block_types": "decoder_block_types",
    "encoder_qkv_multiscales": "multiscales",
    "decoder_qkv_multiscales": "decoder_multiscales",
    "downsample_block_type": "downsample",
    "upsample_block_type": "upsample",
    "decoder_norm_types": "decoder_norms",
    "decoder_act_fns": "decoder_activations",
    "encoder_out_shortcut": "encoder_shortcut",
    "decoder_in_shortcut": "decoder_shortcut",
    "decoder_conv_act_fn": "out_activation",
    "scaling_factor": "scaling_factor",
}
# What diffusers takes for a setting that a config.json leaves out, where it is not what we would.
DEFAULTS = {
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle",
    "scaling_factor": 1.0,
}


def from_diffusers(settings: dict) -> DCAEConfig:
    """The configuration in a config.json of diffusers' AutoencoderDC.

    Raises:
        ValueError: settings that we do not have.
    """
    given = {name: value for name, value in settings.items() if not name.startswith("_")}
    if unknown := sorted(set(given) - set(SETTINGS)):
        raise ValueError(f"unknown settings of an AutoencoderDC: {unknown}; known: {sorted(SETTINGS)}")
    given = DEFAULTS | given
    count = len(given.get("encoder_block_out_channels", DCAEConfig().widths))
    values = {SETTINGS[name]: value for name, value in given.items()}
    for name in ("block_types", "decoder_block_types"):
        kinds = values[name]
        kinds = [kinds] * count if isinstance(kinds, str) else kinds
        values[name] = [BLOCKS.get(kind, kind) for kind in kinds]
    if norms := values.get("decoder_norms"):
        values["decoder_norms"] = (
            NORMS.get(norms, norms) if isinstance(norms, str) else [NORMS.get(n, n) for n in norms]
        )
    values["downsample"] = DOWN.get(values["downsample"], values["downsample"])
    return DCAEConfig(**values)


def to_diffusers(config: DCAEConfig) -> dict:
    """The config.json of a diffusers' AutoencoderDC."""
    decoder = config.of_decoder()
    blocks, norms = ({ours: theirs for theirs, ours in table.items()} for table in (BLOCKS, NORMS))
    values = config.to_dict() | {
        "block_types": [blocks[kind] for kind in config.block_types],
        "downsample": "pixel_unshuffle" if config.downsample == "pixel_unshuffle" else "Conv",
        "decoder_widths": decoder.widths,
        "decoder_block_types": [blocks[kind] for kind in decoder.block_types],
        "decoder_multiscales": decoder.multiscales,
        "decoder_norms": [norms[norm] for norm in decoder.norms],
        "decoder_activations": decoder.activations,
    }
    return {"_class_name": "AutoencoderDC"} | {theirs: values[ours] for theirs, ours in SETTINGS.items()}


def config_from(settings: dict | None, where: Path) -> DCAEConfig | None:
    """What a config.json says, ours or diffusers'; None: it says nothing of an autoencoder.

    Raises:
        ValueError: it is that of another kind of autoencoder.
    """
    if settings is None:
        return None
    if settings.get("format") == FORMAT:
        return DCAEConfig.from_dict({name: value for name, value in settings.items() if name != "format"})
    if settings.get("model_name"):
        return dcae_preset(settings["model_name"])
    if not set(settings) & (set(SETTINGS) | {"_class_name"}):
        return None
    if (kind := settings.get("_class_name", "AutoencoderDC")) != "AutoencoderDC":
        raise ValueError(f"{where} holds a {kind}, expected an AutoencoderDC")
    return from_diffusers(settings)


def load(build, path: str | Path, preset: str | None, dtype: torch.dtype | None, changes: dict):
    """Build an autoencoder with ``build(config)`` and fill it; see :meth:`DCAE.from_pretrained`."""
    path = Path(path)
    if not (path / "config.json").exists() and (path / "vae").is_dir():
        path = path / "vae"  # of a pipeline
    where, settings, tensors = read_folder(path)
    if path.is_file() and (path.parent / "config.json").exists():
        settings = json.loads((path.parent / "config.json").read_text())
    for prefix in PREFIXES:  # of trainers
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    mit = is_mit(tensors)
    if preset is not None:
        config = dcae_preset(preset)
    elif (told := config_from(settings, where)) is not None:
        config = told
    elif mit:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        config = config_from_mit(shapes, str(where), changes.get("head_dim"))
    else:
        raise ValueError(f"{where} has no config.json of an autoencoder: pass preset=, such as 'f32c32-sana-1.1'")
    config = DCAEConfig.from_dict(config.to_dict() | changes)
    with torch.device("meta"):
        network = build(config)
    wanted = network.state_dict()
    if mit:
        tensors = ours_from_mit(wanted, tensors, config, str(where))
    else:
        shapes = [{name: tuple(t.shape) for name, t in some.items()} for some in (wanted, tensors)]
        complain(*shapes, set(tensors) - set(wanted), str(where))
    if dtype is not None:
        tensors = {n: tensor.to(dtype) if tensor.is_floating_point() else tensor for n, tensor in tensors.items()}
    network.load_state_dict(tensors, assign=True)
    return network.to(memory_format=torch.channels_last).eval()


def save(network, folder: str | Path, layout: str, max_shard_size: str) -> None:
    """Write config.json and safetensors; see :meth:`DCAE.save_pretrained`."""
    if layout not in ("sana_wm", "diffusers", "mit"):
        raise ValueError(f"layout={layout!r}: expected 'sana_wm', 'diffusers' or 'mit'")
    if layout != "sana_wm" and not network.config.is_publishable:
        layers = (network.config.encoder_layers, network.config.decoder_layers)
        raise ValueError(
            f"layers {layers}: layout {layout!r} has no stages without blocks but the first; use 'sana_wm'"
        )
    config, tensors = network.config, {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    settings, name = {"format": FORMAT} | config.to_dict(), "model"
    if layout == "diffusers":
        settings, name = to_diffusers(config), "diffusion_pytorch_model"
    elif layout == "mit":
        tensors = mit_from_ours(tensors, config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(
        tensors, folder, filename_pattern=name + "{suffix}.safetensors", max_shard_size=max_shard_size
    )
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
