"""Names and layouts of published weights, against ours: NVlabs' for the family, diffusers' for SANA-WM (spec 2.7).

A published tensor is one of ours under another name and, where the publisher has a convolution and we have a linear
map, in another layout. Both directions are one table.
"""

import re

import torch
from einops import rearrange
from torch import Tensor

# Ours -> published, by leading dotted parts; what is not listed has the same name.
NAMES = {
    "x_embedder": "x_embedder.proj",
    "plucker_embedder": "plucker_embedder.proj",
    "raymap_embedder": "raymap_embedder.proj",
    "t_block": "t_block.1",
    "guidance_embedder": "cfg_embedder",
    "text_embedder.linear_1": "y_embedder.y_proj.fc1",
    "text_embedder.linear_2": "y_embedder.y_proj.fc2",
    "text_embedder.norm": "attention_y_norm",
    "final_table": "final_layer.scale_shift_table",
    "final_linear": "final_layer.linear",
}
BLOCK_NAMES = {
    "attn.conv_k": "attn.conv_k.weight",
    "attn.camera.conv_k": "attn.conv_k_cam.weight",
    **{f"attn.camera.{part}": f"attn.{part}_cam" for part in ("q_proj", "k_proj", "v_proj", "out_proj")},
    **{f"attn.camera.{part}": f"attn.{part}_cam" for part in ("q_norm", "k_norm")},
    "text_attn.q": "cross_attn.q_linear",
    "text_attn.kv": "cross_attn.kv_linear",
    "text_attn": "cross_attn",
    "ffn.inverted": "mlp.inverted_conv.conv",
    "ffn.depthwise": "mlp.depth_conv.conv",
    "ffn.point": "mlp.point_conv.conv",
    "ffn.temporal": "mlp.t_conv.weight",
    "unused": "attn",
}
# Layouts by the end of our name: (ours, published). p and q are the sides of a patch.
LAYOUTS = {
    "x_embedder.weight": ("o (c p q)", "o c 1 p q"),
    "plucker_embedder.weight": ("o (c p q)", "o c 1 p q"),
    "raymap_embedder.weight": ("o (c p q)", "o c 1 p q"),
    "final_linear.weight": ("(c p q) i", "(p q c) i"),
    "final_linear.bias": ("(c p q)", "(p q c)"),
    "conv_k": ("c k", "c 1 k"),
    "ffn.inverted.weight": ("o i", "o i 1 1"),
    "ffn.point.weight": ("o i", "o i 1 1"),
    "ffn.temporal": ("k o i", "o i k 1"),
}
# Buffers of NVlabs files that are recomputed or belong to training, and tensors that no computation reads.
RECOMPUTED = re.compile(r"pos_embed|y_embedder\.y_embedding|logvar_linear\..*")
UNREAD = re.compile(r"raymap_embedder\..*|blocks\.\d+\.attn\.recall_gate|blocks\.\d+\.attn\.(beta_proj|gate_proj)\..*|"
                    r"blocks\.\d+\.attn\.(A_log|dt_bias)")  # fmt: skip
# What takes robot actions in. No published file has it: it is added to a checkpoint of cameras, all of it or nothing.
OF_ACTIONS = re.compile(r"action_embedder\..*|action_time_proj\..*|blocks\.\d+\.action_proj\..*")
PREFIXES = ("generator.", "model.", "module.")
# The two linear maps of an embedder in NVlabs' files -> in diffusers' names of SANA-WM, which ours follow.
EMBEDDERS = {
    f"{embedder}.mlp.{number}.": f"{embedder}.linear_{linear}."
    for embedder in ("t_embedder", "cfg_embedder")
    for number, linear in ((0, 1), (2, 2))
}
PATCHES = "x_embedder.proj.weight"


def published_name(ours: str) -> str:
    """The published name of one of our tensors."""
    block, names, rest = "", NAMES, ours
    if match := re.match(r"blocks\.\d+\.", ours):
        block, names, rest = match[0], BLOCK_NAMES, ours[match.end() :]
    parts = rest.split(".")
    for count in range(len(parts), 0, -1):
        head, tail = ".".join(parts[:count]), parts[count:]
        if head in names:
            return block + ".".join([names[head], *tail])
    return ours


def to_published(ours: str, tensor: Tensor, patch: int) -> Tensor:
    """One of our tensors in the published layout."""
    return _relayout(ours, tensor, patch, reverse=False)


def from_published(ours: str, tensor: Tensor, patch: int) -> Tensor:
    """A published tensor in the layout that ours has."""
    return _relayout(ours, tensor, patch, reverse=True)


