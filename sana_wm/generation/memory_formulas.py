"""What networks take in memory, by formulas from their shapes (docs/memory.md has what was measured).

Weights are counted to the byte. The constants of what networks work on were fitted to the resident memory of processes
on a CPU that ran one phase each (``python -m benchmarks.memory``); on CUDA the same formulas are used, and are not
measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from sana_wm.models.dc_ae import DCAE, DCAEConfig
from sana_wm.models.dc_ae_tiling import tile_and_stride
from sana_wm.models.quantised import INSIDE, quantised_bytes, quantised_names
from sana_wm.models.sana_config import SanaConfig
from sana_wm.models.transformer import SanaTransformer
from sana_wm.nn import linear_attention, mix_ffn

Shapes = Mapping[str, tuple[int, ...]]
# Of a block of the transformer: tensors as wide as all tokens that are there beside what is worked on in parts, then
# tensors of such a part: of some heads in float32, of some frames' hidden features.
MIXER_WIDTHS, HEAD_TENSORS = 7, 7
FFN_WIDTHS, HIDDEN_TENSORS = 5, 2.5
PIXEL_TENSORS = 3.1  # of coding a picture: feature maps of its first stage
CODING = 0.12e9  # the same, whatever the tile
STREAM_TENSORS = 14.9  # of a video decoded latent by latent: tensors of its widest features at once, what it keeps too
CLIP_TENSORS = 4.7  # the same of a clip that is decoded at once
TILED = 1.7  # pixels of the tiles of a clip to one of the clip
TEXT_TOKENS = 300
INSTRUCTED_TOKENS = 600  # of the prompt with its instruction, as the language model reads it


@dataclass(frozen=True)
class Asked:
    """What is to be made, and how.

    Attributes:
        grid: height and width of the latents. frames: latent frames that are denoised at once.
        batch: pictures or clips denoised together. guided: each is denoised twice, with its prompt and without.
        tile: of pictures, in pixels; None: the autoencoder's own choice. tiling: of videos, "auto", "on" or "off".
        together: transformer and autoencoder are in memory at once, as where a video is decoded block by block.
    """

    grid: tuple[int, int]
    frames: int = 1
    batch: int = 1
    guided: bool = True
    dtype: torch.dtype = torch.bfloat16
    quantise: str | None = None
    quantise_text: str | None = None
    tile: int | None = None
    tiling: str = "auto"
    together: bool = False


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
        total += numel(shape) * dtype.itemsize if kind is None else quantised_bytes(*shape, kind)
    return total


@lru_cache(maxsize=16)
def autoencoder_weights(config: DCAEConfig, dtype: torch.dtype) -> int:
    """Bytes of a picture autoencoder's parameters and buffers, from its shapes."""
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

    Of tokens the larger of what the mixer and the Mix-FFN have at once, where guidance doubles the lanes. Of a token
    of text every block keeps 2 widths, a third where keys are normalised, and with guidance 2 more, since prompts and
    what leads away from them are there apart and together. A block's state is a matrix a head, before and after; a
    stream's has the last frame too.
    """
    c, size = config, asked.dtype.itemsize
    lanes = asked.batch * (2 if asked.guided else 1)
    height, width = c.tokens_of(asked.grid)
    frames = lanes * asked.frames
    tokens = frames * height * width
    heads = min(tokens * c.width, max(linear_attention.AT_ONCE, tokens * c.head_dim))
    hidden = 2 * int(c.width * c.mlp_ratio) * height * width
    hidden *= min(frames, max(1, mix_ffn.AT_ONCE // hidden))
    mixer = MIXER_WIDTHS * tokens * c.width * size + HEAD_TENSORS * heads * 4
    ffn = FFN_WIDTHS * tokens * c.width * size + HIDDEN_TENSORS * hidden * size
    working = int(max(mixer, ffn))
    if c.text_dim:
        kept = 2 + c.qk_norm + 2 * asked.guided
        working += lanes * TEXT_TOKENS * (kept * c.width * c.depth + 3 * c.width + c.text_dim) * size
    working += 2 * lanes * c.depth * c.width * (c.head_dim + 1) * 4
    if c.temporal == "chunk_causal":
        working += lanes * c.depth * height * width * c.width * size
    return working


def text_working(shapes: Shapes, dtype: torch.dtype) -> int:
    """Bytes beside a language model's weights: the feed-forward part of one layer, and scores of its attention."""
    hidden = max((shape[0] for name, shape in shapes.items() if len(shape) == 2 and INSIDE.search(name)), default=0)
    return INSTRUCTED_TOKENS * 12 * hidden * dtype.itemsize + 24 * INSTRUCTED_TOKENS**2 * 4


def autoencoder_working(config: DCAEConfig, asked: Asked) -> int:
    """Bytes beside the weights of decoding one picture: a tile and the picture; then the picture and its levels."""
    cell = config.compression
    sides = tuple(side * cell for side in asked.grid)
    cells = tile_and_stride(sides, asked.tile or "auto", None, cell)
    tile = sides if cells is None else tuple(min(side, cells[0] * cell) for side in sides)
    channels = config.of_decoder().widths[0 if config.decoder_layers[0] else 1]
    picture = numel(sides) * 3 * asked.dtype.itemsize
    maps = PIXEL_TENSORS * numel(tile) * channels * asked.dtype.itemsize
    return int(max(maps + CODING + picture, picture + numel(sides) * 3 * 3 * 4))


def numel(shape: Iterable[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


@dataclass(frozen=True)
class VideoCoder:
    """The autoencoder of a video member, as far as memory goes.

    Attributes:
        values: that its weights hold. dtype: that it keeps whatever is asked for; None: what is asked for.
        cell: pixels of a latent cell's side. stride: frames of a latent frame.
        features: values of its widest layer, for each pixel of a frame.
        streams: decodes latent by latent. by_frame: a tile of a clip too. tile: side of its tiles, in pixels.
    """

    values: int
    dtype: torch.dtype | None
    cell: int
    stride: int
    features: float
    streams: bool
    by_frame: bool
    tile: int

    def weights(self, asked: Asked) -> int:
        """Bytes of its parameters and buffers."""
        return self.values * (self.dtype or asked.dtype).itemsize

    def working(self, asked: Asked) -> int:
        """Bytes beside the weights of decoding a clip: its widest features, and its frames until they are written.

        Of a stream the frames of one latent are there at once. Where a clip is decoded in tiles all of it is: while
        the last tile is decoded as tiles, which overlap; then in one piece, and in float32 three times over.
        """
        size = (self.dtype or asked.dtype).itemsize
        sides = [side * self.cell for side in asked.grid]
        in_tiles = asked.tiling == "on" or (asked.tiling == "auto" and not self.streams)
        whole = not self.streams or in_tiles
        area = numel(min(side, self.tile) for side in sides) if in_tiles else numel(sides)
        frames = self.stride * (asked.frames - 1) + 1
        at_once, tensors = (self.stride, STREAM_TENSORS) if self.by_frame or not whole else (frames, CLIP_TENSORS)
        values = numel(sides) * 3 * (frames if whole else self.stride)
        coding = area * at_once * self.features * tensors * size + TILED * values * size
        return int(max(coding, values * (size + 3 * 4)) + CODING)
