"""A language model of transformers in 8 or 4 bits, rounded while it is read, so that memory never holds it in full."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sana_wm.models.quantised import fill, prepare
from sana_wm.models.weight_files import weight_files
from sana_wm.models.weight_groups import WeightFiles, by_block
from sana_wm.models.weights import complain


def load_quantised_text(folder: Path, config, dtype: torch.dtype | None, kind: str) -> nn.Module:
    """The decoder of a folder of transformers, its linear maps in ``kind`` and its table of tokens in int8.

    Args:
        config: transformers' configuration of the model. dtype: of what stays in full; None: as saved.

    Raises:
        ValueError: tensors that are missing, left over or of another shape, by name.
    """
    from transformers import AutoModel

    weights = WeightFiles(weight_files(folder))
    saved = next(iter(weights.shapes.values())).dtype
    with torch.device("meta"):
        network = AutoModel.from_config(config, dtype=saved if dtype is None else dtype)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    prepare(network, kind, embeddings=True)
    # A model with a head has the decoder inside.
    ours = {name: name.removeprefix("model.") for name in weights.shapes if not name.startswith("lm_head.")}
    given = {ours[name]: tuple(tensor.shape) for name, tensor in weights.shapes.items() if name in ours}
    complain(expected, given, set(given) - set(expected), str(folder))
    for names in by_block(ours).values():
        for name in names:  # the table of tokens alone is a fifth of the model
            fill(network, {ours[name]: weights.read([name])[name]}, dtype)
    build_buffers(network)
    return network.eval()


def build_buffers(network: nn.Module) -> None:
    """What no file holds, such as frequencies of rotary positions, is computed by building its module for real."""
    for name, module in list(network.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            if not hasattr(module, "config"):
                raise ValueError(f"{name} of {type(network).__name__} has a buffer that its files do not hold")
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, type(module)(module.config))
