"""One phase of making a picture, alone in a process, with random weights of the published sizes: the memory it takes.

``python -m benchmarks.memory_phase '{"phase": "transformer", "model": "sana-600m"}'`` prints bytes as JSON: ``base``
after the imports, ``loaded`` with the weights, ``peak`` of the work. ``"holes": true`` leaves the heap as glibc keeps
it, which the command does not; ``"widened": true`` takes products of bfloat16 as on a processor without instructions
for them. Linux only: it reads /proc.
"""

import contextlib
import itertools
import json
import re
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from sana_wm.models.dc_ae_tiling import tile_and_stride

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TEXT_TOKENS, INSTRUCTED_TOKENS = 300, 600


def resident(what: str = "VmRSS") -> int:
    """Bytes of this process: now, or with VmHWM the most since the last :func:`reset`."""
    return int(re.search(rf"{what}:\s+(\d+) kB", STATUS.read_text())[1]) * 1024


def reset() -> None:
    CLEAR.write_text("5")


def filled(network: nn.Module, dtype: torch.dtype, quantise: str | None, embeddings: bool = False) -> nn.Module:
    """Random weights in a network that is on the meta device, one tensor at a time."""
    from sana_wm.generation.memory import release_memory
    from sana_wm.models.quantised import fill, prepare

    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if quantise is not None:
        prepare(network, quantise, embeddings)
    torch.manual_seed(0)
    for name, shape in wanted.items():
        spread = 1.0 if len(shape) < 2 else shape[1:].numel() ** -0.5
        fill(network, {name: torch.empty(shape, dtype=dtype).uniform_(-spread, spread)}, dtype)
    release_memory()
    return network.requires_grad_(False).eval()


class _Stopped(Exception):
    """A step that went as far as it was to go."""


def stop_after(network: nn.Module, blocks: int) -> None:
    """Let a step end, with :class:`_Stopped`, once so many of the transformer's blocks have run."""

    def stop(*_) -> None:
        raise _Stopped

    network.blocks[blocks - 1].register_forward_hook(stop)


