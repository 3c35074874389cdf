"""``stage=sprint``: teacher -> (its time and norms) -> one-step student -> a release (sana_family spec section 6)."""

from __future__ import annotations

import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from sana_wm.generation.image_release import locate_image_release
from sana_wm.models.sana_config import SanaConfig
from sana_wm.models.transformer import SanaTransformer
from sana_wm.training import recipe
from sana_wm.training.checkpoint import read_meta
from sana_wm.training.claim import claim, weights_fingerprint
from sana_wm.training.image_set import ImageSet
from sana_wm.training.image_stage import ImageLoss, ImageTraining
from sana_wm.training.logging import RunLog
from sana_wm.training.loop import LoopConfig, run_stage
from sana_wm.training.run import loop_config
from sana_wm.training.sprint_release import write_release
from sana_wm.training.sprint_stage import SprintLoss, SprintTraining
from sana_wm.training.sprint_start import is_dense, with_dense_time
from sana_wm.training.state_images import StateImages, state_images
from sana_wm.world import WorldModel

STATES = "pusht-states"  # data= of frames that are told by states


def distil(values: dict[str, Any]) -> Path:
    """Run the stage as configs/train_sprint.yaml describes it -> the folder of the release.

    Raises:
        ValueError: settings that cannot be meant, a teacher or pictures that are not there or do not fit each other.
    """
    job = Distillation(values)
    try:
        teacher = job.dense(job.teacher())
        if job.release is None:
            teacher.save_pretrained(job.folder / "teacher" / "transformer")
        return job.save(job.student(teacher))
    finally:
        job.log.close()


class Distillation:
    """The parts of a run, each a stage whose checkpoint lies in the folder. Every setting is read at once."""

    def __init__(self, values: dict[str, Any]):
        self.values, self.folder, self.seed = values, Path(values["out"]), values["seed"]
        self.loops: dict[str, LoopConfig] = {
            name: loop_config(values[name]["loop"], self.seed) for name in ("teach", "dense", "distil")
        }
        self.flow_losses = {name: recipe.settings(ImageLoss, values[name]["loss"]) for name in ("teach", "dense")}
        self.loss = recipe.settings(SprintLoss, values["distil"]["loss"])
        if self.loops["distil"].bf16 != "off":
            raise ValueError(f"distil.loop.bf16={self.loops['distil'].bf16}: derivatives by time need float32, 'off'")
        data = values["data"]["root"]
        if values["teacher"] is None and data != STATES:
            raise ValueError(f"teacher= is missing: expected the release that stage=image wrote, or data={STATES}")
        device = values["device"]
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        mode = values["wandb"]["mode"]
        mode = ("online" if os.environ.get("WANDB_API_KEY") else "disabled") if mode == "auto" else mode
        self.release = None if values["teacher"] is None else _located(values["teacher"], data == STATES)
        self.log = RunLog(self.folder, values, mode, values["wandb"]["project"])
        self.pictures = image_set_of(values, self.device, self.log)
        self.made_of = {"data": data, "pictures": len(self.pictures), "seed": self.seed}

    def teacher(self) -> SanaTransformer:
        """The one that was given, or one that is trained on the pictures."""
        if self.release is not None:
            self.made_of["teacher"] = weights_fingerprint(self.release / "transformer")
            teacher = SanaTransformer.from_pretrained(self.release / "transformer", dtype=torch.float32)
            return self._fitting(teacher.to(self.device).requires_grad_(False))
        torch.manual_seed(self.seed)
        latents = self.pictures.buckets[0].latents
        config = SanaConfig.from_dict(
            {
                "in_channels": latents.shape[1], "grid": None, "sample_size": latents.shape[2], "mixer": "relu",
                "softmax_every": 0, "temporal": "bidirectional", "temporal_conv": False, "positions": "sincos",
                "text_dim": self.pictures.text.shape[-1], "qk_norm": True, "timestep_scale": 0.001,
            }
            | self.values["model"]
        )  # fmt: skip
        self.made_of |= {f"model.{name}": value for name, value in self.values["model"].items()}
        return self._flow_stage("teach", SanaTransformer(config).to(self.device))

    def dense(self, teacher: SanaTransformer) -> SanaTransformer:
        """The teacher with Sprint's time and norms: itself, or trained on with them."""
        return teacher if is_dense(teacher.config) else self._flow_stage("dense", with_dense_time(teacher))

    def student(self, teacher: SanaTransformer) -> SanaTransformer:
        begun = self.values["student"]
        if begun is not None:
            self.made_of["student"] = weights_fingerprint(Path(begun) / "transformer")
        claim(self.folder, "distil", self.made_of | self._trained())
        torch.manual_seed(self.seed)
        training = SprintTraining(teacher, self.loss, self.pictures, self.seed).to(self.device)
        if begun is not None:
            before = SanaTransformer.from_pretrained(Path(begun) / "transformer", dtype=torch.float32).state_dict()
            wanted = {name: tensor.shape for name, tensor in training.student.state_dict().items()}
            if {name: tensor.shape for name, tensor in before.items()} != wanted:
                raise ValueError(f"student={begun}: not a student of this teacher, its tensors have other shapes")
            training.student.load_state_dict(before)
        where = self.loops["distil"], self.folder, self.log
        return run_stage("distil", training, training.losses, *where, players=training.players).student

    def save(self, student: SanaTransformer) -> Path:
        told = {name: value for name, value in self.values.items() if name not in ("wandb", "device")}
        folder = write_release(student, self.folder / "release", self.release, told)
        self.log.console.print(f"release saved: [bold]{folder}[/bold]")
        return folder

    def _flow_stage(self, name: str, transformer: SanaTransformer) -> SanaTransformer:
        claim(self.folder, name, self.made_of)
        loop = self.loops[name]
        transformer.requires_grad_(True)
        training = ImageTraining(transformer, self.flow_losses[name], self.pictures, self.seed, loop.bf16)
        return run_stage(name, training, training.losses, loop, self.folder, self.log).transformer

    def _trained(self) -> dict[str, float]:
        """What identifies a teacher that was trained here: for how long."""
        paths = {name: self.folder / f"{name}.safetensors" for name in ("teach", "dense")}
        return {f"seconds of {name}": read_meta(path)["seconds"] for name, path in paths.items() if path.exists()}

    def _fitting(self, teacher: SanaTransformer) -> SanaTransformer:
        c, pictures = teacher.config, self.pictures
        for bucket in pictures.buckets:
            if bucket.latents.shape[1] != c.in_channels:
                raise ValueError(
                    f"the pictures' latents have {bucket.latents.shape[1]} channels, the teacher takes "
                    f"{c.in_channels}: give the data that it was trained on"
                )
        if pictures.text.shape[-1] != c.text_dim:
            raise ValueError(
                f"the pictures' text has features of {pictures.text.shape[-1]}, the teacher reads {c.text_dim}: give "
                "the data that it was trained on"
            )
        return teacher


