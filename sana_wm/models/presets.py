"""The published members of the family as configurations, and what a published folder says of its own (spec 2, 5, 6)."""

from sana_wm.models import family
from sana_wm.models.family import FAMILY, IMAGE, VIDEO, ratio_of
from sana_wm.models.sana_config import SanaConfig

# What all SANA-WM checkpoints share (spec section 2). The name says 1600M, the network has 2,661,800,448 parameters.
_SANA_WM = {
    "in_channels": 128, "grid": (22, 40), "patch_size": 1, "width": 2240, "depth": 20, "heads": 20, "mlp_ratio": 3.0,
    "softmax_every": 4, "conv_kernel": 4, "window": -1, "text_dim": 2304, "camera": True, "plucker_channels": 48,
    "gate_bias": True, "integer_timesteps": True, "unused_parameters": True,
}  # fmt: skip
_CHUNKS = {"temporal": "chunk_causal", "chunk_size": 3, "first_chunk_plus_one": True}


def padded_scale(head_dim: int) -> float:
    """Scale of logits when heads are padded with zeros to a width that flash kernels take (spec section 5)."""
    widths = [width for width in (32, 64, 128, 256) if width == head_dim] or [w for w in (128, 256) if w > head_dim]
    return (widths[0] if widths else head_dim) ** -0.5


# The scales and stabilisers are those of the code that each checkpoint was published with: diffusers for the
# bidirectional one, NVlabs' chunk-causal path for the others. Which ones training used is not known (spec 17 A, B).
PRESETS: dict[str, dict] = {
    "sana-wm-bidirectional": _SANA_WM
    | {"temporal": "bidirectional", "camera_scale": padded_scale(112), "frame_mask": "dilute"},
    "sana-wm-chunk-causal": _SANA_WM
    | _CHUNKS
    | {"softmax_scale": padded_scale(112), "camera_scale": padded_scale(112), "ucpe_stabilise": "beta_only"},
    "sana-wm-streaming": _SANA_WM
    | _CHUNKS
    | {"softmax_scale": padded_scale(112), "camera_scale": padded_scale(112), "ucpe_stabilise": "beta_only"}
    | {"sink": 4, "window": 3},
} | FAMILY


# Other sizes of SANA-WM in NVlabs' registry: depth, width, heads, patch side. No weights are published for them.
# Depths and widths are those of spec section 2 [C]. Heads and patches, where it gives none, are the registry's own,
# read in a third-party list of it [X]: 2304 and 2560 are no multiples of 112, and their heads are 128 wide.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "600M_P1_D28": (28, 1152, 16, 1),
    "600M_P2_D28": (28, 1152, 16, 2),
    "1600M_P1_D20": (20, 2240, 20, 1),
    "1600M_P2_D20": (20, 2240, 20, 2),
    "2000M_P2_D20": (20, 2304, 18, 2),
    "2800M_P2_D28": (28, 2240, 20, 2),
    "4000M_P2_D28": (28, 2560, 20, 2),
    "4800M_P1_D60": (60, 2240, 20, 1),
    "4800M_P2_D60": (60, 2240, 20, 2),
}


