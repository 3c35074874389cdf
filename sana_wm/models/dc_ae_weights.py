"""Names and layouts of DC-AE weights: diffusers' (ours too) and those of mit-han-lab and NVlabs (spec section 17).

They differ in names, in that linear maps are 1x1 convolutions there, and in that q, k and v are one matrix.
"""

import re

import torch
from torch import Tensor

from sana_wm.models.dc_ae_config import DCAE_PRESETS, DCAEConfig
from sana_wm.models.weights import complain

# Parts of a block, ours -> theirs, by the start of the name within the block. {conv}: see mit_name.
BLOCK_NAMES = {
    "conv1.": "main.conv1.conv.",
    "conv2.": "main.conv2.conv.",
    "norm.": "main.conv2.norm.",
    "conv.": "main.{conv}",
    "attn.to_q.": "context_module.main.qkv.conv.",
    "attn.to_k.": "context_module.main.qkv.conv.",
    "attn.to_v.": "context_module.main.qkv.conv.",
    "attn.to_out.": "context_module.main.proj.conv.",
    "attn.norm_out.": "context_module.main.proj.norm.",
    "conv_out.conv_inverted.": "local_module.main.inverted_conv.conv.",
    "conv_out.conv_depth.": "local_module.main.depth_conv.conv.",
    "conv_out.conv_point.": "local_module.main.point_conv.conv.",
    "conv_out.norm.": "local_module.main.point_conv.norm.",
}
MULTISCALE = re.compile(r"attn\.to_qkv_multiscale\.(\d+)\.proj_(in|out)\.")
BLOCK = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(\d+)\.")
LINEAR = re.compile(r"\.attn\.to_(q|k|v|out)\.weight$")


def mit_name(ours: str, config: DCAEConfig) -> str:
    """The name that mit-han-lab and NVlabs give to one of our tensors; q, k and v share one."""
    # a convolution that is followed by a shuffle, or follows an interpolation, is a layer within a layer
    nested = ours.startswith("decoder.") or config.downsample == "pixel_unshuffle"
    conv = "conv.conv." if nested else "conv."
    if match := BLOCK.match(ours):
        coder, stage, index = match.groups()
        start, rest = f"{coder.partition('.')[0]}.stages.{stage}.op_list.{index}.", ours[match.end() :]
        if match := MULTISCALE.match(rest):
            part = {"in": 0, "out": 1}[match[2]]
            return f"{start}context_module.main.aggreg.{match[1]}.{part}.{rest[match.end() :]}"
        head = next(head for head in BLOCK_NAMES if rest.startswith(head))
        return start + BLOCK_NAMES[head].format(conv=conv) + rest[len(head) :]
    around = {True: "main.", False: ""}  # a shortcut wraps what it goes around
    ends = {
        "encoder.conv_in.conv.": "encoder.project_in." + conv,
        "encoder.conv_in.": "encoder.project_in.conv.",
        "encoder.conv_out.": f"encoder.project_out.{around[config.encoder_shortcut]}op_list.0.conv.",
        "decoder.conv_in.": f"decoder.project_in.{around[config.decoder_shortcut]}conv.",
        "decoder.norm_out.": "decoder.project_out.op_list.0.",
        "decoder.conv_out.conv.": "decoder.project_out.op_list.2." + conv,
        "decoder.conv_out.": "decoder.project_out.op_list.2.conv.",
    }
    head = next(head for head in ends if ours.startswith(head))
    return ends[head] + ours[len(head) :]


def is_mit(names) -> bool:
    """Whether tensors have the names of mit-han-lab and NVlabs."""
    return any(name.startswith("encoder.project_in.") for name in names)


def mit_from_ours(state: dict[str, Tensor], config: DCAEConfig) -> dict[str, Tensor]:
    """Our state dict under their names and in their layout."""
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():  # q, k and v follow each other in this order
        parts.setdefault(mit_name(name, config), []).append(tensor[:, :, None, None] if LINEAR.search(name) else tensor)
    return {name: torch.cat(some) if len(some) > 1 else some[0] for name, some in parts.items()}


def ours_from_mit(
    wanted: dict[str, Tensor], given: dict[str, Tensor], config: DCAEConfig, where: str
) -> dict[str, Tensor]:
    """Their tensors as a state dict of ours.

    Args:
        wanted: our state dict, for names and shapes (it may be on the meta device). where: for the error.

    Raises:
        ValueError: tensors that are missing, left over or of another shape, each by its name there.
    """
    wanted = {name: tensor.to("meta") for name, tensor in wanted.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in mit_from_ours(wanted, config).items()}
    complain(expected, {n: tuple(t.shape) for n, t in given.items()}, set(given) - set(expected), where)
    thirds = {"to_q": 0, "to_k": 1, "to_v": 2}
    ours = {}
    for name in wanted:
        tensor, role = given[mit_name(name, config)], name.split(".")[-2]
        if role in thirds:
            tensor = tensor.chunk(3)[thirds[role]]
        ours[name] = tensor.reshape(wanted[name].shape).contiguous()
    return ours


