"""Text to images with SANA and Sprint: encoder, transformer and autoencoder in a row (sana_family spec 3 to 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from sana_wm.generation.aspect import nearest_bin, resize_and_crop
from sana_wm.generation.image_file import to_pictures, to_pixels
from sana_wm.generation.image_sampling import Progress, Prompt, Sampling, image_latents, sprint_latents
from sana_wm.models.prompt_encoder import prepare_prompt
from sana_wm.world.noise import lane_noise

if TYPE_CHECKING:
    from sana_wm.models.dc_ae import DCAE
    from sana_wm.models.transformer import SanaTransformer

Encoder = Callable[[Sequence[str], bool], tuple[Tensor, Tensor]]


class ImagePipeline:
    """Prompts in, pictures out; one lane for each prompt.

    A lane's picture is a function of its prompt and seed, whoever shares the batch (up to the rounding of matrix
    products).

    Args:
        transformer: an image or Sprint member. dcae: its autoencoder.
        encoder: a :class:`~sana_wm.models.prompt_encoder.PromptEncoder`, or a
            :class:`~sana_wm.models.prompt_cache.PromptCache`: (prompts, with the instruction?) -> features, mask.
        sampling: how to sample; it says by its sampler whether the transformer is a Sprint.
        base: side in pixels that the member was trained at, which picks the bins of sizes; None: any size is taken.
        tile: of decoding, see :meth:`DCAE.decode`; None: the autoencoder's own choice.
        lowercase: put prompts in small letters, as diffusers does, see :func:`prepare_prompt`.
        compression: pixels along a side of a latent cell; None: the autoencoder's.

    ``transformer`` and ``dcae`` may be None, and be set and unset as they take turns, where memory does not hold both;
    ``compression`` is needed then.
    """

    def __init__(
        self,
        transformer: SanaTransformer | None,
        dcae: DCAE | None,
        encoder: Encoder,
        sampling: Sampling,
        base: int | None = 1024,
        *,
        tile: int | None = None,
        lowercase: bool = False,
        compression: int | None = None,
    ):
        self.transformer, self.dcae, self.encoder = transformer, dcae, encoder
        self.sampling, self.base, self.tile, self.lowercase = sampling, base, tile, lowercase
        self.compression = dcae.config.compression if compression is None else compression

    def __call__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int] | int = 0,
        *,
        height: int | None = None,
        width: int | None = None,
        negative: str = "",
        picture: Image.Image | None = None,
        strength: float = 0.6,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """Make a picture of each prompt.

        Args:
            seeds: one for each prompt, or one for all. negative: what guidance leads away from; Sprint has none.
            height, width: in pixels, both or neither; None: the base. Made at the nearest trained size, then scaled and
                cropped.
            picture, strength: image-to-image, for Sprint: where to begin, and how much may change.

        Raises:
            ValueError: no prompts, another number of seeds, sizes that do not fit, a picture for another member.
        """
        size = self.asked(height, width)
        inside = self.inside(*size)
        latents = self.latents(
            prompts, inside, seeds=seeds, negative=negative, picture=picture, strength=strength, progress=progress
        )
        return self.decode(latents, *size)

    def asked(self, height: int | None, width: int | None) -> tuple[int, int]:
        """The size of a request: that given, or the base's."""
        if (height is None) != (width is None):
            raise ValueError(f"height={height}, width={width}: give both or neither")
        if height is None and self.base is None:
            raise ValueError("this pipeline has no base size: give height and width")
        return (self.base, self.base) if height is None else (height, width)

    def inside(self, height: int, width: int) -> tuple[int, int]:
        """Size in pixels at which a picture of this size is generated.

        Raises:
            ValueError: without bins, sides that are no multiples of the autoencoder's cell.
        """
        if self.base is not None:
            return nearest_bin(height, width, self.base, self.compression)
        cell = self.compression
        if height < 1 or width < 1 or height % cell or width % cell:
            raise ValueError(f"size {height} x {width}: expected positive multiples of {cell}, or base= to bin sizes")
        return height, width

    def latents(
        self,
        prompts: Sequence[str],
        size: tuple[int, int],
        *,
        seeds: Sequence[int] | int = 0,
        negative: str = "",
        picture: Image.Image | Tensor | None = None,
        strength: float = 0.6,
        noise: Tensor | None = None,
        noise_of_step: Callable[[int], Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """(B, C, h, w) latents at ``size`` (height, width, of :meth:`inside`), scaling factor included.

        Args:
            picture: or its latents, of :meth:`encode_picture`.
            noise, noise_of_step: in place of those that the seeds give. The others as in :meth:`__call__`.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds = [seeds] * len(prompts) if isinstance(seeds, int) else list(seeds)
        if not prompts or len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: expected a seed for each, or one for all")
        sprint = self.sampling.sampler == "scm"
        if picture is not None and not sprint:
            raise ValueError("a picture to begin from is for Sprint members (sampler 'scm')")
        told = self.encode(prompts)
        against = self.encode([negative], instruct=False) if not sprint and self.sampling.guidance != 1 else None
        given = self.encode_picture(picture, size) if isinstance(picture, Image.Image) else picture
        cell = self.compression
        shape = self.transformer.config.in_channels, size[0] // cell, size[1] // cell

        def drawn(draw: int) -> Tensor:
            lanes = torch.tensor(seeds, dtype=torch.int64)
            return lane_noise(lanes, torch.zeros_like(lanes), draw, shape).to(self.transformer.device)

        noise = drawn(0) if noise is None else noise.to(self.transformer.device)
        told, against = (self._here(text) for text in (told, against))
        if not sprint:
            return image_latents(self.transformer, noise, told, against, self.sampling, progress)
        given = None if given is None else given.to(noise).expand_as(noise)
        how = {"picture": given, "strength": strength, "progress": progress}
        return sprint_latents(self.transformer, noise, told, self.sampling, noise_of_step or drawn, **how)

    def encode(self, prompts: Sequence[str], instruct: bool = True) -> Prompt:
        """Features of prompts; the negative one goes without the instruction."""
        prepared = [prepare_prompt(prompt, self.lowercase) for prompt in prompts]
        return Prompt(*self.encoder(prepared, instruct))

    @torch.no_grad()
    def decode(self, latents: Tensor, height: int, width: int) -> list[Image.Image]:
        """Pictures of this size from latents of :meth:`latents`, one lane at a time: decoding takes the most memory."""
        how = {} if self.tile is None else {"tile": self.tile}
        pictures = []
        for lane in latents.to(next(self.dcae.parameters())).split(1):
            pixels = self.dcae.decode(lane / self.dcae.scaling_factor, **how)
            pictures += to_pictures(resize_and_crop(pixels.float(), height, width))
        return pictures

    @torch.no_grad()
    def encode_picture(self, picture: Image.Image, size: tuple[int, int]) -> Tensor:
        """(1, C, h, w) latents of a picture at ``size`` (of :meth:`inside`), scaling factor included."""
        pixels = to_pixels(picture, *size).to(next(self.dcae.parameters()))
        return self.dcae.encode(pixels).float() * self.dcae.scaling_factor

    def _here(self, text: Prompt | None) -> Prompt | None:
        if text is None:
            return None
        return Prompt(text.features.to(self.transformer.device), text.mask.to(self.transformer.device))