def _relayout(name: str, tensor: Tensor, patch: int, reverse: bool) -> Tensor:
    for ending, (ours, published) in LAYOUTS.items():
        if name == ending or name.endswith("." + ending):
            source, target = (published, ours) if reverse else (ours, published)
            return rearrange(tensor, f"{source} -> {target}", **({"p": patch, "q": patch} if "p" in ours else {}))
    return tensor


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an NVlabs file under the names that diffusers gives them; wrappers of trainers taken off."""
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        if inside and (prefix == "generator." or len(inside) == len(tensors)):
            tensors = inside
    renamed = _renamed(tensors, EMBEDDERS)
    kept = {name: tensor for name, tensor in renamed.items() if not RECOMPUTED.fullmatch(name)}
    if PATCHES in kept and kept[PATCHES].ndim == 4:  # an image is a video of one frame
        kept[PATCHES] = kept[PATCHES].unsqueeze(2)
    return _one_qkv(kept)


def as_nvlabs(published: dict[str, Tensor], image: bool) -> dict[str, Tensor]:
    """What :func:`unwrapped` reads: published tensors under the names of NVlabs' files; images have no time axis."""
    tensors = _renamed(published, {ours: theirs for theirs, ours in EMBEDDERS.items()})
    return tensors | ({PATCHES: tensors[PATCHES].squeeze(2).contiguous()} if image else {})


def _renamed(tensors: dict[str, Tensor], starts: dict[str, str]) -> dict[str, Tensor]:
    """With the beginnings of names replaced."""
    renamed = {}
    for name, tensor in tensors.items():
        start = next((old for old in starts if name.startswith(old)), None)
        renamed[name if start is None else starts[start] + name[len(start) :]] = tensor
    return renamed


def _one_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """SANA-Streaming keeps q, k and v apart, q and k as convolutions of which the centre tap is read (spec B 10)."""
    joined = dict(tensors)
    for name in tensors:
        if match := re.fullmatch(r"(blocks\.\d+\.attn\.)q\.weight", name):
            parts = [joined.pop(f"{match[1]}{part}.weight") for part in "qkv"]
            parts = [part[..., part.shape[-1] // 2] if part.ndim == 3 else part for part in parts]
            joined[f"{match[1]}qkv.weight"] = torch.cat(parts)
    return joined


def is_of_actions(name: str) -> bool:
    """Whether a tensor of ours belongs to the actions."""
    return OF_ACTIONS.fullmatch(name) is not None


def new_action_tensors(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The action tensors of a network to which actions are added, such that nothing changes by adding them.

    Every projection into the network is zero, so its outputs are the same bit for bit. The embedding before the
    projections stays random as it was drawn: of two zeros in a row neither ever learns.

    Args:
        state: state dict of the network; its embedding is real, the rest may be on the meta device.
    """
    added = {name: tensor for name, tensor in state.items() if is_of_actions(name)}
    return {
        name: tensor.to(dtype) if name.startswith("action_embedder.") else torch.zeros(tensor.shape, dtype=dtype)
        for name, tensor in added.items()
    }


def ours_from_published(
    wanted: dict[str, Tensor], given: dict[str, Tensor], patch: int, where: str
) -> dict[str, Tensor]:
    """Published tensors as a state dict of ours.

    Args:
        wanted: our state dict, for names and shapes (it may be on the meta device). given: published tensors.
        where: what they were read from, for the error.

    Raises:
        ValueError: tensors that are missing, left over or of another shape, each by its published name.
    """
    names = {ours: published_name(ours) for ours in wanted}
    expected = {names[ours]: tuple(to_published(ours, t.to("meta"), patch).shape) for ours, t in wanted.items()}
    extra = {name for name in set(given) - set(expected) if not UNREAD.fullmatch(name)}
    complain(expected, {name: tuple(t.shape) for name, t in given.items()}, extra, where)
    return {ours: from_published(ours, given[name], patch).contiguous() for ours, name in names.items()}


def check_names(expected: dict[str, Tensor], given: dict[str, Tensor], where: str) -> None:
    """Raise one error that names every tensor which is missing, left over or of another shape."""
    shapes = [{name: tuple(t.shape) for name, t in tensors.items()} for tensors in (expected, given)]
    complain(*shapes, set(given) - set(expected), where)


def complain(expected: dict[str, tuple], given: dict[str, tuple], extra: set[str], where: str) -> None:
    """Raise one error that names every tensor which does not fit."""
    problems = [f"missing {name} {expected[name]}" for name in sorted(set(expected) - set(given))]
    problems += [f"extra {name} {given[name]}" for name in sorted(extra)]
    problems += [
        f"{name} has shape {given[name]}, expected {shape}"
        for name, shape in sorted(expected.items())
        if name in given and given[name] != shape
    ]
    if problems:
        raise ValueError(f"{where} does not fit the configuration: {'; '.join(problems)}")


def published_from_ours(state: dict[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Our state dict under published names and in published layouts."""
    return {published_name(name): to_published(name, tensor, patch).contiguous() for name, tensor in state.items()}
