"""One fine-tuning run: a SANA-WM release and a robot's episodes in, a world with the robot's actions out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sana_wm.data.lerobot_dataset import LeRobotDataset
from sana_wm.evaluation.fidelity import psnr
from sana_wm.models.presets import PRESETS
from sana_wm.models.release import Release, locate_release
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.video_vae import VideoVAE
from sana_wm.training.checkpoint import read_meta
from sana_wm.training.claim import claim, weights_fingerprint
from sana_wm.training.finetune_card import card
from sana_wm.training.finetune_data import Clips, RobotEpisodes, encode_clips
from sana_wm.training.finetune_lora import (
    Trained,
    add_lora,
    as_claims,
    save_adapter,
    train_everything,
)
from sana_wm.training.finetune_settings import PRECISIONS, FinetuneSettings, check_extras, robot_data
from sana_wm.training.finetune_stage import FinetuneTraining, recompute_activations, still_camera
from sana_wm.training.finetune_text import encode_texts
from sana_wm.training.logging import RunLog
from sana_wm.training.loop import run_stage
from sana_wm.world import Starts, VideoWorld
from sana_wm.world.video_config import VideoWorldConfig

STAGE = "finetune"
MEASURED = 8  # held-out clips whose first step is imagined and compared


class FinetuneRun:
    """The parts of a run, in the order of its methods. What can be wrong is looked at before anything is computed."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.folder, self.seed = config, Path(config["out"]), config["seed"]
        self.settings = FinetuneSettings.from_config(config["finetune"], self.seed)
        self.data = robot_data(config["data"])
        check_extras(self.settings.method)
        if config["weights"] not in ("auto", *PRECISIONS):
            raise ValueError(f"weights={config['weights']!r}: expected auto or one of {', '.join(PRECISIONS)}")
        if (self.folder / "world").exists() and not (self.folder / "world" / "sana_wm.json").is_file():
            raise ValueError(f"{self.folder / 'world'} is there and is no video world: give another folder (out=...)")
        device = config["device"]
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.release: Release = locate_release(config["init"])
        self.episodes = RobotEpisodes(self.data)
        self.vae = VideoVAE.from_pretrained(self.release.vae, self.dtype("bfloat16"))
        self.vae.check_streams()
        self.check_resolution()
        self.settings.clips.check(self.vae.stride)
        self.clips = Clips.cut(self.episodes.lengths, self.settings.clips)
        self.clips.check(self.episodes.split, self.episodes.lengths)
        self.codec = self.episodes.codec(self.data, self.vae.stride)
        self.transformer = self.open_transformer()
        mode = config["wandb"]["mode"]
        mode = ("online" if os.environ.get("WANDB_API_KEY") else "disabled") if mode == "auto" else mode
        self.log = RunLog(self.folder, config, mode, config["wandb"]["project"])

    def dtype(self, on_cuda: str) -> torch.dtype:
        """Precision of what is not trained."""
        return PRECISIONS[on_cuda] if self.device.type == "cuda" else torch.float32

    def say(self, text: str) -> None:
        self.log.console.print(text, highlight=False)

    def check_resolution(self) -> None:
        try:
            self.grid = self.vae.grid(self.episodes.resolution)
        except ValueError as error:
            raise ValueError(f"data.{error}") from error

    def open_transformer(self) -> SanaTransformer:
        """The checkpoint as a stream of single latent frames, with room for the robot's actions."""
        s, init = self.settings, str(self.config["init"])
        preset = s.preset or self.release.settings.get("preset") or (init if init in PRESETS else None)
        torch.manual_seed(self.seed)
        try:
            transformer = SanaTransformer.from_pretrained(
                self.release.transformer, preset=preset, grid=self.grid, action_dim=self.codec.network_width,
                temporal="chunk_causal", chunk_size=1, first_chunk_plus_one=False, window=s.window, sink=s.sink,
            )  # fmt: skip
        except ValueError as error:
            if "action_embedder" in str(error):
                raise ValueError(
                    f"{self.release.transformer} takes other actions already, this dataset's make "
                    f"{self.codec.network_width} numbers a step ({self.codec.shape}): start from a checkpoint without "
                    "actions, or one of the same layout"
                ) from error
            raise
        if transformer.config.in_channels != self.vae.channels:
            raise ValueError(
                f"{self.release.transformer} takes {transformer.config.in_channels} channels, the autoencoder makes "
                f"{self.vae.channels}: they do not belong together"
            )
        self.saved_dtype = transformer.dtype if self.config["weights"] == "auto" else PRECISIONS[self.config["weights"]]
        base = self.dtype("bfloat16") if s.base == "auto" else PRECISIONS[s.base]
        return transformer.to(base if s.method == "lora" else torch.float32)

    def announce(self) -> None:
        """Say what is about to be done, and what was decided on the way."""
        e, stride = self.episodes, self.vae.stride
        dataset: LeRobotDataset = e.dataset
        counts = {part: len(self.clips.of(e.split[part])) for part in e.split}
        short = int((e.lengths < self.clips.frames).sum())
        self.say(
            f"data: {len(e.lengths):,} episodes of {dataset.root.name}, {int(e.lengths.sum()):,} frames at "
            f"{dataset.fps:g} fps; {counts['train']:,} clips of {self.clips.frames} frames to train on, "
            f"{counts['validation']:,} to validate, {counts['test']:,} to measure"
            + (f"; {short:,} episodes are too short for a clip" if short else "")
        )
        if e.resolution != e.size:
            (h, w), (height, width) = e.resolution, e.size
            self.say(f"frames: {height}x{width} scaled to cover {h}x{w} and cut at the middle (data.resolution)")
        self.say(
            f"actions: {self.codec.width} columns ({', '.join(self.codec.names[:6])}"
            f"{', ...' if self.codec.width > 6 else ''}), {stride} a step: {self.codec.network_width} numbers for the "
            f"network; a step is {stride / dataset.fps:.2g} s. The camera is taken to stand still, with a field of "
            f"view of {self.settings.fov:g} degrees (finetune.fov)"
        )

    def encode(self) -> None:
        """Texts and clips, once; both come from the run's folder when it is run again."""
        texts = self.clips.tasks(self.episodes)
        self.task = self.data.task or self.episodes.task
        texts = [self.data.task or text for text in texts]
        self.prompts, null = {}, None
        if self.transformer.config.text_dim:
            encoder = weights_fingerprint(self.release.text_encoder) if self.release.text_encoder else "none"
            place = self.folder / "texts" / encoder
            self.prompts, null = encode_texts(
                [self.task, *texts], self.release, place, self.dtype("bfloat16"), self.device
            )
        numbers = {text: number for number, text in enumerate(self.prompts)}
        self.texts = np.array([numbers.get(text, 0) for text in texts])
        self.text = None
        if self.prompts:
            rows = [*self.prompts.values(), *([null] if null else [])]
            self.text = tuple(torch.stack(parts).to(self.device) for parts in zip(*rows, strict=True))
        self.has_null = null is not None
        if self.text is not None and null is None and self.settings.loss.class_dropout:
            self.say("no text encoder: clips are never told no text (finetune.loss.class_dropout)")
        with self.log.stage("latents", len(self.clips)) as show:
            self.latents = encode_clips(
                self.episodes, self.clips, self.vae.to(self.device), weights_fingerprint(self.release.vae),
                self.folder / "latents", self.settings.clips.cache_gb, lambda n, _: show(n, None, {}),
            )  # fmt: skip
        self.vae.to("cpu")

    def training(self) -> FinetuneTraining:
        """What is trained, on the device."""
        s, transformer = self.settings, self.transformer.to(self.device)
        world = self.world_config()
        told = still_camera(transformer, world.intrinsics(), world.resolution, self.latents.shape[2], self.vae.stride)
        raw = torch.from_numpy(self.clips.actions(self.episodes, self.codec))
        return FinetuneTraining(
            transformer, s.loss, s.shift, self.latents, self.codec.normalise(raw).numpy(), self.texts, self.text,
            self.has_null, *told, self.clips.of(self.episodes.split["train"]), self.seed, s.loop.bf16,
        )  # fmt: skip

    def world_config(self) -> VideoWorldConfig:
        steps = self.data.max_episode_steps or max(1, (int(self.episodes.lengths.max()) - 1) // self.vae.stride)
        return VideoWorldConfig(
            resolution=self.episodes.resolution, fps=float(self.episodes.dataset.fps),
            timesteps=self.settings.timesteps, max_episode_steps=steps, task=self.task, fov=self.settings.fov,
        )  # fmt: skip

    def train(self) -> None:
        """Train, or load what was trained, in place; low-rank updates end up in the weights and in ``adapter/``."""
        s = self.settings
        made_of = {
            "init": str(self.config["init"]), "its weights": weights_fingerprint(self.release.transformer),
            "data.root": str(self.data.root), "the dataset": self.episodes.dataset.fingerprint, "seed": self.seed,
            "data.episodes": self.data.episodes, "data.columns": self.data.columns,
            "data.resolution": list(self.episodes.resolution), "the actions": self.codec.to_dict(),
            "finetune.method": s.method, "finetune.window": s.window, "finetune.sink": s.sink, "finetune.fov": s.fov,
            "finetune.clips.frames": s.clips.frames, "finetune.clips.every": s.clips.every,
        } | as_claims(s.lora)  # fmt: skip
        claim(self.folder, STAGE, made_of)
        adapted = None
        if s.lora is not None:
            adapted = add_lora(self.transformer, s.lora, str(self.config["init"]), self.seed)
        else:
            train_everything(self.transformer)
        training, trained = self.training(), Trained(self.transformer)
        total = sum(p.numel() for p in self.transformer.parameters())
        self.say(f"{s.method}: {trained.count:,} of {total:,} parameters are trained")
        split = self.episodes.split
        validation, test = (self.clips.of(split[part]) for part in ("validation", "test"))
        note = self.folder / "before.json"
        if not note.is_file() or not (self.folder / f"{STAGE}.safetensors").exists():
            before = {"validation": training.held_out(validation), "test": training.held_out(test)}
            note.write_text(json.dumps(before))
        self.losses = {"before": json.loads(note.read_text())}
        self.say(f"flow loss on held-out clips before training: {self.losses['before']['validation']:.4g}")
        if s.checkpointing:
            recompute_activations(self.transformer)
        run_stage(
            STAGE, trained, training.losses, s.loop, self.folder, self.log,
            lambda _: {"loss": training.held_out(validation)},
        )  # fmt: skip
        self.losses["after"] = {"validation": training.held_out(validation), "test": training.held_out(test)}
        for block in self.transformer.blocks:
            block.__dict__.pop("forward", None)
        if adapted is not None:
            save_adapter(adapted, self.folder / "adapter")
            self.transformer = adapted.merge_and_unload()

    def save(self) -> VideoWorld:
        """Write the world, open it as a user would, measure it, and write what it measured into its card."""
        folder = self.folder / "world"
        world = VideoWorld(
            self.world_config(), self.transformer.to("cpu", self.saved_dtype), self.vae, self.codec,
            prompts=self.prompts, starts=self.starts(),
        )  # fmt: skip
        world.save_pretrained(folder)
        world = VideoWorld.from_pretrained(folder, self.device)
        numbers = self.measure(world)
        meta = read_meta(self.folder / f"{STAGE}.safetensors")
        numbers |= {"steps": meta["step"], "minutes": round(meta["seconds"] / 60, 1), "flow_loss": self.losses}
        where = torch.cuda.get_device_name() if self.device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
        world.card = card(self.config, self.settings, self.data, self.episodes, self.codec, numbers, where)
        (folder / "card.md").write_text(world.card)
        (self.folder / "measured.json").write_text(json.dumps(numbers, indent=1) + "\n")
        self.report(numbers, folder)
        return world

    def report(self, numbers: dict[str, Any], folder: Path) -> None:
        """The numbers and where things are, on the terminal and in the log."""
        flow, db = numbers["flow_loss"], numbers["psnr"]
        self.log.scalars(
            numbers["steps"],
            {f"test/flow_loss_{when}": flow[when]["test"] for when in flow}
            | {f"test/psnr_{k}": v for k, v in db.items()},
        )
        self.say(
            f"on {numbers['clips']} clips of episodes never looked at: flow loss {flow['before']['test']:.4g} -> "
            f"{flow['after']['test']:.4g}; PSNR of one step {db['world']:.1f} dB, copying the last frame "
            f"{db['copy']:.1f}, the autoencoder's own {db['autoencoder']:.1f}"
        )
        if self.settings.lora is not None:
            self.log.console.print(f"adapter saved: [bold]{self.folder / 'adapter'}[/bold]", soft_wrap=True)
        self.log.console.print(f"world saved: [bold]{folder}[/bold]", soft_wrap=True)

    def starts(self) -> Starts:
        """First frames of clips of validation episodes."""
        rows = self.clips.of(self.episodes.split["validation"])
        rows = rows[np.linspace(0, len(rows) - 1, min(self.data.starts, len(rows))).astype(np.int64)]
        frames = [clip[:1] for clip in self.raw(rows)]
        shape = (0, 1, *self.episodes.resolution, 3)
        frames = np.stack(frames) if frames else np.zeros(shape, np.uint8)
        return Starts(frames, np.zeros((len(frames), 0, *self.codec.shape), np.float32))

    def raw(self, rows: np.ndarray) -> list[np.ndarray]:
        """Raw frames of clips, each uint8 (frames, H, W, 3)."""
        clips, episode, pictures = [], -1, None
        for row in rows:
            if self.clips.episode[row] != episode:
                episode = int(self.clips.episode[row])
                pictures = self.episodes.frames(episode)
            clips.append(pictures[self.clips.start[row] :][: self.clips.frames].copy())
        return clips

    def measure(self, world: VideoWorld) -> dict[str, Any]:
        """PSNR in dB over the raw frames of a first step on test clips: the world's, copying, the autoencoder's."""
        rows = self.clips.of(self.episodes.split["test"])
        rows = rows[np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(np.int64)]
        actions = self.clips.actions(self.episodes, self.codec)
        texts = list(self.prompts) or [self.task]
        scores: dict[str, list[float]] = {"world": [], "copy": [], "autoencoder": []}
        for row, clip in zip(rows, self.raw(rows), strict=True):
            truth = clip[None, 1 : 1 + world.vae.stride]
            state = world.begin(clip[None, :1], prompt=texts[self.texts[row]], seeds=[int(row)])
            state, _ = world.step(state, actions[None, row, 0])
            made = {
                "world": world.frames(state),
                "copy": np.broadcast_to(clip[None, :1], truth.shape),
                "autoencoder": world.decode(world.encode(clip[None, : 1 + world.vae.stride]))[:, 1:],
            }
            for name, frames in made.items():
                scores[name].append(psnr(frames, truth).mean())
        return {"clips": len(rows), "psnr": {name: float(np.mean(values)) for name, values in scores.items()}}


def finetune(config: dict[str, Any]) -> Path:
    """Run it all; what is finished already is loaded. -> the world's folder."""
    job = FinetuneRun(config)
    try:
        job.announce()
        job.encode()
        job.train()
        job.save()
        return job.folder / "world"
    finally:
        job.log.close()
