"""``python -m sana_wm.generate model=sana-1600m prompt=...``: prompts in, PNG files out, one phase after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from sana_wm.generation.image import ImagePipeline
from sana_wm.generation.image_file import write_png
from sana_wm.generation.image_release import (
    base_of,
    compression_of,
    instruction_of,
    load_text_encoder,
    locate_image_release,
    named_sampling,
    sampling_of,
)
from sana_wm.generation.image_settings import DTYPES, ImageSettings, Lane
from sana_wm.generation.memory import is_out_of_memory, peak_memory, release_memory, reset_peak
from sana_wm.generation.progress import Phases
from sana_wm.models.dc_ae import DCAE
from sana_wm.models.prompt_encoder import prepare_prompt, read_instruction
from sana_wm.models.transformer import SanaTransformer


@dataclass(frozen=True)
class Result:
    """Files that were written; seconds in all; most bytes in use, and of what."""

    paths: list[Path]
    seconds: float
    peak: int
    memory: str


def generate_images(settings: ImageSettings, console: Console | None = None) -> Result:
    """Make the pictures that the settings ask for; each is written as soon as it is decoded.

    Text encoder, transformer and autoencoder take turns, each let go of before the next is read, so that memory holds
    one of them at a time; decoding begins when all pictures are denoised.

    Args:
        console: for progress; None: stderr.

    Raises:
        ValueError: a mistake in the settings or a release that lacks something, before weights are read as far as that
            can be told; too little memory, with what to change.
        KeyboardInterrupt: stopped, saying how many were written.
    """
    began = time.monotonic()
    reset_peak()
    job, written = _Job(settings), []
    try:
        with Phases(console) as job.phases:
            texts = job.texts()
            for path in job.pictures(texts):
                written.append(path)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {_count(written, job.lanes)}") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{job.memory_advice()}; {_count(written, job.lanes)}") from error
    return Result(written, time.monotonic() - began, *peak_memory(job.device))


def _count(written: list[Path], lanes: list[Lane]) -> str:
    return f"{len(written)} of {len(lanes)} pictures were written"


Texts = dict[tuple[str, bool], tuple[Tensor, Tensor]]  # (as it is encoded, with the instruction?) -> features, mask


class _Job:
    """The phases."""

    phases: Phases

    def __init__(self, settings: ImageSettings):
        self.settings, self.lanes = settings, settings.lanes()
        if (known := named_sampling(settings.model)) is not None:
            settings.sampling(known)  # mistakes are told before anything is fetched
        self.folder = locate_image_release(settings.model)
        self.sampling = settings.sampling(sampling_of(settings.model, self.folder))
        name = settings.device
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        self.dtype = DTYPES.get(settings.dtype)
        if self.dtype is None:
            self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        given = settings.instruction
        self.instruction = instruction_of(self.sampling) if given is None else read_instruction(given)

    def texts(self) -> Texts:
        s = self.settings
        with self.phases.phase("load text encoder"):
            encoder = load_text_encoder(self.folder, self.instruction, self.dtype, s.cache, self.device)
        wanted = dict.fromkeys((prepare_prompt(lane.prompt, s.lowercase), True) for lane in self.lanes)
        if self.sampling.sampler != "scm" and self.sampling.guidance != 1:
            wanted[prepare_prompt(s.negative_prompt, s.lowercase), False] = None
        texts: Texts = {}
        with self.phases.phase("encode prompts", len(wanted)) as tell:
            for text, instruct in wanted:
                features, mask = encoder([text], instruct)
                texts[text, instruct] = features[0].cpu(), mask[0].cpu()
                tell(len(texts))
        del encoder
        release_memory()
        return texts

    def pictures(self, texts: Texts) -> Iterator[Path]:
        pipeline = self._pipeline(texts)
        size = pipeline.asked(self.settings.height, self.settings.width)
        latents = self._latents(pipeline, pipeline.inside(*size))
        release_memory()
        pipeline.dcae = self._autoencoder()
        with self.phases.phase("decode", len(self.lanes)) as tell:
            for done, lane in enumerate(self.lanes, 1):
                made = pipeline.decode(latents[done - 1 : done], *size)[0]
                yield write_png(made, lane.path, self._about(lane, size))
                tell(done)

    def _latents(self, pipeline: ImagePipeline, inside: tuple[int, int]) -> Tensor:
        """Of every lane, on the CPU."""
        s, lanes, picture = self.settings, self.lanes, None
        if s.picture is not None:
            pipeline.dcae = self._autoencoder()
            with self.phases.phase("encode picture"):
                picture = pipeline.encode_picture(Image.open(s.picture), inside)
            pipeline.dcae = None
            release_memory()
        with self.phases.phase("load transformer"):
            transformer = SanaTransformer.from_pretrained(self.folder / "transformer", dtype=self.dtype)
            pipeline.transformer = transformer.requires_grad_(False).eval().to(self.device)
            del transformer
        made = []
        how = {"negative": s.negative_prompt, "picture": picture, "strength": s.strength}
        for start in range(0, len(lanes), s.batch):
            batch = lanes[start : start + s.batch]
            count = f" {start + len(batch)}/{len(lanes)}" if len(lanes) > 1 else ""
            with self.phases.phase(f"denoise{count}", self.sampling.steps) as tell:
                prompts, seeds = [lane.prompt for lane in batch], [lane.seed for lane in batch]
                made.append(pipeline.latents(prompts, inside, seeds=seeds, progress=tell, **how).cpu())
        pipeline.transformer = None
        return torch.cat(made)

    def _autoencoder(self) -> DCAE:
        with self.phases.phase("load autoencoder"):
            dcae = DCAE.from_pretrained(self.folder / "vae", dtype=self.dtype)
        return dcae.requires_grad_(False).eval().to(self.device)

    def _pipeline(self, texts: Texts) -> ImagePipeline:
        """Of known texts; its networks are not there yet."""

        def known(prompts: Sequence[str], instruct: bool) -> tuple[Tensor, Tensor]:
            features, masks = zip(*(texts[text, instruct] for text in prompts), strict=True)
            return torch.stack(features), torch.stack(masks)

        cell = compression_of(self.folder / "vae")
        how = {"tile": self.settings.tile, "lowercase": self.settings.lowercase, "compression": cell}
        return ImagePipeline(None, None, known, self.sampling, base_of(self.folder), **how)

    def _about(self, lane: Lane, size: tuple[int, int]) -> dict[str, Any]:
        """What a file says of itself: enough to make it again."""
        s = self.settings
        about = {"model": s.model, "prompt": lane.prompt, "negative_prompt": s.negative_prompt, "seed": lane.seed}
        about |= {"height": size[0], "width": size[1], "lowercase": s.lowercase} | asdict(self.sampling)
        about |= {"instruction": self.instruction, "dtype": str(self.dtype).removeprefix("torch.")}
        if s.picture is not None:
            about |= {"picture": str(s.picture), "strength": s.strength}
        return about

    def memory_advice(self) -> str:
        advice = {
            "batch=1": self.settings.batch > 1,
            "dtype=bfloat16": self.dtype == torch.float32,
            "tile=1024, to decode in tiles": self.settings.tile is None,
            "a smaller height and width": True,
        }
        listed = ", ".join(line for line, helps in advice.items() if helps)
        return f"out of memory on {self.device} at {self.phases.current!r}. Try, in this order: {listed}"
