"""Stage 2: an LTX-2 transformer redraws the latents, block after block (SANA-WM, spec section 8).

The networks are those of diffusers' ``SanaWMLTX2Refiner`` (the ``ltx`` extra). Its own call takes a whole clip; here
the same blocks come one at a time, so that a stream can be refined too: what is remembered is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from sana_wm.generation.memory import Offload, release_memory

SIGMAS = (0.909375, 0.725, 0.421875, 0.0)  # of the distilled refiner
SINK, BLOCK, KEPT = 1, 3, 11  # latent frames: kept raw at the start, refined together, seen in all
NEEDED = "the LTX-2 refiner comes with diffusers (0.42.1 or later): pip install 'sana-wm[ltx]'"
# Where parts of a refiner lie, from its folder: NVlabs' releases keep the tokenizer with the text encoder, and the
# streaming one both beside the folder.
PARTS = {
    "transformer": ("transformer",),
    "connectors": ("connectors",),
    "text_encoder": ("text_encoder", "../gemma3_12b"),
    "tokenizer": ("tokenizer", "text_encoder", "../gemma3_12b"),
}


def part_of(folder: Path, name: str) -> Path:
    """The folder of a refiner's part: the first of :data:`PARTS` that is there, else where it belongs."""
    places = [folder / place for place in PARTS[name]]
    return next((place for place in places if _holds(place, name)), places[0])


def _holds(place: Path, name: str) -> bool:
    """Whether a folder is that part: of a tokenizer that shares it, by its files."""
    return place.is_dir() and (place.name == name or name != "tokenizer" or any(place.glob("tokenizer*")))


def check_refiner(folder: Path) -> None:
    """Raise ValueError (or ImportError, without diffusers) unless a refiner's parts lie in the folder."""
    try:
        from diffusers import SanaWMLTX2Refiner  # noqa: F401
    except ImportError as error:
        raise ImportError(NEEDED) from error
    if lost := [part for part in (part_of(folder, name) for name in PARTS) if not part.is_dir()]:
        places = ", ".join(map(str, lost))
        raise ValueError(
            f"refine=true: the refiner lacks {places}; expected the folders of diffusers' SanaWMLTX2Refiner"
        )


