"""Picture, prompt and camera path to a video file, one phase after the other (SANA-WM, spec sections 1, 6 and 7)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from sana_wm.diffusion.samplers import Conditions, chunk_flow_euler, flow_euler, stream
from sana_wm.generation.camera_path import CameraConditions
from sana_wm.generation.memory import is_out_of_memory, out_of_memory_advice, peak_memory, release_memory, reset_peak
from sana_wm.generation.mp4 import Mp4Writer
from sana_wm.generation.planned import STRIDE, Planned
from sana_wm.generation.progress import Phases
from sana_wm.generation.refine import RefinerStream, load_refiner, refiner_blocks, refiner_text
from sana_wm.generation.settings import GenerateSettings
from sana_wm.models.prompt_encoder import PromptEncoder
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.video_vae import VideoVAE
from sana_wm.world.noise import lane_noise

Noise = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Result:
    """A finished video.

    Attributes:
        path, frames: the file and how many frames it has. seconds: from the settings to the finished file.
        loading: seconds of these in which weights were read. peak: most bytes in use. memory: of what.
    """

    path: Path
    frames: int
    seconds: float
    loading: float
    peak: int
    memory: str


def generate(settings: GenerateSettings, console: Console | None = None, noise: Noise | None = None) -> Result:
    """Make the video that the settings ask for.

    Args:
        console: for notes and progress; None: stderr.
        noise: (start, stop) -> (1, C, n, h, w) standard normal of these latent frames; None: a function of the seed
            and of the frame's number, whatever the device and however long the video.

    Raises:
        ValueError: a mistake in the settings or a release that lacks something, before weights are read as far as that
            can be told; too little memory, with what to change.
        KeyboardInterrupt: stopped, saying what the file holds.
    """
    began = time.monotonic()
    reset_peak()
    planned, phases = Planned.of(settings), Phases(console)
    video = Mp4Writer(settings.out, planned.fps, settings.prompt, planned.about)
    try:
        with phases, video:
            for note in planned.notes:
                phases.note(note)
            for frames in _Generation(planned, phases, noise).pictures():
                video.write(frames)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {_written(video, planned)}") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{out_of_memory_advice(planned, phases.current)}\n{_written(video, planned)}") from error
    loading = sum(seconds for name, seconds in phases.seconds.items() if name.startswith("load"))
    seconds = time.monotonic() - began
    return Result(video.path, video.num_frames, seconds, loading, *peak_memory(planned.device))


def _written(video: Mp4Writer, planned: Planned) -> str:
    if not video.num_frames:
        return "nothing was written"
    return f"{video.path} holds {video.num_frames} of {planned.shown_frames} frames and can be played"


class _Generation:
    """The phases. Each network is read when its turn comes and let go of when it is not needed again: the text
    encoders after the prompt, the transformer after a clip's latents. In a stream the others take turns."""

    def __init__(self, planned: Planned, phases: Phases, noise: Noise | None):
        self.planned, self.phases = planned, phases
        self.given_noise = noise
        self.latent_shape: tuple[int, ...] = ()

    def pictures(self) -> Iterator[np.ndarray]:
        """uint8 (n, H, W, 3): the video, stretch after stretch."""
        p = self.planned
        vae = self._vae()
        with self.phases.phase("encode picture"), p.offload.use(vae):
            first = vae.encode(p.picture[None, None])
        self.latent_shape = (first.shape[1], *first.shape[3:])
        texts, refiner_prompt = self._texts(), self._refiner_prompt()
        if p.mode.streams:
            yield from self._streamed(vae, first, texts, refiner_prompt)
            return
        latents = self._clip(first, texts)
        release_memory()
        if refiner_prompt is not None:
            refined = self._refined([latents], self._refiner(refiner_prompt))
            with self.phases.phase("refine", p.latent_frames, p.raw_frames) as tell:
                latents = torch.cat(list(_counted(refined, tell, axis=2)), dim=2)
            del refined
            release_memory()
        frames = _Decoder(vae, p.settings.tiling)(latents)
        with self.phases.phase("decode", p.raw_frames, p.raw_frames) as tell, p.offload.use(vae):
            yield from self._shown(_counted(frames, tell, axis=0))

    def _clip(self, first: Tensor, texts: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Latents (1, C, T, h, w) of the whole clip, denoised together."""
        p, mode = self.planned, self.planned.mode
        transformer, steps = self._transformer(), len(mode.sigmas) - 1
        with p.offload.use(transformer), self.phases.phase("denoise", steps, p.raw_frames) as tell:
            conditions = self._conditions(transformer, texts)(0, p.latent_frames)
            how = {"first": first, "guidance": mode.guidance}
            noise = self._noise(0, p.latent_frames)
            if mode.name == "bidirectional":
                how["progress"] = lambda done, total: tell(done)
                return flow_euler(transformer, noise, conditions, mode.sigmas, **how)
            # Staggered chunks take more steps in all, of which the first ones see few frames.
            how |= {"interval": mode.interval, "progress": lambda done, total: tell(done, total)}
            return chunk_flow_euler(transformer, noise, conditions, mode.sigmas, **how)

    def _streamed(
        self, vae: VideoVAE, first: Tensor, texts: list[tuple[Tensor, Tensor]], refiner_prompt: tuple | None
    ) -> Iterator[np.ndarray]:
        """Chunk after chunk; nothing is kept between them but the states of the networks."""
        p, transformer = self.planned, self._transformer()
        refiner = None if refiner_prompt is None else self._refiner(refiner_prompt)
        c = transformer.config
        sizes = c.chunks(p.latent_frames)
        with p.offload.use(transformer):
            conditions = self._conditions(transformer, texts)
        how = {"first": first, "guidance": p.mode.guidance}
        chunks = stream(transformer, self._noise, conditions, sizes, p.mode.sigmas, **how)
        pieces = (latents for latents, _ in self._using(transformer, chunks))
        pieces = pieces if refiner is None else self._refined(pieces, refiner)
        decode = _Decoder(vae, "off")
        with self.phases.phase("stream", p.raw_frames, p.raw_frames) as tell:
            frames = (part for latents in pieces for part in self._using(vae, decode(latents)))
            yield from self._shown(_counted(frames, tell, axis=0))

    def _shown(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Without the first frame where a refiner has redrawn the others."""
        drop = self.planned.raw_frames - self.planned.shown_frames
        for frames in pictures:
            if len(frames) > drop:
                yield frames[drop:]
            drop = 0

    def _using(self, module: torch.nn.Module, items: Iterator) -> Iterator:
        """The items, each made with the module on the device, which may leave it before the next."""
        end = object()
        while True:
            with self.planned.offload.use(module):
                item = next(items, end)
            if item is end:
                return
            yield item

    def _vae(self) -> VideoVAE:
        p = self.planned
        with self.phases.phase("load VAE"):
            vae = VideoVAE.from_pretrained(p.release.vae, p.dtype)
        vae.grid(p.size)
        if vae.stride != STRIDE:
            raise ValueError(f"{p.release.vae}: {vae.stride} frames to a latent, expected {STRIDE}")
        if p.mode.streams:
            vae.check_streams()
        return vae

    def _texts(self) -> list[tuple[Tensor, Tensor]]:
        """Features and mask of the prompt and, where there is guidance, of the negative prompt."""
        p, s = self.planned, self.planned.settings
        with self.phases.phase("load text encoder"):
            folders = p.release.text_encoder, p.release.tokenizer or p.release.text_encoder
            encoder = PromptEncoder.from_pretrained(*folders, p.dtype)
        with self.phases.phase("encode prompt"), p.offload.use(encoder):
            texts = [encoder([s.prompt])]
            texts += [encoder([s.negative_prompt], instruct=False)] if p.mode.guidance != 1 else []
        del encoder
        release_memory()
        return [(features.to(p.device), mask.to(p.device)) for features, mask in texts]

    def _transformer(self) -> SanaTransformer:
        p, (channels, *grid) = self.planned, self.latent_shape
        with self.phases.phase("load transformer"):
            how = {"preset": p.mode.preset, "dtype": p.dtype, "grid": tuple(grid)} | p.mode.changes
            transformer = SanaTransformer.from_pretrained(p.release.transformer, **how).requires_grad_(False)
        c = transformer.config
        if c.in_channels != channels:
            raise ValueError(
                f"{p.release.root}: the transformer takes {c.in_channels} channels and the VAE makes {channels}: they "
                "are of different releases"
            )
        if c.action_dim or not c.camera:
            raise ValueError(
                f"{p.release.root}: a world of robot actions, or one without a camera; a video needs a camera path. "
                "gym.make steps such a world"
            )
        return transformer

    def _conditions(
        self, transformer: SanaTransformer, texts: list[tuple[Tensor, Tensor]]
    ) -> Callable[[int, int], Conditions]:
        """(start, stop) -> what these latent frames are told."""
        p, c = self.planned, transformer.config
        camera_of = CameraConditions(p.path.poses, p.intrinsics, p.size, c.grid, STRIDE)
        with torch.no_grad():
            text, unconditional = [*(transformer.encode_text(*text) for text in texts), None][:2]

        def conditions(start: int, stop: int) -> Conditions:
            camera, plucker = camera_of(start, stop, p.device)
            plucker = plucker if c.plucker_channels else None
            return Conditions(text=text, unconditional=unconditional, camera=camera, plucker=plucker)

        return conditions

    def _noise(self, start: int, stop: int, draw: int = 0) -> Tensor:
        """Standard normal (1, C, n, h, w), of every latent frame by its own number. draw: 1 for the refiner's."""
        if self.given_noise is not None and draw == 0:
            return self.given_noise(start, stop).to(self.planned.device)
        frame = torch.arange(start, stop, device=self.planned.device)
        seeds = torch.full_like(frame, self.planned.settings.seed)
        return lane_noise(seeds, frame, draw, self.latent_shape).transpose(0, 1)[None]

    def _refiner_prompt(self) -> tuple[Tensor, Tensor] | None:
        p = self.planned
        if not p.settings.refine:
            return None
        with self.phases.phase("refiner's prompt"):
            text = refiner_text(p.release.refiner, p.settings.prompt, p.offload, p.dtype)
        release_memory()
        return text

    def _refiner(self, prompt: tuple[Tensor, Tensor]) -> RefinerStream:
        p = self.planned
        with self.phases.phase("load refiner"):
            network = load_refiner(p.release.refiner, p.dtype)
        return RefinerStream(network, prompt, p.fps, lambda start, stop: self._noise(start, stop, draw=1))

    def _refined(self, pieces: Iterable[Tensor], refiner: RefinerStream) -> Iterator[Tensor]:
        for block in refiner_blocks(pieces):
            with self.planned.offload.use(refiner.network):
                refined = refiner.block(block)
            yield refined


class _Decoder:
    """Latents (1, C, n, h, w) of a clip, in order, to uint8 frames (n, H, W, 3) latent by latent.

    A decoder that sees the future, or tiles, takes the whole clip at once.
    """

    def __init__(self, vae: VideoVAE, tiling: str):
        self.vae, self.tails = vae, None
        self.streams = vae.streams and tiling != "on"
        self.tiles = tiling != "off"

    def __call__(self, latents: Tensor) -> Iterator[np.ndarray]:
        if not self.streams:
            self.vae.vae.use_tiling = self.tiles  # not before: the picture is encoded in one piece
            yield self.vae.decode(latents)[0]
            return
        for latent in latents.split(1, dim=2):
            frames, self.tails = self.vae.decode_stream(latent, self.tails)
            yield frames[0].cpu().numpy()


def _counted(items: Iterable, tell: Callable[[int], None], axis: int) -> Iterator:
    """The items; how long they are along ``axis`` is told once each has been used."""
    done = 0
    for item in items:
        done += item.shape[axis]
        yield item
        tell(done)
