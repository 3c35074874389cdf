"""``python -m sana_wm.generate model=sana-1600m prompt=...``: prompts in, PNG files out, one phase after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
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
    networks_of,
    published_networks,
    sampling_of,
)
from sana_wm.generation.image_sampling import SAMPLING
from sana_wm.generation.image_settings import ImageSettings, Lane
from sana_wm.generation.known_texts import KnownTexts
from sana_wm.generation.memory import GB, is_out_of_memory, peak_memory, release_memory, reset_peak
from sana_wm.generation.memory_formulas import Asked
from sana_wm.generation.memory_plan import plan_lines, plan_memory
from sana_wm.generation.planned import read_picture
from sana_wm.generation.progress import Phases
from sana_wm.models.dc_ae import DCAE
from sana_wm.models.pretrained import check_quantise
from sana_wm.models.prompt_encoder import prepare_prompt, read_instruction
from sana_wm.models.quantised import torchao_primitives
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
    one of them at a time; decoding begins when all pictures are denoised. How much memory that will take is told first;
    with ``plan`` nothing else is done.

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
            for line in plan_lines(job.networks, job.asked, job.device, job.plan):
                job.phases.note(line)
            if settings.plan:
                return Result([], time.monotonic() - began, job.plan.peak, "expected memory")
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


class _Job:
    """The phases."""

    phases: Phases

    def __init__(self, settings: ImageSettings):
        self.settings, self.lanes = settings, settings.lanes()
        if (known := named_sampling(settings.model)) is not None:
            settings.sampling(known)  # mistakes are told before anything is fetched
        self.picture = None if settings.picture is None else read_picture(settings.picture)
        self.device, self.dtype = settings.place()
        if settings.plan and settings.model in SAMPLING and not Path(settings.model).exists():
            self._read_nothing(settings.model)
        else:
            self._read_configurations()
        guided = self.sampling.sampler != "scm" and self.sampling.guidance != 1
        self.asked = Asked(
            tuple(side // self.cell for side in self.inside), 1, min(settings.batch, len(self.lanes)), guided,
            self.dtype, settings.kind("quantise"), settings.kind("quantise_text"), settings.tile,
        )  # fmt: skip
        self.plan = plan_memory(self.networks, self.asked, self.device)
        if settings.kinds():
            torchao_primitives()  # that it is not installed is told before anything is read
        given = settings.instruction
        self.instruction = instruction_of(self.sampling) if given is None else read_instruction(given)

    def _read_nothing(self, name: str) -> None:
        """For the plan of a published member nothing is fetched: what it is made of is known."""
        self.sampling = self.settings.sampling(SAMPLING[name])
        self.networks = published_networks(name)
        self.cell = self.networks.autoencoder.compression
        self._measure(self.cell * self.networks.transformer.sample_size)

    def _read_configurations(self) -> None:
        self.folder = locate_image_release(self.settings.model)
        self.sampling = self.settings.sampling(sampling_of(self.settings.model, self.folder))
        self.cell = compression_of(self.folder / "vae")
        self._measure(base_of(self.folder))
        self.networks = networks_of(self.folder)
        check_quantise(self.folder / "transformer", self.networks.saved_as, self.settings.kind("quantise"))

    def _measure(self, base: int) -> None:
        """Sides of a picture as asked for, and as it is made, in pixels."""
        pipeline = ImagePipeline(None, None, None, self.sampling, base, compression=self.cell)
        self.size = pipeline.asked(self.settings.height, self.settings.width)
        self.inside = pipeline.inside(*self.size)

    def texts(self) -> KnownTexts:
        s = self.settings
        with self.phases.phase("load text encoder"):
            encoder = load_text_encoder(
                self.folder, self.instruction, self.dtype, s.cache, self.device, s.kind("quantise_text")
            )
        wanted = dict.fromkeys((prepare_prompt(lane.prompt, s.lowercase), True) for lane in self.lanes)
        if self.sampling.sampler != "scm" and self.sampling.guidance != 1:
            wanted[prepare_prompt(s.negative_prompt, s.lowercase), False] = None
        texts = KnownTexts()
        with self.phases.phase("encode prompts", len(wanted)) as tell:
            texts.encode(encoder, wanted, tell)
        del encoder
        release_memory()
        return texts

    def pictures(self, texts: KnownTexts) -> Iterator[Path]:
        pipeline = self._pipeline(texts)
        size = self.size
        latents = self._latents(pipeline, self.inside)
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
        if self.picture is not None:
            pipeline.dcae = self._autoencoder()
            with self.phases.phase("encode picture"):
                picture = pipeline.encode_picture(self.picture, inside)
            pipeline.dcae = None
            release_memory()
        with self.phases.phase("load transformer"):
            how = {"dtype": self.dtype, "quantise": s.kind("quantise")}
            transformer = SanaTransformer.from_pretrained(self.folder / "transformer", **how)
            pipeline.transformer = transformer.requires_grad_(False).eval().to(self.device)
            del transformer
        release_memory()
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

    def _pipeline(self, texts: KnownTexts) -> ImagePipeline:
        """Of known texts; its networks are not there yet."""
        how = {"tile": self.settings.tile, "lowercase": self.settings.lowercase, "compression": self.cell}
        return ImagePipeline(None, None, texts, self.sampling, base_of(self.folder), **how)

    def _about(self, lane: Lane, size: tuple[int, int]) -> dict[str, Any]:
        """What a file says of itself: enough to make it again."""
        s = self.settings
        about = {"model": s.model, "prompt": lane.prompt, "negative_prompt": s.negative_prompt, "seed": lane.seed}
        about |= {"height": size[0], "width": size[1], "lowercase": s.lowercase} | asdict(self.sampling)
        about |= {"instruction": self.instruction, "dtype": str(self.dtype).removeprefix("torch.")}
        about |= s.kinds()
        if s.picture is not None:
            about |= {"picture": str(s.picture), "strength": s.strength}
        return about

    def memory_advice(self) -> str:
        s = self.settings
        advice = {
            "batch=1": s.batch > 1,
            "dtype=bfloat16": self.dtype == torch.float32,
            "tile=512, to decode in small tiles": s.tile is None or s.tile > 512,
            **s.fewer_bits(),
            "a smaller member, or a device with more memory": True,
        }
        listed = ", ".join(line for line, helps in advice.items() if helps)
        expected = f"expected was a peak of {self.plan.peak / GB:.2f} GB"
        return f"out of memory on {self.device} at {self.phases.current!r} ({expected}). Try, in this order: {listed}"