@torch.no_grad()
def refiner_text(folder: Path, prompt: str, offload: Offload, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Features (1, L, C) of a prompt as the refiner reads it, and their mask (1, L); Gemma-3 is let go of again."""
    from diffusers import SanaWMLTX2Refiner
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from transformers import AutoTokenizer, Gemma3ForConditionalGeneration

    options = {"use_safetensors": True, "local_files_only": True}
    encoder = Gemma3ForConditionalGeneration.from_pretrained(part_of(folder, "text_encoder"), dtype=dtype, **options)
    connectors = LTX2TextConnectors.from_pretrained(folder / "connectors", torch_dtype=dtype, **options)
    tokenizer = AutoTokenizer.from_pretrained(part_of(folder, "tokenizer"), local_files_only=True)
    pipeline = SanaWMLTX2Refiner(
        transformer=None, connectors=connectors, tokenizer=tokenizer, text_encoder=encoder, scheduler=None
    )
    with offload.use(encoder, connectors):
        return pipeline._encode_prompt(prompt, device=offload.device, dtype=dtype)


def load_refiner(folder: Path, dtype: torch.dtype) -> nn.Module:
    """diffusers' SanaWMLTX2RefinerTransformer3DModel, in host memory."""
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMLTX2RefinerTransformer3DModel

    network = SanaWMLTX2RefinerTransformer3DModel.from_pretrained(
        folder / "transformer", torch_dtype=dtype, use_safetensors=True, local_files_only=True
    )
    if network.config.patch_size_t != 1:
        raise ValueError(f"{folder}: patches of {network.config.patch_size_t} frames, expected 1")
    release_memory()
    return network.eval().requires_grad_(False)


class RefinerStream:
    """Refines the latents of one clip as they come.

    A block is begun at ``(1 - s) z + s noise`` and goes down :data:`SIGMAS` by Euler steps, reading keys and values of
    the first frame (as it came, at positions just before the history) and of the last ten refined ones.

    Args:
        network: :func:`load_refiner`. text: :func:`refiner_text`. fps: of the raw frames, which sets positions in time.
        noise: (start, stop) -> (1, C, n, h, w) standard normal of these latent frames.
    """

    def __init__(
        self, network: nn.Module, text: tuple[Tensor, Tensor], fps: float, noise: Callable[[int, int], Tensor]
    ):
        from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMRefinerKVCache

        self.network, self.text, self.fps, self.noise = network, text, float(fps), noise
        self.cache = SanaWMRefinerKVCache(len(network.transformer_blocks))
        self.frames = self.remembered = 0  # latent frames so far, and of them in the history

    @torch.no_grad()
    def block(self, latents: Tensor) -> Tensor:
        """The next frames (1, C, n, h, w), refined; the first call takes the first frame, and gives it back as it is.

        Float32 between the steps; the network sees its own dtype.
        """
        start, stop = self.frames, self.frames + latents.shape[2]
        x, self.frames = latents.float(), stop
        if start == 0:
            self._pass(x, 0.0, 0, "capture_pre_rope")
            for layer in self.cache.layer_caches:
                layer.store_sink(*layer.get_captured_pre_rope())
            return latents
        sink = start - self.remembered - SINK
        self.cache.sink_pe = self._positions(x, sink, SINK)
        x = (1 - SIGMAS[0]) * x + SIGMAS[0] * self.noise(start, stop).to(x)
        for sigma, following in zip(SIGMAS, SIGMAS[1:], strict=False):
            x = x - (sigma - following) * self._pass(x, sigma, start, "inject").float()
        self._pass(x, 0.0, start, "inject_and_capture_post_rope")
        self._remember(x)
        return x

    def _remember(self, x: Tensor) -> None:
        """Append the block's keys and values to the history and drop what is too old."""
        n, tokens = x.shape[2], x.shape[3] * x.shape[4] // self.network.config.patch_size**2
        self.remembered = min(self.remembered + n, KEPT - SINK)
        for layer in self.cache.layer_caches:
            new, old = layer.get_captured_post_rope(), layer.get_history()
            both = new if old is None else tuple(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True))
            # A copy: a view would keep all of the frames that it leaves out.
            layer.store_history(*(part[:, -self.remembered * tokens :].clone() for part in both))

    def _positions(self, x: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        return self.network.build_rotary_emb_for_absolute_positions(
            batch_size=len(x), frame_positions=list(range(start, start + count)), height=x.shape[3],
            width=x.shape[4], device=x.device, fps=self.fps,
        )  # fmt: skip

    def _pass(self, x: Tensor, sigma: float, start: int, mode: str) -> Tensor:
        """Velocity of frames at absolute positions from ``start`` on; ``mode`` says what the cache is for."""
        c, (_, _, n, h, w) = self.network.config, x.shape
        patch = {"p": c.patch_size, "q": c.patch_size}
        tokens = rearrange(x, "b c t (h p) (w q) -> b (t h w) (c p q)", **patch).to(self.network.dtype)
        time = torch.full(tokens.shape[:2], sigma * float(c.timestep_scale_multiplier), device=x.device)
        velocity = self.network(
            hidden_states=tokens, encoder_hidden_states=self.text[0], timestep=time,
            video_rotary_emb=self._positions(x, start, n), encoder_attention_mask=self.text[1],
            kv_cache=self.cache, kv_cache_mode=mode, return_dict=False,
        )[0]  # fmt: skip
        sizes = {"t": n, "h": h // c.patch_size, "w": w // c.patch_size}
        return rearrange(velocity, "b (t h w) (c p q) -> b c t (h p) (w q)", **sizes, **patch)


def refiner_blocks(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Latents (1, C, n, h, w) in whatever pieces -> the first frame, then blocks of three (the last may be short)."""
    held, size = None, SINK
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece], dim=2)
        while held.shape[2] >= size:
            yield held[:, :, :size]
            held, size = held[:, :, size:], BLOCK
    if held is not None and held.shape[2]:
        yield held
