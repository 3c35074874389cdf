"""Names of tensors in diffusers' image and video transformers, against NVlabs' (spec section 17).

The two differ in names, and in that diffusers keeps queries, keys and values apart. Both directions are one table;
there and back is the identity.
"""

import re

import torch
from torch import Tensor

from sana_wm.models.family import IMAGE, VIDEO

# NVlabs -> diffusers, by the beginning of the name.
NAMES = {
    "t_embedder.": "time_embed.emb.timestep_embedder.",
    "t_block.1.": "time_embed.linear.",
    "y_embedder.y_proj.fc1.": "caption_projection.linear_1.",
    "y_embedder.y_proj.fc2.": "caption_projection.linear_2.",
    "attention_y_norm.": "caption_norm.",
    "final_layer.linear.": "proj_out.",
    "final_layer.scale_shift_table": "scale_shift_table",
}
WITH_GUIDANCE = {"t_embedder.": "time_embed.timestep_embedder.", "cfg_embedder.": "time_embed.guidance_embedder."}
PATCHES = {IMAGE: {"x_embedder.proj.": "patch_embed.proj."}, VIDEO: {"x_embedder.proj.": "patch_embedding."}}
BLOCK_NAMES = {
    "scale_shift_table": "scale_shift_table",
    "attn.q_norm.": "attn1.norm_q.",
    "attn.k_norm.": "attn1.norm_k.",
    "attn.proj.": "attn1.to_out.0.",
    "cross_attn.q_linear.": "attn2.to_q.",
    "cross_attn.q_norm.": "attn2.norm_q.",
    "cross_attn.k_norm.": "attn2.norm_k.",
    "cross_attn.proj.": "attn2.to_out.0.",
    "mlp.inverted_conv.conv.": "ff.conv_inverted.",
    "mlp.depth_conv.conv.": "ff.conv_depth.",
    "mlp.point_conv.conv.": "ff.conv_point.",
    "mlp.t_conv.": "ff.conv_temp.",
}
# One tensor of NVlabs that is several of diffusers, rows one after the other.
SPLIT = {
    "attn.qkv.": ("attn1.to_q.", "attn1.to_k.", "attn1.to_v."),
    "cross_attn.kv_linear.": ("attn2.to_k.", "attn2.to_v."),
}


def to_diffusers_names(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors under NVlabs' names as diffusers has them in a network of class ``kind``."""
    top = _top(kind, any(name.startswith("cfg_embedder.") for name in tensors))
    renamed = {}
    for name, tensor in tensors.items():
        start, rest, names = _place(name, "blocks", top, "transformer_blocks")
        if split := next(((old, new) for old, new in SPLIT.items() if start and rest.startswith(old)), None):
            old, parts = split
            for part, chunk in zip(parts, tensor.chunk(len(parts)), strict=True):
                renamed[start + part + rest[len(old) :]] = chunk.clone()  # shared storage cannot be saved
        else:
            renamed[start + _renamed(rest, names)] = tensor
    patches = next(iter(PATCHES[kind].values())) + "weight"
    if kind == IMAGE and patches in renamed:  # NVlabs' table has the time axis of video
        renamed[patches] = renamed[patches].squeeze(2)
    return renamed


def from_diffusers_names(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors of a diffusers network of class ``kind`` under NVlabs' names."""
    guidance = any(name.startswith("time_embed.guidance_embedder.") for name in tensors)
    top = {new: old for old, new in _top(kind, guidance).items()}
    inside = {new: old for old, new in BLOCK_NAMES.items()}
    split = {part: (old, i) for old, parts in SPLIT.items() for i, part in enumerate(parts)}
    renamed, joined = {}, {}
    for name, tensor in tensors.items():
        start, rest, names = _place(name, "transformer_blocks", top, "blocks", inside)
        if part := next((part for part in split if start and rest.startswith(part)), None):
            old, index = split[part]
            joined.setdefault(start + old + rest[len(part) :], {})[index] = tensor
        else:
            renamed[start + _renamed(rest, names)] = tensor
    renamed |= {name: torch.cat([parts[i] for i in sorted(parts)]) for name, parts in joined.items()}
    if kind == IMAGE and "x_embedder.proj.weight" in renamed:
        renamed["x_embedder.proj.weight"] = renamed["x_embedder.proj.weight"].unsqueeze(2)
    return renamed


def _top(kind: str, guidance: bool) -> dict[str, str]:
    return NAMES | PATCHES[kind] | (WITH_GUIDANCE if guidance else {})


def _place(name: str, blocks: str, top: dict, new_blocks: str, inside: dict = BLOCK_NAMES) -> tuple[str, str, dict]:
    """-> new beginning of a name ("" outside the blocks), what follows, the table for it."""
    if match := re.match(rf"{blocks}\.(\d+)\.", name):
        return f"{new_blocks}.{match[1]}.", name[match.end() :], inside
    return "", name, top


def _renamed(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name
