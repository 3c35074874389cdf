"""The image, Sprint, video and streaming members of the family as configurations (spec section 1), and diffusers' names
for their settings."""

from sana_wm.models.sana_config import SanaConfig

# What the settings share that are not sizes. Timesteps lose their fraction in the published code (spec 22.3).
_RELU = {
    "grid": None, "mixer": "relu", "softmax_every": 0, "temporal": "bidirectional", "text_dim": 2304,
    "integer_timesteps": True,
}  # fmt: skip
_IMAGE = _RELU | {
    "in_channels": 32, "patch_size": 1, "mlp_ratio": 2.5, "qk_norm": False, "temporal_conv": False, "positions": "none",
    "sample_size": 32,
}  # fmt: skip
_600M = {"width": 1152, "depth": 28, "heads": 36, "text_heads": 16}
_1600M = {"width": 2240, "depth": 20, "heads": 70, "text_heads": 20}
_NORMED = {"qk_norm": True}
_SPRINT = _NORMED | {"guidance": True, "integer_timesteps": False, "timestep_scale": 0.001}  # its time is 0..1
_VIDEO = _RELU | {"width": 2240, "depth": 20, "heads": 20, "text_heads": 20, "mlp_ratio": 3.0}
_WAN, _LTX2 = {"in_channels": 16, "patch_size": 2}, {"in_channels": 128, "patch_size": 1}
_STREAMING = _VIDEO | _LTX2 | {
    "mixer": "gated_delta", "softmax_every": 4, "conv_kernel": 0, "decay_bias": -8.0, "source": True, "window": -1,
    "text_heads": 0,
}  # fmt: skip

# The repositories say 600M, 1600M and 2B; how many parameters there are, tests/models/test_family_presets.py says.
FAMILY: dict[str, dict] = {
    "sana-600m-512": _IMAGE | _600M | {"sample_size": 16},
    "sana-600m": _IMAGE | _600M,
    "sana-1600m-512": _IMAGE | _1600M | {"sample_size": 16},
    "sana-1600m": _IMAGE | _1600M,
    "sana-1600m-2k": _IMAGE | _1600M | {"positions": "sincos", "sample_size": 64, "interpolation": 1.0},
    "sana-1600m-4k": _IMAGE | _1600M | {"positions": "sincos", "sample_size": 128, "interpolation": 2.0},
    "sana1.5-1600m": _IMAGE | _1600M | _NORMED,
    "sana1.5-4800m": _IMAGE | _1600M | _NORMED | {"depth": 60},
    "sana-sprint-600m": _IMAGE | _600M | _SPRINT,
    "sana-sprint-1600m": _IMAGE | _1600M | _SPRINT,
    "sana-video-2b-480p": _VIDEO | _WAN | {"sample_size": 30},
    "sana-video-2b-720p": _VIDEO | _LTX2 | {"sample_size": 22},
    # 10 latent frames a block; what does not fill one is added to the first.
    "longsana-2b-480p": _VIDEO
    | _WAN
    | {"sample_size": 30, "temporal": "chunk_causal", "chunk_size": 10, "remainder_first": True},
    "sana-streaming-2b-bidirectional": _STREAMING,
    # Its softmax blocks keep the first block, of 5 frames in the released setting, and the one before.
    "sana-streaming-2b": _STREAMING
    | {"temporal": "chunk_causal", "chunk_size": 3, "remainder_first": True, "sink": 5, "window": 3},
}

IMAGE, VIDEO = "SanaTransformer2DModel", "SanaVideoTransformer3DModel"
# LongSANA's class, of a draft of diffusers (its pull request 12723): the tensors and settings of VIDEO, run causally.
CAUSAL_VIDEO, CAUSAL_PRESET = "SanaVideoCausalTransformer3DModel", "longsana-2b-480p"
ACROSS_HEADS = "rms_norm_across_heads"
# What a config.json may say without our having a value for it.
_FIXED = {"attention_bias": False, "norm_elementwise_affine": False, "norm_eps": 1e-6, "dropout": 0.0,
          "guidance_embeds_scale": 0.1}  # fmt: skip
_DEFAULTS = _FIXED | {
    "num_attention_heads": 70, "attention_head_dim": 32, "num_layers": 20, "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112, "cross_attention_dim": 2240, "caption_channels": 2304, "mlp_ratio": 2.5,
    "interpolation_scale": None, "guidance_embeds": False,
}  # fmt: skip
_DEFAULTS_OF = {
    IMAGE: {"in_channels": 32, "out_channels": 32, "sample_size": 32, "patch_size": 1, "qk_norm": None,
            "timestep_scale": 1.0},
    VIDEO: {"in_channels": 16, "out_channels": 16, "sample_size": 30, "patch_size": [1, 2, 2], "qk_norm": ACROSS_HEADS,
            "num_attention_heads": 20, "attention_head_dim": 112},
}  # fmt: skip
# Small numbers in diffusers' code that differ from those of NVlabs (spec 22.4).
_DIFFUSERS = {"linear_eps": 1e-15, "text_norm_eps": 1e-5, "integer_timesteps": False}
OURS = "_sana_wm"  # where a config.json keeps what it has no name for; diffusers passes over names that begin with _


