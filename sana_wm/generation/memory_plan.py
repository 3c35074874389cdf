"""How much memory generating will take, told before anything is loaded (docs/memory.md has what was measured).

The networks take turns, so the most that is in use is that of the largest phase: its weights, counted from shapes, and
what it works on, by the formulas below. Their constants were fitted to the resident memory of processes on a CPU that
ran one phase each (``python -m benchmarks.memory``); on CUDA the same formulas are used, and are not measured. Pages of
weight files that are mapped while a tensor is read are not counted: the system takes them back when it needs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from sana_wm.generation.memory import GB
from sana_wm.models.dc_ae import DCAE, DCAEConfig
from sana_wm.models.dc_ae_tiling import tile_and_stride
from sana_wm.models.quantised import INSIDE, quantised_bytes, quantised_names
from sana_wm.models.sana_config import SanaConfig
from sana_wm.models.transformer import SanaTransformer

Shapes = Mapping[str, tuple[int, ...]]
PROCESS = 0.45e9  # Python, torch, transformers and torchao, in host memory
HEAP = 0.05e9  # on a CPU: freed tensors below 32 MB that stay with the heap until the phase ends
TOKEN_WIDTHS = (
    19  # tensors as wide as a token that a block has at once: most of them the Mix-FFN's and its convolution's
)
PIXEL_BYTES = (
    2100  # of coding, a pixel of a tile: four feature maps of 128 channels in float32, whatever the weights are
)
CODING = 0.09e9  # the same, whatever the tile
TEXT_TOKENS = 300
INSTRUCTED_TOKENS = 600  # of the prompt with its instruction, as the language model reads it


@dataclass(frozen=True)
class Phase:
    """One network at work: bytes of its weights, and of everything else while it works."""

    name: str
    weights: int
    working: int

    @property
    def bytes(self) -> int:
        return self.weights + self.working


@dataclass(frozen=True)
class Networks:
    """What takes turns.

    Attributes:
        transformer: its configuration. text: shapes of the text encoder's tensors by name; None: there is none.
        autoencoder: of images; None: that of video, which is not planned.
        saved_as: what the transformer's files are quantised to already.
    """

    transformer: SanaConfig
    text: Shapes | None = None
    autoencoder: DCAEConfig | None = None
    saved_as: str | None = None


@dataclass(frozen=True)
class Asked:
    """What is to be made, and how.

    Attributes:
        grid: height and width of the latents. frames: latent frames that are denoised at once.
        batch: pictures or clips denoised together. guided: each is denoised twice, with its prompt and without.
        tile: in pixels; None: the autoencoder's own choice.
    """

    grid: tuple[int, int]
    frames: int = 1
    batch: int = 1
    guided: bool = True
    dtype: torch.dtype = torch.bfloat16
    quantise: str | None = None
    quantise_text: str | None = None
    tile: int | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """Phases in their order, and what there is.

    Attributes:
        process: bytes that are there in every phase. available: bytes that can be had in all; None: unknown.
    """

    phases: tuple[Phase, ...]
    process: int = 0
    available: int | None = None
    device: str = "cpu"

    @property
    def peak(self) -> int:
        return self.process + max((phase.bytes for phase in self.phases), default=0)

    @property
    def fits(self) -> bool:
        return self.available is None or self.peak <= self.available

    def lines(self) -> list[str]:
        """For a person: a line for each phase, then the most in use and what is available."""
        width = max(len(phase.name) for phase in self.phases)
        lines = [
            f"{phase.name:<{width}}  weights {phase.weights / GB:6.2f} GB + working {phase.working / GB:6.2f} GB"
            f" = {(self.process + phase.bytes) / GB:6.2f} GB" + " with the process" * (self.process > 0)
            for phase in self.phases
        ]
        there = "" if self.available is None else f"; available on {self.device}: {self.available / GB:.2f} GB"
        return [*lines, f"expected peak {self.peak / GB:.2f} GB{there}"]


def plan_memory(networks: Networks, asked: Asked, device: torch.device | str = "cpu") -> MemoryPlan:
    """The phases of ``asked`` on a device, which may be one that is not here: nothing is known as available then."""
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    phases = []
    if networks.text is not None:
        weights = text_weights(networks.text, asked.dtype, asked.quantise_text)
        phases.append(Phase("text encoder", weights, _text_working(networks.text, asked.dtype)))
    kind = networks.saved_as or asked.quantise
    working = transformer_working(networks.transformer, asked) + int(HEAP) * on_cpu
    phases.append(Phase("transformer", transformer_weights(networks.transformer, asked.dtype, kind), working))
    if networks.autoencoder is not None:
        working = autoencoder_working(networks.autoencoder, asked)
        phases.append(Phase("autoencoder", autoencoder_weights(networks.autoencoder, asked.dtype), working))
    return MemoryPlan(tuple(phases), int(PROCESS) * on_cpu, available_memory(device), str(device))


def changes_that_help(
    networks: Networks, asked: Asked, device: torch.device | str, plan: MemoryPlan
) -> list[tuple[str, int]]:
    """What to change, one thing after the other, each with the peak that it gives on top of those before it.

    In every round it is the change that costs the picture least of those that make the plan fit, or where none does the
    one that lowers the peak most. Where the plan fits already, and where nothing helps any more, there are none.
    """
    found: list[tuple[str, int]] = []
    peak = plan.peak
    while plan.available is not None and peak > plan.available:
        rounds = {name: replace(asked, **change) for name, change in _candidates(asked)}
        peaks = {name: plan_memory(networks, changed, device).peak for name, changed in rounds.items()}
        fitting = [name for name in peaks if peaks[name] <= plan.available]
        best = fitting[0] if fitting else min(peaks, key=peaks.get, default=None)
        if best is None or peaks[best] > 0.98 * peak:
            break
        asked, peak = rounds[best], peaks[best]
        found.append((best, peak))
    return found


def _candidates(asked: Asked) -> Iterable[tuple[str, dict]]:
    """Changes, those that cost the picture least first."""
    if asked.tile is None or asked.tile > 512:
        yield "tile=512", {"tile": 512}
    if asked.batch > 1:
        yield "batch=1", {"batch": 1}
    if asked.dtype == torch.float32:
        yield "dtype=bfloat16", {"dtype": torch.bfloat16}
    for name in ("quantise_text", "quantise"):
        for kind in {None: ("int8", "int4"), "int8": ("int4",)}.get(getattr(asked, name), ()):
            yield f"{name}={kind}", {name: kind}


# --- weights ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def transformer_weights(config: SanaConfig, dtype: torch.dtype, quantise: str | None = None) -> int:
    """Bytes of a transformer's parameters and buffers, from its shapes."""
    with torch.device("meta"):
        network = SanaTransformer(config)
    linears = {f"{name}.weight" for name in quantised_names(network)} if quantise else set()
    return sum(
        quantised_bytes(*tensor.shape, quantise) if name in linears else tensor.numel() * dtype.itemsize
        for name, tensor in network.state_dict().items()
    )