def preset(name: str, size: str | None = None, **changes) -> SanaConfig:
    """A configuration of the table, with some values changed; of SANA-WM also in a size of :data:`SIZES`.

    Raises:
        ValueError: an unknown name or size.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {sorted(PRESETS)}")
    if size is None:
        return SanaConfig.from_dict(PRESETS[name] | changes)
    if name in FAMILY:
        raise ValueError(f"preset {name!r} has one size: got size={size!r}, leave it out")
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; known: {sorted(SIZES)}")
    depth, width, heads, patch = SIZES[size]
    sized = {"depth": depth, "width": width, "heads": heads, "patch_size": patch}
    scales = {
        scale: padded_scale(width // heads) for scale in ("softmax_scale", "camera_scale") if scale in PRESETS[name]
    }
    return SanaConfig.from_dict(PRESETS[name] | sized | scales | changes)


def modes(name: str) -> dict:
    """How a member of the table runs: its settings without the sizes, which a checkpoint tells by its tensors."""
    known = preset(name).to_dict()
    sizes = {"grid", "in_channels", "patch_size", "width", "depth", "heads", "text_heads", "mlp_ratio", "softmax_every",
             "conv_kernel", "text_dim", "camera", "plucker_channels", "plucker_blocks", "gate_bias",
             "unused_parameters", "mixer", "qk_norm", "temporal_conv", "guidance"}  # fmt: skip
    return {setting: value for setting, value in known.items() if setting not in sizes}


# What the config.json of diffusers' SanaWMTransformer3DModel may say without our having a value for it.
_FIXED = {
    "ffn_type": "GLUMBConvTemp", "t_kernel_size": 3, "k_conv_only": True, "pos_embed_type": "wan_rope", "qk_norm": True,
    "cross_norm": True, "y_norm": True, "cam_attn_compress": 1, "use_pe": True, "use_chunk_plucker_post_attn": True,
    "mlp_acts": ["silu", "silu", None], "learn_sigma": False, "pred_sigma": False,
}  # fmt: skip
_DIFFUSERS_DEFAULTS = {
    "in_channels": 128, "num_layers": 20, "hidden_size": 2240, "num_attention_heads": 20, "patch_size": [1, 1, 1],
    "softmax_every_n": 4, "linear_head_dim": 112, "conv_kernel_size": 4, "chunk_plucker_channels": 48,
    "chunk_plucker_post_attn_blocks": 20, "caption_channels": 2304, "mlp_ratio": 3.0,
}  # fmt: skip


def from_diffusers(config: dict) -> dict:
    """Our settings from the config.json of a SanaWMTransformer3DModel, SanaTransformer2DModel or
    SanaVideoTransformer3DModel.

    Raises:
        ValueError: a value that changes the computation to one we do not have.
    """
    if config.get("_class_name") in (IMAGE, VIDEO):
        return family.from_diffusers(config["_class_name"], config)
    given = _DIFFUSERS_DEFAULTS | config
    odd = [f"{name}={given[name]!r}" for name, value in _FIXED.items() if _listed(given.get(name, value)) != value]
    patch = list(given["patch_size"])
    if patch[0] != 1 or patch[1] != patch[2]:
        odd.append(f"patch_size={patch}")
    if given["conv_kernel_size"] < 1 or given["hidden_size"] % given["linear_head_dim"]:
        odd += [f"{name}={given[name]}" for name in ("conv_kernel_size", "hidden_size", "linear_head_dim")]
    if odd:
        raise ValueError(f"a SANA-WM transformer with {', '.join(odd)} is not supported; expected {_FIXED}")
    heads = given["hidden_size"] // given["linear_head_dim"]
    return PRESETS["sana-wm-bidirectional"] | {
        "in_channels": given["in_channels"],
        "patch_size": patch[1],
        "width": given["hidden_size"],
        "depth": given["num_layers"],
        "heads": heads,
        "text_heads": 0 if given["num_attention_heads"] == heads else given["num_attention_heads"],
        "mlp_ratio": given["mlp_ratio"],
        "softmax_every": max(given["softmax_every_n"], 0),
        "conv_kernel": given["conv_kernel_size"],
        "text_dim": given["caption_channels"],
        "plucker_channels": given["chunk_plucker_channels"],
        "plucker_blocks": given["chunk_plucker_post_attn_blocks"],
        "camera_scale": padded_scale(given["linear_head_dim"]),
    }


def to_diffusers(config: SanaConfig) -> dict:
    """The config.json that diffusers reads.

    Raises:
        ValueError: a network that no class of diffusers can hold.
    """
    c = config
    if c.mixer == "relu":
        return family.to_diffusers(c)
    needed = {"gate_bias": True, "camera": True, "unused_parameters": True, "source": False, "action_dim": 0}
    lacking = [f"{name}={getattr(c, name)}" for name, value in needed.items() if getattr(c, name) != value]
    lacking += [f"{name}=0" for name in ("text_dim", "plucker_channels") if not getattr(c, name)]
    if lacking:
        raise ValueError(f"diffusers has no place for a transformer with {', '.join(lacking)}")
    return {"_class_name": "SanaWMTransformer3DModel"} | _FIXED | {
        "in_channels": c.in_channels,
        "patch_size": [1, c.patch_size, c.patch_size],
        "hidden_size": c.width,
        "num_layers": c.depth,
        "linear_head_dim": c.head_dim,
        "num_attention_heads": c.text_heads or c.heads,
        "mlp_ratio": c.mlp_ratio,
        "softmax_every_n": c.softmax_every,
        "conv_kernel_size": c.conv_kernel,
        "caption_channels": c.text_dim,
        "chunk_plucker_channels": c.plucker_channels,
        "chunk_plucker_post_attn_blocks": c.plucker_blocks,
    }  # fmt: skip


def from_shapes(shapes: dict[str, tuple[int, ...]]) -> dict:
    """Settings of a checkpoint without config.json, from the shapes of its tensors under published names.

    Raises:
        ValueError: names that no transformer of the family has.
    """
    needed = ("x_embedder.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.point_conv.conv.weight")
    if missing := [name for name in needed if name not in shapes]:
        raise ValueError(f"not the weights of a SANA transformer: no tensor {missing[0]}")
    if "blocks.0.attn.A_log" not in shapes:
        return family.from_shapes(shapes)
    width, in_channels, _, patch, _ = shapes["x_embedder.proj.weight"]
    blocks = {int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")}
    kernel = shapes.get("blocks.0.attn.conv_k.weight", (0, 0, 0))[2]
    only_linear = "conv_k.weight" if kernel else "A_log"  # softmax blocks of SANA-WM carry one that nothing reads
    softmax = sorted(i for i in blocks if f"blocks.{i}.attn.{only_linear}" not in shapes)
    plucker = {i for i in blocks if f"blocks.{i}.plucker_proj.weight" in shapes}
    optional = {
        "text_dim": shapes.get("y_embedder.y_proj.fc1.weight", (0, 0))[1],
        "plucker_channels": shapes.get("plucker_embedder.proj.weight", (0, 0))[1],
        "conv_kernel": kernel,
    }
    source = shapes.get("final_layer.linear.bias") == (in_channels // 2 * patch**2,)
    modes_of = PRESETS["sana-wm-bidirectional"] if kernel else FAMILY["sana-streaming-2b-bidirectional"]
    return modes_of | optional | {
        "in_channels": in_channels // (2 if source else 1),
        "source": source,
        "patch_size": patch,
        "width": width,
        "depth": max(blocks) + 1,
        "heads": shapes["blocks.0.attn.A_log"][0],
        "mlp_ratio": ratio_of(shapes["blocks.0.mlp.point_conv.conv.weight"][1], width),
        "softmax_every": softmax[0] + 1 if softmax else 0,
        "plucker_blocks": -1 if len(plucker) in (0, len(blocks)) else len(plucker),
        "camera": "blocks.0.attn.q_proj_cam.weight" in shapes,
        "gate_bias": "blocks.0.attn.gate_proj.bias" in shapes,
        "unused_parameters": "blocks.0.attn.recall_gate" in shapes and "raymap_embedder.proj.weight" in shapes,
    }  # fmt: skip


def _listed(value):
    return list(value) if isinstance(value, tuple) else value
