"""Folders of weights: ours, diffusers' and NVlabs'. Safetensors only: unpickling runs whatever a file says."""

import json
import warnings
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor

from sana_wm.models.diffusers_names import from_diffusers_names, to_diffusers_names
from sana_wm.models.family import CAUSAL_PRESET, CAUSAL_VIDEO, IMAGE, OURS, VIDEO, beyond_diffusers
from sana_wm.models.presets import from_diffusers, from_shapes, modes, to_diffusers
from sana_wm.models.sana_config import SanaConfig
from sana_wm.models.weight_files import weight_files
from sana_wm.models.weights import (
    as_nvlabs,
    check_names,
    is_of_actions,
    new_action_tensors,
    ours_from_published,
    published_from_ours,
    unwrapped,
)
from sana_wm.nn.embeddings import ActionEmbedding

FORMAT = "sana_wm.transformer.1"
LAYOUTS = ("sana_wm", "diffusers", "nvlabs")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
CONVERSION = (
    "a pickle can run anything when it is read, so it is not read. Convert it once, where you trust it: python -c "
    "\"import torch; from safetensors.torch import save_file; d = torch.load('{path}', map_location='cpu', "
    "weights_only=True); d = d.get('generator', d.get('state_dict', d)); "
    "save_file({{k: v.contiguous().clone() for k, v in d.items()}}, '{target}')\""
)


def read_folder(path: str | Path) -> tuple[Path, dict | None, dict[str, Tensor]]:
    """Weights and, where there is one, config.json of a folder or a single .safetensors file.

    A folder of a diffusers pipeline is read at its ``transformer`` folder. Which files are read:
    :func:`weight_files`.

    Returns: the folder or file that was read, its config.json, its tensors on the CPU.

    Raises:
        FileNotFoundError: no such path. ValueError: no safetensors in it, only a pickle, or a shard that is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder of weights")
    if path.is_file():
        return path, None, _read_files([path])
    if not (path / "config.json").exists() and (path / "transformer").is_dir():
        path = path / "transformer"
    config = path / "config.json"
    settings = json.loads(config.read_text()) if config.exists() else None
    files = weight_files(path)
    if not files:
        pickles = sorted(file for file in path.iterdir() if file.suffix in PICKLES)
        if pickles:
            raise ValueError(
                f"{pickles[0]}: " + CONVERSION.format(path=pickles[0], target=pickles[0].with_suffix(".safetensors"))
            )
        raise ValueError(f"{path} has no .safetensors file")
    return path, settings, _read_files(files)


def load(build, path: str | Path, preset: str | None, dtype: torch.dtype | None, changes: dict):
    """Build a transformer with ``build(config)`` and fill it; see :meth:`SanaTransformer.from_pretrained`."""
    where, settings, tensors = read_folder(path)
    own = settings is not None and settings.get("format") == FORMAT
    kind = None if settings is None else settings.get("_class_name")
    if kind == CAUSAL_VIDEO:
        kind, settings, preset = VIDEO, settings | {"_class_name": VIDEO}, preset or CAUSAL_PRESET
    kind = kind if kind in (IMAGE, VIDEO) else None
    if own:
        values = {name: value for name, value in settings.items() if name not in ("format", "layout")}
        if settings.get("layout") == "nvlabs":
            tensors, own = unwrapped(tensors), False
    elif kind is not None:
        values = from_diffusers(settings)
    else:
        tensors = unwrapped(tensors)
        if settings is not None and "hidden_size" in settings:
            values = from_diffusers(settings)
        else:
            values = from_shapes({n: tuple(t.shape) for n, t in tensors.items()})
    if preset is not None:  # what the network takes in is the file's to say, not the preset's
        values = values | {name: value for name, value in modes(preset).items() if name not in ("action_dim", "source")}
    config = SanaConfig.from_dict(values | changes)
    with torch.device("meta"):
        network = build(config)
    added = {}
    if config.action_dim:
        # Its buffer is in no file, so the embedding is built for real; what a file holds of it replaces it below.
        network.action_embedder = ActionEmbedding(config.action_dim, config.width)
        if not any(is_of_actions(name) for name in tensors):
            added = new_action_tensors(network.state_dict(), next(iter(tensors.values())).dtype)
    wanted = {name: tensor for name, tensor in network.state_dict().items() if name not in added}
    if own:
        check_names(wanted, tensors, str(where))
    else:
        if kind is not None:
            published = published_from_ours({name: t.to("meta") for name, t in wanted.items()}, config.patch_size)
            check_names(to_diffusers_names(published, kind), tensors, str(where))
            tensors = from_diffusers_names(tensors, kind)
        tensors = ours_from_published(wanted, tensors, config.patch_size, str(where))
    tensors = tensors | added
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    network.load_state_dict(tensors, assign=True)
    if config.action_dim:
        network.action_embedder.to(network.dtype)  # its buffer
    return network.eval()


def save(network, folder: str | Path, layout: str, max_shard_size: str) -> None:
    """Write config.json and safetensors; see :meth:`SanaTransformer.save_pretrained`."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: expected one of {', '.join(map(repr, LAYOUTS))}")
    config, tensors = network.config, network.state_dict()
    if layout == "nvlabs":
        settings, name = {"format": FORMAT, "layout": layout} | config.to_dict(), "model"
        tensors = as_nvlabs(published_from_ours(tensors, config.patch_size), image=_is_image(config))
    elif layout == "diffusers":
        settings, name = to_diffusers(config), "diffusion_pytorch_model"
        tensors = published_from_ours(tensors, config.patch_size)
        if settings["_class_name"] in (IMAGE, VIDEO):
            tensors = to_diffusers_names(tensors, settings["_class_name"])
            if beyond := beyond_diffusers(config):
                settings[OURS] = beyond
                listed = ", ".join(f"{name}={value!r}" for name, value in beyond.items())
                warnings.warn(
                    f"diffusers has no setting for {listed} and computes with its own; sana_wm reads them back",
                    stacklevel=3,
                )
    else:
        settings, name = {"format": FORMAT} | config.to_dict(), "model"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(
        tensors, folder, filename_pattern=name + "{suffix}.safetensors", max_shard_size=max_shard_size
    )
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")


def _is_image(config: SanaConfig) -> bool:
    """Of a member whose files know no time: ReLU attention and no convolution over time."""
    return config.mixer == "relu" and not config.softmax_every and not config.temporal_conv


def _read_files(files: list[Path]) -> dict[str, Tensor]:
    tensors = {}
    for file in files:
        if file.suffix != ".safetensors":
            raise ValueError(f"{file}: " + CONVERSION.format(path=file, target=file.with_suffix(".safetensors")))
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():
                tensors[name] = opened.get_tensor(name)
    return tensors