def text_weights(shapes: Shapes, dtype: torch.dtype, quantise: str | None = None) -> int:
    """Bytes of a language model: matrices inside its layers in ``quantise``, the table of tokens in int8 then."""
    total = 0
    for name, shape in shapes.items():
        matrix = quantise is not None and len(shape) == 2
        kind = None if not matrix else quantise if INSIDE.search(name) else "int8"
        total += _numel(shape) * dtype.itemsize if kind is None else quantised_bytes(*shape, kind)
    return total


@lru_cache(maxsize=16)
def autoencoder_weights(config: DCAEConfig, dtype: torch.dtype) -> int:
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in DCAE(config).state_dict().values()) * dtype.itemsize


def gemma2_2b() -> dict[str, tuple[int, ...]]:
    """Shapes of the text encoder of the published members."""
    width, hidden, heads, groups, head = 2304, 9216, 8, 4, 256
    of_layer = {
        "self_attn.q_proj": (heads * head, width), "self_attn.k_proj": (groups * head, width),
        "self_attn.v_proj": (groups * head, width), "self_attn.o_proj": (width, heads * head),
        "mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width), "mlp.down_proj": (width, hidden),
        **{f"norm_{i}": (width,) for i in range(4)},
    }  # fmt: skip
    shapes = {f"layers.{i}.{name}.weight": shape for i in range(26) for name, shape in of_layer.items()}
    return {"embed_tokens.weight": (256000, width), **shapes, "norm.weight": (width,)}