def _located(teacher: str, states: bool) -> Path:
    """The folder of the teacher; one that is told by states has a transformer and nothing else."""
    if states and (Path(teacher) / "transformer").is_dir():
        return Path(teacher)
    return locate_image_release(teacher)


def image_set_of(values: dict[str, Any], device: torch.device, log: RunLog) -> ImageSet:
    """The pictures that ``data=`` names, encoded once into the run's folder."""
    if values["data"]["root"] == STATES:
        return states_of(values, device, log)[0]
    return _captioned(values)


def _captioned(values: dict[str, Any]) -> ImageSet:
    """Pictures with captions as stage=image prepares them, with the autoencoder and text encoder of the teacher."""
    from sana_wm.training.image import ImageRun

    with as_file(files("sana_wm.configs") / "train_image.yaml") as path:
        defaults = OmegaConf.load(path)
    del defaults["hydra"]
    here = {name: values[name] for name in ("data", "size", "cache", "device", "seed")}
    here |= {"init": values["teacher"], "out": str(Path(values["out"]) / "pictures"), "wandb": {"mode": "disabled"}}
    job = ImageRun(OmegaConf.to_container(OmegaConf.merge(defaults, here), resolve=True))
    try:
        job.prepare()
        return job.train_set
    finally:
        job.log.close()


def states_of(values: dict[str, Any], device: torch.device, log: RunLog):
    """Pictures told by states: those to learn from, and those held out; see :func:`state_images`."""
    given = dict(values["states"])
    world = WorldModel.from_pretrained(given.pop("world"), device, trust=False)
    settings = recipe.settings(StateImages, given)
    with log.stage("latents", 1) as show:
        folder = Path(values["out"]) / "latents"
        return state_images(settings, world.tokenizer.eval(), folder, lambda n, of: show(n, None, {}, n / of))
