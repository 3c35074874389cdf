"""Text, or a picture and text, to video with SANA-Video and LongSANA (sana_family spec 3, 5.5, 7.4 and 8.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from sana_wm.diffusion.renoise import renoise_stream
from sana_wm.generation.aspect import nearest_bin
from sana_wm.generation.clip_decoder import ClipDecoder
from sana_wm.generation.clip_sampling import ClipSampling, clip_conditions, clip_latents, clip_noise
from sana_wm.generation.image_file import to_pixels
from sana_wm.generation.image_sampling import Progress, Prompt
from sana_wm.models.prompt_encoder import prepare_prompt

if TYPE_CHECKING:
    from sana_wm.diffusion.guidance import Conditions
    from sana_wm.models.transformer import SanaTransformer
    from sana_wm.models.video_vae import VideoVAE

Encoder = Callable[[Sequence[str], bool], tuple[Tensor, Tensor]]
Scene = tuple[int, str]  # from this frame of the video on, this prompt


class ClipPipeline:
    """Prompts in, videos out; one lane for each prompt.

    A lane's video is a function of its prompt and seed, whoever shares the batch (up to the rounding of matrix
    products).

    Args:
        transformer: a video member or LongSANA. vae: its autoencoder, see
            :func:`~sana_wm.models.wan_vae.load_video_vae`.
        encoder: a :class:`~sana_wm.models.prompt_encoder.PromptEncoder`, or a
            :class:`~sana_wm.models.prompt_cache.PromptCache`: (prompts, with the instruction?) -> features, mask.
        sampling: how to sample; it says by its sampler whether the transformer is a LongSANA.
        base: 480 or 720, which picks the bins of sizes; None: any size is taken.
        lowercase: put prompts in small letters, as diffusers does, see :func:`prepare_prompt`.
        tiling: decode in tiles: ``"auto"`` where the autoencoder cannot go latent by latent, ``"on"``, ``"off"``.
        cell: pixels along a side of a token: the autoencoder's cell times the transformer's patch. stride: frames of a
            latent frame. None: those of the networks.

    ``transformer`` and ``vae`` may be None, and be set and unset as they take turns, where memory does not hold both;
    ``cell`` and ``stride`` are needed then.
    """

    def __init__(
        self,
        transformer: SanaTransformer | None,
        vae: VideoVAE | None,
        encoder: Encoder,
        sampling: ClipSampling,
        base: int | None = 480,
        *,
        lowercase: bool = False,
        tiling: str = "auto",
        cell: int | None = None,
        stride: int | None = None,
    ):
        self.transformer, self.vae, self.encoder = transformer, vae, encoder
        self.sampling, self.base, self.lowercase, self.tiling = sampling, base, lowercase, tiling
        self.cell = vae.compression * transformer.config.patch_size if cell is None else cell
        self.stride = vae.stride if stride is None else stride

    def __call__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int] | int = 0,
        *,
        frames: int = 81,
        height: int | None = None,
        width: int | None = None,
        negative: str = "",
        picture: Image.Image | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Make a video of each prompt: uint8 (B, frames, height, width, 3).

        Args:
            seeds: one for each prompt, or one for all. frames: stride k + 1, which is 4 k + 1 at 480p.
            height, width: in pixels, both or neither; None: the base's, in the picture's shape if there is one. Made
                at the nearest trained size, then scaled and cropped.
            negative: what guidance leads away from. picture: what every video begins with.
            progress: called with (steps done, steps in all); of LongSANA for every block.

        Raises:
            ValueError: no prompts, another number of seeds, sizes or frames that do not fit.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        size = self.asked(height, width, picture)
        inside = self.inside(*size)
        told = {"seeds": seeds, "negative": negative, "picture": picture, "progress": progress}
        if self.sampling.streams:
            blocks = self.stream([[(0, prompt)] for prompt in prompts], inside, frames, **told)
            latents = torch.cat(list(blocks), dim=2)
        else:
            latents = self.latents(prompts, inside, frames, **told)
        lanes = (np.concatenate(list(self.decode(lane, *size))) for lane in latents.split(1))
        return np.stack(list(lanes))

    def asked(self, height: int | None, width: int | None, picture: Image.Image | None = None) -> tuple[int, int]:
        """The size of a request: that given, or the base's bin for the shape of the picture or of a screen."""
        if (height is None) != (width is None):
            raise ValueError(f"height={height}, width={width}: give both or neither")
        if height is not None:
            return height, width
        if self.base is None:
            raise ValueError("this pipeline has no base size: give height and width")
        shape = (9, 16) if picture is None else (picture.height, picture.width)
        return nearest_bin(*shape, self.base)

    def inside(self, height: int, width: int) -> tuple[int, int]:
        """Size in pixels at which frames of this size are generated.

        Raises:
            ValueError: without bins, sides that are no multiples of a token's.
        """
        if self.base is not None:
            return nearest_bin(height, width, self.base)
        if height < 1 or width < 1 or height % self.cell or width % self.cell:
            raise ValueError(
                f"size {height} x {width}: expected positive multiples of {self.cell} pixels, or base= to bin sizes"
            )
        return height, width

    def latent_frames(self, frames: int, picture: bool = False) -> int:
        """How many latent frames make a video of ``frames``.

        Raises:
            ValueError: not stride k + 1; one that a given picture fills.
        """
        k, rest = divmod(frames - 1, self.stride)
        if frames < 1 or rest:
            fits = sorted({1 + max(k, 0) * self.stride, 1 + (max(k, -1) + 1) * self.stride})
            raise ValueError(
                f"frames={frames}: expected {self.stride} k + 1, as {' or '.join(map(str, fits))}: the first latent "
                f"holds one frame and every other one {self.stride}"
            )
        if picture and not k:
            raise ValueError(f"frames=1 with a picture: it is the video; ask for {1 + self.stride} or more")
        return k + 1

    def latents(
        self,
        prompts: Sequence[str],
        size: tuple[int, int],
        frames: int,
        *,
        seeds: Sequence[int] | int = 0,
        negative: str = "",
        picture: Image.Image | Tensor | None = None,
        noise: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """(B, C, T, h, w) normalised latents of whole clips at ``size`` (height, width, of :meth:`inside`).

        Args:
            picture: or its latents, of :meth:`encode_picture`. noise: in place of that which the seeds give.
            The others as in :meth:`__call__`.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds, count = self._seeds(seeds, len(prompts)), self.latent_frames(frames, picture is not None)
        told = self._conditions(self.encode(prompts), negative)
        given = self._given(picture, size, len(prompts))
        if noise is None:
            noise = clip_noise(seeds, 0, count, 0, self._shape(size), self.transformer.device)
        noise = noise.to(self.transformer.device)
        return clip_latents(self.transformer, noise, told, self.sampling, first=given, progress=progress)

    def stream(
        self,
        scenes: Sequence[Sequence[Scene]],
        size: tuple[int, int],
        frames: int,
        *,
        seeds: Sequence[int] | int = 0,
        negative: str = "",
        picture: Image.Image | Tensor | None = None,
        noise_of_block: Callable[[int, int, int], Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Tensor]:
        """LongSANA's videos block by block: (B, C, n, h, w) normalised latents, of any length at constant memory.

        Args:
            scenes: of each lane: (frame of the video, prompt), the first from frame 0 on. A block reads the scene that
                its first frame is in, so that a change shows from the next block on.
            noise_of_block: (latent start, stop, draw) -> noise, in place of that which the seeds give.
            The others as in :meth:`latents`.

        Raises:
            ValueError: as :meth:`latents`; scenes that do not begin at 0 or do not follow each other.
        """
        seeds, count = self._seeds(seeds, len(scenes)), self.latent_frames(frames, picture is not None)
        for lane in scenes:
            starts = [start for start, _ in lane]
            if not starts or starts[0] != 0 or any(b <= a for a, b in zip(starts, starts[1:], strict=False)):
                raise ValueError(f"scenes begin at frames {starts}: expected rising numbers, the first of them 0")
        made: dict[tuple[str, ...], Conditions] = {}

        def conditions_of_block(start: int, stop: int) -> Conditions:
            frame = self.frame_of(start)
            told = tuple([text for begins, text in lane if begins <= frame][-1] for lane in scenes)
            if told not in made:
                made.clear()  # a story may have many scenes, and each is read once
                made[told] = self._conditions(self.encode(told), negative)
            return made[told]

        def drawn(start: int, stop: int, draw: int) -> Tensor:
            return clip_noise(seeds, start, stop, draw, self._shape(size), self.transformer.device)

        blocks = renoise_stream(
            self.transformer,
            noise_of_block or drawn,
            conditions_of_block,
            self.transformer.config.chunks(count),
            self.sampling.schedule(),
            first=self._given(picture, size, len(scenes)),
            guidance=self.sampling.guidance,
            progress=progress,
        )
        return (latents for latents, _ in blocks)

    def encode(self, prompts: Sequence[str], instruct: bool = True) -> Prompt:
        """Features of prompts; the negative one goes without the instruction and without a score of motion."""
        return Prompt(*self.encoder([self.text(prompt, instruct) for prompt in prompts], instruct))

    def text(self, prompt: str, instruct: bool = True) -> str:
        """What is encoded of a prompt."""
        prepared = prepare_prompt(prompt, self.lowercase)
        return self.sampling.told(prepared) if instruct else prepared

    @torch.no_grad()
    def encode_picture(self, picture: Image.Image, size: tuple[int, int]) -> Tensor:
        """(1, C, 1, h, w) normalised latents of a picture at ``size`` (of :meth:`inside`), cut to its shape."""
        pixels = to_pixels(picture, *size)
        levels = ((pixels + 1) * 127.5).round().to(torch.uint8)
        return self.vae.encode(rearrange(levels, "b c h w -> b 1 h w c"))

    def decode(self, latents: Tensor, height: int, width: int) -> Iterator[np.ndarray]:
        """uint8 (n, height, width, 3): the frames of one lane (1, C, T, h, w), stretch after stretch."""
        return ClipDecoder(self.vae, height, width, self.tiling)(latents)

    def _seeds(self, seeds: Sequence[int] | int, lanes: int) -> list[int]:
        seeds = [seeds] * lanes if isinstance(seeds, int) else list(seeds)
        if not lanes or len(seeds) != lanes:
            raise ValueError(f"{lanes} prompts and {len(seeds)} seeds: expected a seed for each, or one for all")
        return seeds

    def _conditions(self, told: Prompt, negative: str) -> Conditions:
        against = self.encode([negative], instruct=False) if self.sampling.guidance != 1 else None
        return clip_conditions(self.transformer, self._here(told), self._here(against), self.sampling)

    def _here(self, text: Prompt | None) -> Prompt | None:
        if text is None:
            return None
        return Prompt(text.features.to(self.transformer.device), text.mask.to(self.transformer.device))

    def _given(self, picture: Image.Image | Tensor | None, size: tuple[int, int], lanes: int) -> Tensor | None:
        if picture is None:
            return None
        given = self.encode_picture(picture, size) if isinstance(picture, Image.Image) else picture
        return given.to(self.transformer.device).expand(lanes, -1, -1, -1, -1)

    def _shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Of a latent frame."""
        c = self.transformer.config
        return c.in_channels, size[0] * c.patch_size // self.cell, size[1] * c.patch_size // self.cell

    def frame_of(self, latent: int) -> int:
        """The first frame of the video that a latent frame holds."""
        return max(0, (latent - 1) * self.stride + 1)