def transformer(
    model, side=1024, dtype="bfloat16", quantise=None, frames=1, grid=None, depth=None, guided=True, blocks=None
):
    """One denoising step, with guidance where the member has it outside of its weights.

    blocks: stop after so many, with the weights and the text's keys of all of them in memory. Blocks are alike and
    leave nothing behind but their states, so that the peak is that of the step but for these; None: the whole step.
    """
    from sana_wm.generation.image_sampling import SAMPLING, Prompt, Sampling, image_latents, sprint_latents
    from sana_wm.models.presets import preset
    from sana_wm.models.transformer import SanaTransformer

    config = preset(model, **({} if depth is None else {"depth": depth}))
    base, dtype = resident(), getattr(torch, dtype)
    with torch.device("meta"):
        network = SanaTransformer(config)
    network = filled(network, dtype, quantise)
    if blocks is not None:
        stop_after(network, blocks)
    loaded = resident()
    reset()
    grid = (side // 32, side // 32) if grid is None else tuple(grid)
    prompt = Prompt(torch.randn(1, TEXT_TOKENS, config.text_dim), torch.ones(1, TEXT_TOKENS, dtype=torch.bool))
    began = time.monotonic()
    with contextlib.suppress(_Stopped), torch.no_grad():
        if model not in SAMPLING:
            lanes = 1 + guided
            noise = torch.randn(lanes, config.in_channels, frames, *grid)
            text = Prompt(*(part.repeat(lanes, *[1] * (part.ndim - 1)) for part in prompt))
            streams = config.temporal == "chunk_causal"
            memory = {"state": network.initial_state(lanes, grid), "commit": True} if streams else {}
            network(noise, torch.full((lanes,), 500.0), text.features, text.mask, **memory)
        elif SAMPLING[model].sampler == "scm":
            noise = torch.randn(1, config.in_channels, *grid)
            sprint_latents(network, noise, prompt, Sampling("scm", steps=1), lambda _: noise)
        else:
            noise = torch.randn(1, config.in_channels, *grid)
            image_latents(network, noise, prompt, prompt, Sampling(steps=1))
    return base, loaded, time.monotonic() - began


class FewTiles(nn.Module):
    """A decoder that decodes the first and the last tile of full size; for the others the first stands in."""

    def __init__(self, decoder: nn.Module, side: int, tile: int | str, cell: int):
        super().__init__()
        self.decoder = decoder
        self.tile, stride = tile_and_stride((side, side), tile, None, cell)
        self.left = len(range(0, side // cell - self.tile + 1, stride)) ** 2
        self.first = None

    def forward(self, z: Tensor) -> Tensor:
        full = tuple(z.shape[2:]) == (self.tile, self.tile)
        self.left -= full
        if self.first is None or (full and self.left == 0):
            made = self.decoder(z)
            self.first = made.clone() if self.first is None else self.first
            return made
        height, width = (side * self.first.shape[-1] // self.tile for side in z.shape[2:])
        return self.first[..., :height, :width].clone()


def autoencoder(side=1024, tile="auto", dtype="bfloat16", model="f32c32-sana-1.1", encode=False, few_tiles=False):
    """Decode one picture (or encode it), and turn it into bytes as the command does.

    few_tiles: decode the first tile of full size and the last, when all of the picture but its edge is there; the
    first stands in for those between them, whose memory is that of any other.
    """
    from sana_wm.generation.image_file import to_pictures
    from sana_wm.models.dc_ae import DCAE, dcae_preset

    base, dtype = resident(), getattr(torch, dtype)
    with torch.device("meta"):
        network = DCAE(dcae_preset(model))
    network = filled(network, dtype, None)
    if few_tiles:
        network.decoder = FewTiles(network.decoder, side, tile, network.config.compression)
    loaded = resident()
    reset()
    began = time.monotonic()
    with torch.no_grad():
        if encode:
            network.encode(torch.rand(1, 3, side, side).to(dtype), tile=tile)
        else:
            latents = torch.randn(1, network.config.latent_channels, side // 32, side // 32, dtype=dtype)
            to_pictures(network.decode(latents, tile=tile).float())
    return base, loaded, time.monotonic() - began


class FewClipTiles(nn.Module):
    """Wan's decoder in tiles: it decodes the first and the last of full size; for the others there is noise."""

    def __init__(self, vae: nn.Module, grid: tuple[int, int]):
        super().__init__()
        self.decoder, self.fold = vae.decoder, vae.spatial_compression_ratio
        self.frames, self.seen = vae.config.scale_factor_temporal, -1
        sides = vae.tile_sample_min_height, vae.tile_sample_min_width
        strides = vae.tile_sample_stride_height, vae.tile_sample_stride_width
        self.tile = tuple(side // self.fold for side in sides)
        starts = [range(0, side, stride // self.fold) for side, stride in zip(grid, strides, strict=True)]
        full = [
            i for i, corner in enumerate(itertools.product(*starts))
            if all(at + tile <= side for at, tile, side in zip(corner, self.tile, grid, strict=True))
        ]  # fmt: skip
        self.decoded = {full[0], full[-1]}

    def forward(self, z: Tensor, *, first_chunk: bool, **cache) -> Tensor:
        self.seen += first_chunk
        if self.seen in self.decoded:
            return self.decoder(z, first_chunk=first_chunk, **cache)
        frames = 1 if first_chunk else self.frames
        return torch.rand(len(z), 3, frames, *(self.fold * side for side in z.shape[3:]), dtype=z.dtype)


def video_autoencoder(
    network="AutoencoderKLWan", dtype="bfloat16", frames=3, grid=(60, 104), tiling="auto", few_tiles=False
):
    """Decode one clip to the frames that are written.

    network: the class of diffusers, at its published sizes. frames: of latents.
    few_tiles: of Wan's tiles decode the first and the last of full size, with all of the others there.
    """
    from sana_wm.generation.clip_decoder import ClipDecoder
    from sana_wm.generation.clip_release import published_vae

    base, vae = resident(), published_vae(network)
    filled(vae.vae, getattr(torch, dtype), None)
    if few_tiles:
        vae.vae.decoder = FewClipTiles(vae.vae, grid)
    loaded = resident()
    reset()
    began = time.monotonic()
    decode = ClipDecoder(vae, *(side * vae.compression for side in grid), tiling)
    for _ in decode(torch.randn(1, vae.channels, frames, *grid)):
        pass
    return base, loaded, time.monotonic() - began


def text_encoder(dtype="bfloat16", quantise=None, tokens=INSTRUCTED_TOKENS, layers=None):
    """Gemma-2-2B over one prompt with its instruction."""
    from transformers import AutoModel, Gemma2Config

    from sana_wm.models.quantised_text import build_buffers
    from sana_wm.nn.widened import products_of

    config = Gemma2Config(**({} if layers is None else {"num_hidden_layers": layers}))
    dtype = getattr(torch, dtype)
    with torch.device("meta"):
        network = AutoModel.from_config(config, dtype=dtype)  # and what transformers imports for it
    base = resident()
    network = filled(network, dtype, quantise, embeddings=True)
    if quantise is None:
        network.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5)
    build_buffers(network)
    loaded = resident()
    reset()
    began = time.monotonic()
    with torch.no_grad(), products_of(network):
        network(input_ids=torch.randint(0, config.vocab_size, (1, tokens)), attention_mask=torch.ones(1, tokens))
    return base, loaded, time.monotonic() - began


PHASES = {
    "transformer": transformer,
    "autoencoder": autoencoder,
    "video autoencoder": video_autoencoder,
    "text encoder": text_encoder,
}


def main() -> None:
    from sana_wm.generation.memory import avoid_holes
    from sana_wm.nn import widened

    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    if not asked.pop("holes", False):
        avoid_holes()  # as the command does
    if asked.pop("widened", False):
        widened.multiplies_bfloat16 = lambda: False
    base, loaded, seconds = PHASES[asked.pop("phase")](**asked)
    print(json.dumps({"base": base, "loaded": loaded, "peak": resident("VmHWM"), "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
