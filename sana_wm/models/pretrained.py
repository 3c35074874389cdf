"""Folders of weights: ours, diffusers' and NVlabs'. Safetensors only: unpickling runs whatever a file says."""

import json
import warnings
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from sana_wm.models.diffusers_names import from_diffusers_names, to_diffusers_names
from sana_wm.models.family import CAUSAL_PRESET, CAUSAL_VIDEO, IMAGE, OURS, VIDEO, beyond_diffusers
from sana_wm.models.pickles import CONVERSION, PICKLES
from sana_wm.models.presets import from_diffusers, from_shapes, modes, to_diffusers
from sana_wm.models.quantised import check_kind, fill, kind_of, prepare
from sana_wm.models.sana_config import SanaConfig
from sana_wm.models.weight_files import weight_files
from sana_wm.models.weight_groups import WeightFiles, by_block
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
QUANTISED = "quantised"  # where a config.json of ours says that linear maps are saved in 8 or 4 bits


def read_folder(path: str | Path) -> tuple[Path, dict | None, dict[str, Tensor]]:
    """Weights and, where there is one, config.json of a folder or a single .safetensors file.

    A folder of a diffusers pipeline is read at its ``transformer`` folder. Which files are read:
    :func:`weight_files`.

    Returns: the folder or file that was read, its config.json, its tensors on the CPU.

    Raises:
        FileNotFoundError: no such path. ValueError: no safetensors in it, only a pickle, or a shard that is missing.
    """
    where, settings, weights = open_folder(path)
    return where, settings, weights.read(weights.shapes)


def open_folder(path: str | Path) -> tuple[Path, dict | None, WeightFiles]:
    """As :func:`read_folder`, with no tensor read yet."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder of weights")
    if path.is_file():
        return path, None, _opened([path])
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
    return path, settings, _opened(files)


def read_config(path: str | Path, preset: str | None = None, **changes) -> tuple[SanaConfig, str | None]:
    """The configuration of a folder or file, as :func:`load` would have it, and what its weights are quantised to."""
    return _told(*open_folder(path), preset, changes)[:2]


def _told(
    where: Path, settings: dict | None, weights: WeightFiles, preset: str | None, changes: dict
) -> tuple[SanaConfig, str | None, str | None]:
    """-> configuration, what weights are saved in (None: in full), diffusers' class (None: not of diffusers)."""
    own = settings is not None and settings.get("format") == FORMAT
    kind = None if settings is None else settings.get("_class_name")
    if kind == CAUSAL_VIDEO:
        kind, settings, preset = VIDEO, settings | {"_class_name": VIDEO}, preset or CAUSAL_PRESET
    kind = kind if kind in (IMAGE, VIDEO) else None
    saved_as = settings.get(QUANTISED) if own else None
    check_kind(saved_as, f"{where}: {QUANTISED}")
    if own:
        values = {name: value for name, value in settings.items() if name not in ("format", "layout", QUANTISED)}
    elif kind is not None or (settings is not None and "hidden_size" in settings):
        values = from_diffusers(settings)
    else:
        values = from_shapes({n: tuple(t.shape) for n, t in unwrapped(weights.shapes).items()})
    if preset is not None:  # what the network takes in is the file's to say, not the preset's
        values = values | {name: value for name, value in modes(preset).items() if name not in ("action_dim", "source")}
    return SanaConfig.from_dict(values | changes), saved_as, kind


def check_quantise(where: Path, saved_as: str | None, quantise: str | None) -> None:
    """Raise ValueError where weights that are quantised already are asked for in another kind."""
    if saved_as not in (None, quantise) and quantise is not None:
        raise ValueError(
            f"{where} is saved in {saved_as}: load it as it is, or the full-precision weights in {quantise}"
        )


def load(
    build, path: str | Path, preset: str | None, dtype: torch.dtype | None, changes: dict, quantise: str | None = None
):
    """Build a transformer with ``build(config)`` and fill it; see :meth:`SanaTransformer.from_pretrained`.

    Names and shapes are checked for the whole network before anything is read, then it is filled block by block.
    """
    check_kind(quantise)
    where, settings, weights = open_folder(path)
    config, saved_as, kind = _told(where, settings, weights, preset, changes)
    own = settings is not None and settings.get("format") == FORMAT and settings.get("layout") != "nvlabs"
    check_quantise(where, saved_as, quantise)
    with torch.device("meta"):
        network = build(config)
    added = {}
    if config.action_dim:
        # Its buffer is in no file, so the embedding is built for real; what a file holds of it replaces it below.
        network.action_embedder = ActionEmbedding(config.action_dim, config.width)
        if not any(is_of_actions(name) for name in weights.shapes):
            added = new_action_tensors(network.state_dict(), next(iter(weights.shapes.values())).dtype)
    if saved_as is not None:
        prepare(network, saved_as)
    wanted = {name: tensor.to("meta") for name, tensor in network.state_dict().items() if name not in added}

    def ours(given: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
        if own:
            check_names(expected, given, str(where))
            return given
        if kind is not None:
            published = published_from_ours(expected, config.patch_size)
            check_names(to_diffusers_names(published, kind), given, str(where))
            return ours_from_published(expected, from_diffusers_names(given, kind), config.patch_size, str(where))
        return ours_from_published(expected, unwrapped(given), config.patch_size, str(where))

    ours(weights.shapes, wanted)
    if quantise is not None and saved_as is None:
        prepare(network, quantise)
    fill(network, added, dtype)
    expected = by_block(wanted)
    for block, names in by_block(weights.shapes).items():
        if block in expected:  # a trainer's file may hold other networks too
            fill(network, ours(weights.read(names), {name: wanted[name] for name in expected[block]}), dtype)
    if config.action_dim:
        network.action_embedder.to(network.dtype)  # its buffer
    return network.eval()


def save(network, folder: str | Path, layout: str, max_shard_size: str) -> None:
    """Write config.json and safetensors; see :meth:`SanaTransformer.save_pretrained`."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: expected one of {', '.join(map(repr, LAYOUTS))}")
    config, tensors, quantised = network.config, network.state_dict(), kind_of(network)
    if layout != "sana_wm" and quantised is not None:
        raise ValueError(f"layout {layout!r} has no place for {quantised} weights; save with layout='sana_wm'")
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
        settings |= {} if quantised is None else {QUANTISED: quantised}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(
        tensors, folder, filename_pattern=name + "{suffix}.safetensors", max_shard_size=max_shard_size
    )
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")


def _is_image(config: SanaConfig) -> bool:
    """Of a member whose files know no time: ReLU attention and no convolution over time."""
    return config.mixer == "relu" and not config.softmax_every and not config.temporal_conv


def _opened(files: list[Path]) -> WeightFiles:
    for file in files:
        if file.suffix != ".safetensors":
            raise ValueError(f"{file}: " + CONVERSION.format(path=file, target=file.with_suffix(".safetensors")))
    return WeightFiles(files)
