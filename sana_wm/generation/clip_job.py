"""``python -m sana_wm.generate model=sana-video-2b prompt=...``: prompts in, MP4 files out, phase after phase."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from sana_wm.generation.aspect import video_base_of_grid
from sana_wm.generation.clip import ClipPipeline
from sana_wm.generation.clip_decoder import ClipDecoder
from sana_wm.generation.clip_names import preset_of
from sana_wm.generation.clip_release import (
    base_of,
    config_of,
    known_preset,
    locate_clip_release,
    networks_of,
    patch_of,
    published_networks,
    released_sampling,
)
from sana_wm.generation.clip_sampling import SAMPLING
from sana_wm.generation.clip_settings import ClipLane, ClipSettings
from sana_wm.generation.image_release import load_text_encoder
from sana_wm.generation.known_texts import KnownTexts
from sana_wm.generation.memory import GB, choose_offload, is_out_of_memory, peak_memory, release_memory, reset_peak
from sana_wm.generation.memory_formulas import Asked
from sana_wm.generation.memory_plan import plan_lines, plan_memory
from sana_wm.generation.mp4 import Mp4Writer
from sana_wm.generation.planned import read_picture
from sana_wm.generation.progress import Phases
from sana_wm.models.family import CAUSAL_PRESET
from sana_wm.models.pretrained import FORMAT, check_quantise, read_config
from sana_wm.models.prompt_encoder import instruction, prepare_prompt, read_instruction
from sana_wm.models.quantised import torchao_primitives
from sana_wm.models.sana_config import SanaConfig
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.video_vae import VideoVAE
from sana_wm.models.wan_vae import load_video_vae, vae_sizes

ROPE_TABLE = 1024  # latent frames that the published tables of positions reach


@dataclass(frozen=True)
class Result:
    """Videos that were written, and their frames together; seconds in all, and of these the ones in which weights were
    read; most bytes in use, and of what."""

    paths: list[Path]
    frames: int
    seconds: float
    loading: float
    peak: int
    memory: str


def generate_clips(settings: ClipSettings, console: Console | None = None) -> Result:
    """Make the videos that the settings ask for; a file grows while it is decoded, and can be played while it does.

    Of whole clips, text encoder, transformer and autoencoder take turns, each let go of before the next is read, so
    that memory holds one of them at a time; decoding begins when all clips are denoised. LongSANA is decoded block by
    block, so nothing is kept of a video but the states of its two networks.

    How much memory that will take is told first; with ``plan`` nothing else is done.

    Args:
        console: for notes and progress; None: stderr.

    Raises:
        ValueError: a mistake in the settings or a release that lacks something, before weights are read as far as that
            can be told; too little memory, with what to change. ImportError: without diffusers.
        KeyboardInterrupt: stopped, saying what was written.
    """
    began = time.monotonic()
    reset_peak()
    job = _Job(settings, Phases(console))
    try:
        with job.phases:
            for note in job.notes():
                job.phases.note(note)
            if settings.plan:
                return Result([], 0, time.monotonic() - began, 0.0, job.plan.peak, "expected memory")
            job.run()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {job.written()}") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{job.memory_advice()}; {job.written()}") from error
    loading = sum(seconds for name, seconds in job.phases.seconds.items() if name.startswith("load"))
    seconds = time.monotonic() - began
    return Result(job.done, job.frames * len(job.done), seconds, loading, *peak_memory(job.device))


class _Job:
    """What is to be made, and the phases that make it."""

    def __init__(self, settings: ClipSettings, phases: Phases):
        self.settings, self.phases, self.lanes = settings, phases, settings.lanes()
        self.done: list[Path] = []
        self.video: Mp4Writer | None = None
        s = settings
        if (known := known_preset(s.model, s.transformer, s.preset)) is not None:
            s.sampling(SAMPLING[known])  # mistakes are told before anything is fetched
        self.picture = None if s.image is None else read_picture(s.image)
        self.published = None
        if s.plan and known and s.transformer is None and preset_of(s.model) == known and not Path(s.model).exists():
            self.published = published_networks(known)  # for its plan nothing is fetched
            self.sampling = s.sampling(SAMPLING[known])
        else:
            self.folder = locate_clip_release(s.model)
            self.weights = s.transformer or self.folder / "transformer"
            self.sampling = s.sampling(released_sampling(s.model, self.folder, s.transformer, s.preset))
        given = s.instruction
        self.instruction = instruction("video") if given is None else read_instruction(given)
        self.device, self.dtype = s.place()
        self.texts = KnownTexts()
        self._measure()
        self._plan()

    def _measure(self) -> None:
        """Sizes and lengths, from the files' configurations alone."""
        s = self.settings
        if self.published is None:
            channels, self.cell, self.stride = vae_sizes(self.folder / "vae")
            config = config_of(self.weights)
            self.patch, base = patch_of(config, channels), base_of(config, channels)
        else:
            config, coder = self.published.transformer, self.published.autoencoder
            self.cell, self.stride, self.patch = coder.cell, coder.stride, config.patch_size
            base = video_base_of_grid(config.sample_size)
        how = {"tiling": s.tiling, "lowercase": s.lowercase, "cell": self.cell * self.patch, "stride": self.stride}
        self.pipeline = ClipPipeline(None, None, self.texts, self.sampling, base, **how)
        self.size = self.pipeline.asked(s.height, s.width, self.picture)
        self.inside = self.pipeline.inside(*self.size)
        self.frames = s.num_frames(self.sampling, self.stride)
        self.latent_frames = self.pipeline.latent_frames(self.frames, self.picture is not None)
        last, ends = self.lanes[0].scenes[-1][0], self.frames / self.sampling.fps
        if last >= ends:
            raise ValueError(
                f"script={s.script}: its last scene begins at {last:g} seconds and the video ends at {ends:.4g}; give "
                f"seconds={last + 10:g} or more"
            )

    def _plan(self) -> None:
        """How much memory it will take, from the files' configurations and headers alone."""
        s, kind = self.settings, self.settings.kind("quantise")
        if s.kinds():
            torchao_primitives()  # that it is not installed is told before anything is read
        if self.published is None:
            config, saved_as = read_config(self.weights, self._preset())
            check_quantise(self.weights, saved_as, kind)
            self._check_transformer(config)
            self.networks = networks_of(self.folder, config, saved_as)
            parts = [self.weights, self.folder / "vae"]
        else:
            self.networks, parts = self.published, []
        self.offload = choose_offload(s.offload, self.device, parts)
        streams, frames = self.sampling.streams, self.latent_frames
        at_once = max(self.networks.transformer.chunks(frames)) if streams else frames
        self.asked = Asked(
            tuple(side // self.cell for side in self.inside), at_once, 1, self.sampling.guidance != 1, self.dtype, kind,
            s.kind("quantise_text"), None, "off" if streams else s.tiling, streams and not self.offload.sequential,
        )  # fmt: skip
        self.plan = plan_memory(self.networks, self.asked, self.device)

    def run(self) -> None:
        self._encode_texts()
        if self.sampling.streams:
            self._streamed()
        else:
            self._clips()

    def _encode_texts(self) -> None:
        s = self.settings
        with self.phases.phase("load text encoder"):
            kind = s.kind("quantise_text")
            encoder = load_text_encoder(self.folder, self.instruction, self.dtype, s.cache, self.device, kind)
        told = [text for lane in self.lanes for _, text in lane.scenes]
        wanted = dict.fromkeys((self.pipeline.text(text), True) for text in told)
        if self.sampling.guidance != 1:
            wanted[prepare_prompt(s.negative_prompt, s.lowercase), False] = None
        with self.phases.phase("encode prompts", len(wanted)) as tell:
            self.texts.encode(encoder, wanted, tell)
        del encoder
        release_memory()

    def _clips(self) -> None:
        """Latents of every clip, then the frames of every clip."""
        pipeline, picture, latents = self.pipeline, None, []
        if self.picture is not None:
            pipeline.vae = self._autoencoder().to(self.device)
            picture = self._encoded_picture()
            pipeline.vae = None
            release_memory()
        pipeline.transformer = self._transformer().to(self.device)
        told = {"negative": self.settings.negative_prompt, "picture": picture}
        for lane in self.lanes:
            with self.phases.phase(self._numbered("denoise", lane), self.sampling_steps, self.frames) as tell:
                how = told | {"seeds": [lane.seed], "progress": tell}
                latents.append(pipeline.latents([lane.title], self.inside, self.frames, **how).cpu())
        pipeline.transformer = None
        release_memory()
        pipeline.vae = self._autoencoder().to(self.device)
        for lane, made in zip(self.lanes, latents, strict=True):
            with self.phases.phase(self._numbered("decode", lane), self.frames, self.frames) as tell:
                self._write(lane, pipeline.decode(made, *self.size), tell)

    def _streamed(self) -> None:
        """Block after block, transformer and autoencoder in turns."""
        pipeline, vae = self.pipeline, self._autoencoder()
        vae.check_streams()
        transformer = self._transformer()
        self._check_scenes(transformer.config.chunks(self.latent_frames))
        offload = self.offload
        pipeline.vae, pipeline.transformer = vae, transformer
        picture = None
        if self.picture is not None:
            with offload.use(vae):
                picture = self._encoded_picture()

        def in_turn(module: torch.nn.Module, items: Iterator) -> Iterator:
            """The items, each made with the module on the device, which may leave it before the next."""
            while True:
                with offload.use(module):
                    item = next(items, None)
                if item is None:
                    return
                yield item

        for lane in self.lanes:
            scenes = [(round(seconds * self.sampling.fps), text) for seconds, text in lane.scenes]
            how = {"seeds": [lane.seed], "negative": self.settings.negative_prompt, "picture": picture}
            blocks = in_turn(transformer, pipeline.stream([scenes], self.inside, self.frames, **how))
            decode = ClipDecoder(vae, *self.size, "off")
            pictures = (part for latents in blocks for part in in_turn(vae, decode(latents)))
            with self.phases.phase(self._numbered("stream", lane), self.frames, self.frames) as tell:
                self._write(lane, pictures, tell)

    def _check_scenes(self, blocks: Sequence[int]) -> None:
        """Raise ValueError for scenes of a script that no block reads: a block reads the one its first frame is in."""
        starts = [0, *accumulate(blocks)][:-1]
        frames, fps = [self.pipeline.frame_of(start) for start in starts], self.sampling.fps
        for lane in self.lanes:
            begins = [round(seconds * fps) for seconds, _ in lane.scenes]
            read = {max(i for i, begin in enumerate(begins) if begin <= frame) for frame in frames}
            if lost := [f"{seconds:g}" for i, (seconds, _) in enumerate(lane.scenes) if i not in read]:
                listed = ", ".join(f"{frame / fps:.4g}" for frame in frames[:8]) + ", ..." * (len(frames) > 8)
                raise ValueError(
                    f"script={self.settings.script}: scenes at {', '.join(lost)} seconds would never be read, since "
                    f"a prompt changes with a block, and blocks begin at {listed} seconds"
                )

    def _write(self, lane: ClipLane, pictures: Iterable[np.ndarray], tell) -> None:
        self.video = Mp4Writer(lane.path, self.sampling.fps, lane.title, self._about(lane))
        with self.video:
            for frames in pictures:
                self.video.write(frames)
                tell(self.video.num_frames)
        self.done.append(lane.path)
        self.video = None

    @property
    def sampling_steps(self) -> int:
        return len(self.sampling.schedule()) - 1

    def _numbered(self, what: str, lane: ClipLane) -> str:
        return f"{what} {self.lanes.index(lane) + 1}/{len(self.lanes)}" if len(self.lanes) > 1 else what

    def _encoded_picture(self) -> Tensor:
        with self.phases.phase("encode picture"):
            return self.pipeline.encode_picture(self.picture, self.inside)

    def _autoencoder(self) -> VideoVAE:
        with self.phases.phase("load autoencoder"):
            return load_video_vae(self.folder / "vae", self.dtype)

    def _preset(self) -> str | None:
        """How the weights were trained, where their files do not say it."""
        preset = self.settings.preset
        if preset is None and self.sampling.streams and config_of(self.weights).get("format") != FORMAT:
            return CAUSAL_PRESET  # published files do not say how their blocks hang together; our own do
        return preset

    def _transformer(self) -> SanaTransformer:
        with self.phases.phase("load transformer"):
            how = {"dtype": self.dtype, "grid": self.asked.grid, "quantise": self.settings.kind("quantise")}
            network = SanaTransformer.from_pretrained(self.weights, preset=self._preset(), **how)
        return network.requires_grad_(False).eval()

    def _check_transformer(self, c: SanaConfig) -> None:
        """Raise ValueError for weights of another release, or that another command is for."""
        channels, _, _ = vae_sizes(self.folder / "vae")
        if c.in_channels != channels or c.patch_size != self.patch:
            raise ValueError(
                f"{self.weights}: takes {c.in_channels} channels in patches of {c.patch_size}, expected {channels} and "
                f"{self.patch} for the autoencoder of {self.folder}: they are of different releases"
            )
        if not c.text_dim or c.camera or c.action_dim or c.source:
            raise ValueError(f"{self.weights}: not a transformer of SANA-Video; worlds and editors have other commands")
        if self.sampling.streams and c.temporal != "chunk_causal":
            raise ValueError(
                f"{self.weights}: its config.json says it sees whole clips (temporal={c.temporal!r}), and LongSANA "
                "goes block by block: give preset=longsana-2b-480p if it was trained for that, or model=sana-video-2b"
            )

    def notes(self) -> Iterator[str]:
        """For people: what is made, and how much memory it will take."""
        s, (height, width), dtype = self.sampling, self.size, str(self.dtype).removeprefix("torch.")
        if s.streams and self.picture is not None:
            yield "LongSANA was distilled from prompts alone: it may leave the picture quickly"
        if s.streams and self.latent_frames > ROPE_TABLE:
            yield f"beyond {ROPE_TABLE} latent frames, at which the published positions end, they go on by formula"
        if not s.streams and self.frames > s.frames:
            yield f"the published models were trained at {s.frames} frames; expect more drift in longer clips"
        made = "" if self.inside == self.size else f" (made at {self.inside[0]}x{self.inside[1]})"
        yield (
            f"{self.frames} frames of {height}x{width}{made} at {s.fps:g} fps: {self.sampling_steps} steps"
            f"{' of each block' * s.streams}, guidance {s.guidance:g}, {dtype} on {self.device}"
        )
        yield from plan_lines(self.networks, self.asked, self.device, self.plan)

    def _about(self, lane: ClipLane) -> dict[str, Any]:
        """What a file says of itself: enough to make it again."""
        s, paths = self.settings, {}
        for name in ("image", "transformer"):
            if (value := getattr(s, name)) is not None:
                paths[name] = str(value)
        told = {"prompt": lane.title} if len(lane.scenes) == 1 else {"script": [list(scene) for scene in lane.scenes]}
        about = {"generator": "sana_wm.generate", "model": s.model} | told
        about |= {"negative_prompt": s.negative_prompt, "seed": lane.seed} | paths
        if s.preset is not None:
            about["preset"] = s.preset
        about |= asdict(self.sampling) | {"frames": self.frames, "height": self.size[0], "width": self.size[1]}
        times = [round(1000 * sigma, 3) for sigma in self.sampling.schedule().tolist()]
        about |= {"made_at": list(self.inside), "timesteps": times}
        about |= {"instruction": self.instruction, "lowercase": s.lowercase}
        return about | {"dtype": str(self.dtype).removeprefix("torch.")} | s.kinds()

    def written(self) -> str:
        """For people: which files there are."""
        text = f"{len(self.done)} of {len(self.lanes)} videos were written"
        if self.video is not None and self.video.num_frames:
            text += f", and {self.video.path} holds {self.video.num_frames} of {self.frames} frames and can be played"
        return text

    def memory_advice(self) -> str:
        s, streams = self.settings, self.sampling.streams
        advice = {
            "dtype=bfloat16": self.dtype == torch.float32,
            **s.fewer_bits(),
            "offload=sequential": streams and self.device.type == "cuda" and s.offload != "sequential",
            "tiling=on, to decode in tiles": not streams and s.tiling != "on" and "decode" in self.phases.current,
            f"frames={self.stride * max(1, self.latent_frames // 2) + 1}": not streams and self.latent_frames > 2,
            "model=longsana-2b, whose memory does not grow with the frames": not streams and self.patch > 1,
            "a smaller height and width, of a release without fixed sizes": self.pipeline.base is None,
            "a device with more memory": True,
        }
        listed = ", ".join(line for line, helps in advice.items() if helps)
        expected = f"expected was a peak of {self.plan.peak / GB:.2f} GB"
        return f"out of memory on {self.device} at {self.phases.current!r} ({expected}). Try, in this order: {listed}"