# --- what they work on -----------------------------------------------------------------------------------------------


def transformer_working(config: SanaConfig, asked: Asked) -> int:
    """Bytes beside the weights: tokens, keys and values of the text, and the state of a stream.

    tokens x width x :data:`TOKEN_WIDTHS` x itemsize, where guidance doubles the lanes. Of a token of text every block
    keeps 2 widths, a third where keys are normalised, and with guidance 2 more, since prompts and what leads away from
    them are there apart and together. A block's state is a matrix a head, before and after; a stream's has the last
    frame too.
    """
    c, size = config, asked.dtype.itemsize
    lanes = asked.batch * (2 if asked.guided else 1)
    height, width = c.tokens_of(asked.grid)
    tokens = lanes * asked.frames * height * width
    working = tokens * c.width * TOKEN_WIDTHS * size
    if c.text_dim:
        kept = 2 + c.qk_norm + 2 * asked.guided
        working += lanes * TEXT_TOKENS * (kept * c.width * c.depth + 3 * c.width + c.text_dim) * size
    working += 2 * lanes * c.depth * c.width * (c.head_dim + 1) * 4
    if c.temporal == "chunk_causal":
        working += lanes * c.depth * height * width * c.width * size
    return working


def _text_working(shapes: Shapes, dtype: torch.dtype) -> int:
    """Bytes beside a language model's weights: the feed-forward part of one layer, and scores of its attention."""
    hidden = max((shape[0] for name, shape in shapes.items() if len(shape) == 2 and INSIDE.search(name)), default=0)
    return INSTRUCTED_TOKENS * 6 * hidden * dtype.itemsize + 24 * INSTRUCTED_TOKENS**2 * 4


def autoencoder_working(config: DCAEConfig, asked: Asked) -> int:
    """Bytes beside the weights of decoding one picture: a tile, the picture in the network's dtype, and as levels.

    :data:`PIXEL_BYTES` a pixel of the tile for a first stage of 128 channels, in proportion for others.
    """
    cell = config.compression
    sides = tuple(side * cell for side in asked.grid)
    cells = tile_and_stride(sides, asked.tile or "auto", None, cell)
    tile = sides if cells is None else tuple(min(side, cells[0] * cell) for side in sides)
    channels = config.of_decoder().widths[0 if config.decoder_layers[0] else 1]
    levels = _numel(sides) * 3 * (asked.dtype.itemsize + 3 * 4)
    return int(max(_numel(tile) * PIXEL_BYTES * channels / 128 + CODING + levels * (cells is not None), levels))


def _numel(shape: Iterable[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


# --- what there is ---------------------------------------------------------------------------------------------------


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process can have in all on a device, what it has included; None where that is not known."""
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return None
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type != "cpu":
        return None
    free = [_meminfo(), _of_container()]
    known = [value for value in free if value is not None]
    return min(known) + _resident() if known else None


def _meminfo() -> int | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _of_container() -> int | None:
    """What the limit of a container (cgroup 2) leaves; files that it read and may forget do not count."""
    limit, used, stat = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current", "memory.stat"))
    try:
        told = dict(line.split() for line in stat.read_text().splitlines())
        return max(0, int(limit.read_text()) - int(used.read_text()) + int(told.get("inactive_file", 0)))
    except (OSError, ValueError):  # there is none, or it says "max"
        return None


def _resident() -> int:
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0