def config_from_mit(shapes: dict[str, tuple[int, ...]], where: str, head_dim: int | None = None) -> DCAEConfig:
    """The configuration that weights under their names belong to.

    Shapes do not tell the width of a head where no stage has several scales (32 is assumed without ``head_dim``), the
    activation before the last convolution (ReLU is assumed: pass ``preset=`` for a light decoder), whether there are
    shortcuts (they are assumed), nor the scaling factor: it is that of the presets with the same network, if they
    agree, or 1 if none has it.

    Raises:
        ValueError: presets of the same network differ in their factor.
    """
    plain = {re.sub(r"\b(main|op_list)\.", "", name): shape for name, shape in shapes.items()}
    plain = {name.replace("conv.conv.", "conv."): shape for name, shape in plain.items()}
    stem, head = plain["encoder.project_in.conv.weight"], plain["encoder.project_out.0.conv.weight"]
    coders = {name: _stages(plain, name) for name in ("encoder", "decoder")}
    (widths, layers, types, scales), (widths_up, layers_up, types_up, scales_up) = (
        [list(part) for part in zip(*coders[name], strict=True)] for name in coders
    )
    for stages in (widths, widths_up):
        stages[0] = stages[0] or stages[1] // 2  # an empty stage has no width of its own
    down = [plain[f"encoder.stages.{i}.{n}.conv.weight"][0] for i, n in enumerate(layers[:-1]) if n]
    up = [plain[f"decoder.stages.{i}.0.conv.weight"][0] for i, n in enumerate(layers_up[:-1]) if n]
    batch = [any(name.startswith(f"decoder.stages.{i}.") and name.endswith("running_mean") for name in plain)
             for i in range(len(widths_up))]  # fmt: skip
    batch[0] = batch[0] if layers_up[0] else batch[1]
    runs = [shape[1] for name, shape in plain.items() if re.search(r"aggreg\.\d+\.1\.weight$", name)]
    config = DCAEConfig(
        in_channels=stem[1],
        latent_channels=head[0],
        head_dim=head_dim or (runs[0] if runs else DCAEConfig.head_dim),
        widths=widths,
        encoder_layers=layers,
        decoder_layers=layers_up,
        block_types=types,
        multiscales=scales,
        downsample="conv" if down[-1:] == widths[-1:] else "pixel_unshuffle",
        upsample="interpolate" if up[-1:] == widths_up[-2:-1] else "pixel_shuffle",
        scaling_factor=1.0,
        decoder_widths=widths_up,
        decoder_block_types=types_up,
        decoder_multiscales=scales_up,
        decoder_norms=["batch" if has else "rms" for has in batch],
        decoder_activations=["relu" if has else "silu" for has in batch],
    )
    same = {name: preset.scaling_factor for name, preset in DCAE_PRESETS.items()
            if DCAEConfig(**preset.to_dict() | {"scaling_factor": 1.0}) == config}  # fmt: skip
    if len(set(same.values())) > 1:
        raise ValueError(f"{where}: its shapes fit {' and '.join(same)}, which differ in scaling_factor: pass preset=")
    return DCAEConfig(**config.to_dict() | {"scaling_factor": next(iter(same.values()), 1.0)})


def _stages(plain: dict[str, tuple[int, ...]], coder: str) -> list[tuple]:
    """Width, number of blocks, type and kernels of each stage; width 0, "res" for one without blocks."""
    found: dict[int, dict[int, str]] = {}
    stages = []
    for name in plain:
        if match := re.match(rf"{coder}\.stages\.(\d+)\.(\d+)\.(conv2\.conv|context_module\.proj\.conv)\.weight", name):
            found.setdefault(int(match[1]), {})[int(match[2])] = match[0]
    for i in range(max(found) + 1):
        blocks = found.get(i, {})
        if not blocks:
            stages.append((0, 0, "res", ()))
            continue
        name = next(iter(blocks.values()))
        start = name.partition(".context_module")[0]
        kernels = (plain.get(f"{start}.context_module.aggreg.{k}.0.weight") for k in range(9))
        kind = "vit" if "context_module" in name else "res"
        stages.append((plain[name][0], len(blocks), kind, tuple(shape[-1] for shape in kernels if shape)))
    return stages