def from_diffusers(kind: str, config: dict) -> dict:
    """Our settings from the config.json of an image or video transformer.

    Args:
        kind: its ``_class_name``.

    Raises:
        ValueError: a value that changes the computation to one we do not have.
    """
    given = _DEFAULTS | _DEFAULTS_OF[kind] | config
    width = given["num_attention_heads"] * given["attention_head_dim"]
    patch = given["patch_size"] if kind == VIDEO else [1, given["patch_size"], given["patch_size"]]
    expected = _FIXED | {
        "out_channels": given["in_channels"], "cross_attention_dim": width,
        "cross_attention_head_dim": width // given["num_cross_attention_heads"],
    }  # fmt: skip
    given["out_channels"] = given["out_channels"] or given["in_channels"]
    odd = [f"{name}={given[name]!r} (expected {value!r})" for name, value in expected.items() if given[name] != value]
    if patch[0] != 1 or patch[1] != patch[2]:
        odd.append(f"patch_size={given['patch_size']} (expected one frame and a square)")
    if given["qk_norm"] not in (None, ACROSS_HEADS):
        odd.append(f"qk_norm={given['qk_norm']!r} (expected None or {ACROSS_HEADS!r})")
    if odd:
        raise ValueError(f"a {kind} with {', '.join(odd)} is not supported")
    values = (_IMAGE if kind == IMAGE else _VIDEO) | _DIFFUSERS | {
        "in_channels": given["in_channels"],
        "patch_size": patch[1],
        "width": width,
        "depth": given["num_layers"],
        "heads": given["num_attention_heads"],
        "text_heads": given["num_cross_attention_heads"],
        "mlp_ratio": given["mlp_ratio"],
        "text_dim": given["caption_channels"],
        "qk_norm": given["qk_norm"] is not None,
        "guidance": given["guidance_embeds"],
        "sample_size": given["sample_size"],
    }  # fmt: skip
    if kind == IMAGE:
        values["timestep_scale"] = given["timestep_scale"]
        if given["interpolation_scale"] is not None:
            values |= {"positions": "sincos", "interpolation": given["interpolation_scale"]}
    return values | given.get(OURS, {})


def beyond_diffusers(config: SanaConfig) -> dict:
    """The settings that diffusers takes for other ones than ``config`` has, whatever a config.json says."""
    taken = _DIFFUSERS | ({"timestep_scale": 1.0} if config.positions == "rope" else {})
    return {name: getattr(config, name) for name, value in taken.items() if getattr(config, name) != value}


def to_diffusers(config: SanaConfig) -> dict:
    """The config.json that diffusers reads, its ``_class_name`` says as what.

    Raises:
        ValueError: a network that neither class can hold.
    """
    c = config
    video = c.positions == "rope"
    needed = {"mixer": "relu", "softmax_every": 0, "source": False, "action_dim": 0, "plucker_channels": 0,
              "temporal_conv": video, "norm_eps": 1e-5, "rope_theta": 1e4}  # fmt: skip
    lacking = [f"{name}={getattr(c, name)!r}" for name, value in needed.items() if getattr(c, name) != value]
    if not c.text_dim:
        lacking.append("text_dim=0")
    if c.temporal != "bidirectional":
        lacking.append(
            f"temporal={c.temporal!r} (its classes see the whole clip at once; save with layout='sana_wm', or load "
            "with temporal='bidirectional' if that is meant)"
        )
    if lacking:
        raise ValueError(f"diffusers has no place for a transformer with {', '.join(lacking)}")
    text_heads = c.text_heads or c.heads
    common = _FIXED | {
        "in_channels": c.in_channels,
        "out_channels": c.in_channels,
        "num_attention_heads": c.heads,
        "attention_head_dim": c.head_dim,
        "num_layers": c.depth,
        "num_cross_attention_heads": text_heads,
        "cross_attention_head_dim": c.width // text_heads,
        "cross_attention_dim": c.width,
        "caption_channels": c.text_dim,
        "mlp_ratio": c.mlp_ratio,
        "qk_norm": ACROSS_HEADS if c.qk_norm else None,
        "guidance_embeds": c.guidance,
        "interpolation_scale": c.interpolation if c.positions == "sincos" else None,
    }
    if video:
        own = {"_class_name": VIDEO, "patch_size": [1, c.patch_size, c.patch_size]}
        return own | common | {"sample_size": c.sample_size or _DEFAULTS_OF[VIDEO]["sample_size"]}
    own = {"_class_name": IMAGE, "patch_size": c.patch_size, "timestep_scale": c.timestep_scale}
    return own | common | {"sample_size": c.sample_size or _DEFAULTS_OF[IMAGE]["sample_size"]}


def from_shapes(shapes: dict[str, tuple[int, ...]]) -> dict:
    """Settings of an image, Sprint or video checkpoint of NVlabs, from the shapes of its tensors.

    Heads are not in the shapes: those of the released sizes are taken, 32 wide for images and 112 for video. Sincos
    positions are not either: name the preset.
    """
    width, in_channels, _, patch, _ = shapes["x_embedder.proj.weight"]
    hidden = shapes["blocks.0.mlp.point_conv.conv.weight"][1]
    video, guidance = "blocks.0.mlp.t_conv.weight" in shapes, "cfg_embedder.linear_1.weight" in shapes
    heads = max(width // (112 if video else 32), 1)
    return (_VIDEO if video else _IMAGE | (_SPRINT if guidance else {})) | {
        "in_channels": in_channels,
        "patch_size": patch,
        "width": width,
        "depth": 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
        "heads": heads,
        "text_heads": max(width // (72 if width == _600M["width"] else 112), 1),
        "mlp_ratio": ratio_of(hidden, width),
        "text_dim": shapes["y_embedder.y_proj.fc1.weight"][1],
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "guidance": guidance,
    }


def ratio_of(hidden: int, width: int) -> float:
    """The ratio of which ``int(width * ratio)`` is ``hidden``."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
