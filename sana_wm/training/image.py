"""One text-to-image run: pictures with captions in, a release out that generates at once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from sana_wm.data.picture_files import open_picture
from sana_wm.evaluation.intervals import mean_interval
from sana_wm.generation.aspect import bins
from sana_wm.generation.image_file import to_pictures, to_pixels
from sana_wm.generation.image_release import instruction_of
from sana_wm.generation.memory import release_memory
from sana_wm.models.dc_ae import DCAE
from sana_wm.models.prompt_cache import files_identity
from sana_wm.models.prompt_encoder import read_instruction
from sana_wm.models.transformer import SanaTransformer
from sana_wm.training.checkpoint import read_meta
from sana_wm.training.claim import claim, weights_fingerprint
from sana_wm.training.finetune_lora import Trained, add_lora, as_claims, save_adapter, train_everything
from sana_wm.training.finetune_stage import recompute_activations
from sana_wm.training.image_card import card
from sana_wm.training.image_data import encode_pictures, make_buckets, sort_pictures, summary
from sana_wm.training.image_parts import locate_parts, sampling_with, write_release
from sana_wm.training.image_samples import make_pictures, save_picture, sheet
from sana_wm.training.image_set import ImageSet
from sana_wm.training.image_settings import PRECISIONS, ImageSettings, new_config
from sana_wm.training.image_stage import ImageTraining
from sana_wm.training.image_texts import encode_captions
from sana_wm.training.logging import RunLog
from sana_wm.training.loop import autocast, run_stage
from sana_wm.training.occupied import occupied

STAGE = "image"
MEASURED = 1024  # held-out pictures of the last measurement


class ImageRun:
    """The parts of a run, in the order of its methods. What can be wrong is looked at before anything is computed."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.folder, self.seed = config, Path(config["out"]), config["seed"]
        self.cache = Path(config["cache"])
        self.settings = s = ImageSettings.from_config(config)
        device = config["device"]
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.parts = locate_parts(s.init, config["parts"])
        self.sampling = sampling_with(self.parts, s.loss.get("shift"))
        self.loss = s.image_loss(self.sampling.shift)
        given = config["instruction"]
        self.instruction = instruction_of(self.sampling) if given is None else read_instruction(given)
        self.cell = self.parts.compression
        self.new = None
        self.check_parts()
        self.base = s.size or self.parts.base or self.new.sample_size * self.cell
        bins(self.base, self.cell)  # a base that is no multiple of the cell is said here
        mode = config["wandb"]["mode"]
        mode = ("online" if os.environ.get("WANDB_API_KEY") else "disabled") if mode == "auto" else mode
        self.log = RunLog(self.folder, config, mode, config["wandb"]["project"])

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Precision of what is not trained."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def say(self, text: str) -> None:
        self.log.console.print(text, highlight=False)

    def check_parts(self) -> None:
        """Whether transformer, autoencoder and text encoder fit each other, by their config.json.

        Raises:
            ValueError: they do not, or a part has no config.json.
        """
        parts, files = self.parts, {}
        for name, folder in (("vae", parts.vae), ("text_encoder", parts.text_encoder)):
            if not (folder / "config.json").is_file():
                raise ValueError(f"{name}={folder}: has no config.json")
            files[name] = json.loads((folder / "config.json").read_text())
        channels = int(files["vae"].get("latent_channels", 32))
        text_dim = files["text_encoder"].get("hidden_size")
        if parts.transformer is None:
            self.new = new_config(self.settings.model, self.settings.size, self.cell, channels, text_dim)
            return
        told = json.loads((parts.transformer / "config.json").read_text())
        for name, got, wanted in (
            ("vae", channels, told.get("in_channels", 32)),
            ("text_encoder", text_dim, told.get("caption_channels", told.get("text_dim", 2304))),
        ):
            if got != wanted:
                raise ValueError(
                    f"{getattr(parts, name)} makes {got} channels, {parts.transformer} takes {wanted}: they do not "
                    "belong together"
                )

    def open_dcae(self) -> DCAE:
        dcae = DCAE.from_pretrained(self.parts.vae, dtype=self.frozen_dtype)
        return dcae.requires_grad_(False).to(self.device)

    def prepare(self) -> None:
        """Pictures and captions, encoded once; both come from the cache when it is run again."""
        s = self.settings
        with self.log.stage("pictures", 1) as show:
            tell = lambda done, total: show(done, None, {}, done / total)  # noqa: E731
            notes = self.cache / "pictures.json"
            self.pictures = sort_pictures(s.data, self.base, self.cell, notes, tell)
        lost = self.pictures.lost
        (self.folder / "left-out.txt").write_text("".join(f"{name}: {reason}\n" for name, reason in lost))
        held_out = sum(self.pictures.held_out.values())
        counts = ", ".join(f"{h}x{w}: {len(bin_):,}" for (h, w), bin_ in self.pictures.bins.items())
        self.say(
            f"data: {len(self.pictures):,} pictures, {held_out:,} of them held out; buckets {counts}"
            + (f"\n{summary(lost)}; all in {self.folder / 'left-out.txt'}" if lost else "")
        )
        self.captions = self.pictures.texts()
        parts = self.parts
        with self.log.stage("captions", len(self.captions)) as show:
            self.texts = encode_captions(
                self.captions, parts.text_encoder, parts.tokenizer, self.instruction, self.cache / "texts",
                self.frozen_dtype, self.device, lambda done, _: show(done, None, {}),
            )  # fmt: skip
        release_memory()
        if self.texts.cut:
            self.say(f"{self.texts.cut:,} captions have more than 300 tokens: their ends are not read")
        opened: list[DCAE] = []

        def dcae() -> DCAE:
            if not opened:
                opened.append(self.open_dcae())
            return opened[0]

        identity = f"{weights_fingerprint(parts.vae)} {files_identity(parts.vae)} {self.frozen_dtype}"
        with self.log.stage("latents", len(self.pictures)) as show:
            latents = encode_pictures(
                self.pictures, dcae, identity, self.cache / "latents", lambda done, _: show(done, None, {})
            )
        opened.clear()
        release_memory()
        t = self.texts
        train, validation = make_buckets(self.pictures, latents, t.rows)
        self.train_set = ImageSet(train, t.text, t.mask, t.null_text, t.null_mask)
        self.held_out = ImageSet(validation, t.text, t.mask, t.null_text, t.null_mask)

    def open_transformer(self) -> SanaTransformer:
        s = self.settings
        torch.manual_seed(self.seed)
        if self.new is not None:
            self.saved_dtype = PRECISIONS.get(s.weights, torch.float32)
            return SanaTransformer(self.new)
        transformer = SanaTransformer.from_pretrained(self.parts.transformer, sample_size=self.base // self.cell)
        self.saved_dtype = transformer.dtype if s.weights == "auto" else PRECISIONS[s.weights]
        base = self.frozen_dtype if s.base == "auto" else PRECISIONS[s.base]
        return transformer.to(base if s.method == "lora" else torch.float32)

    def made_of(self) -> dict[str, Any]:
        """What a checkpoint is held against when it is gone on with."""
        s, parts = self.settings, self.parts
        listed = [
            [one.name, one.picture.size, told.texts, told.weights]
            for bin_ in self.pictures.bins.values()
            for one, told in bin_
        ]
        made_of = {
            "init": s.init, "model": None if self.new is None else self.new.to_dict(), "size": self.base,
            "the autoencoder": weights_fingerprint(parts.vae), "seed": self.seed, "method": s.method,
            "the text encoder": weights_fingerprint(parts.text_encoder),
            "the pictures": hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16],
            "held out": sum(self.pictures.held_out.values()),
        }  # fmt: skip
        if parts.transformer is not None:
            made_of["its weights"] = weights_fingerprint(parts.transformer)
        return json.loads(json.dumps(made_of | as_claims(s.lora)))  # as the note holds it

    def train(self) -> None:
        """Train, or load what was trained, in place; low-rank updates end up in the weights and in ``adapter/``."""
        s = self.settings
        claim(self.folder, STAGE, self.made_of())
        self.transformer, adapted = self.open_transformer(), None
        if s.lora is not None:
            adapted = add_lora(self.transformer, s.lora, str(s.init), self.seed)
        else:
            train_everything(self.transformer)
        self.transformer.to(self.device)
        self.training = ImageTraining(self.transformer, self.loss, self.train_set, self.seed, s.loop.bf16)
        trained, self.step = Trained(self.transformer), 0
        total = sum(p.numel() for p in self.transformer.parameters())
        self.say(f"{s.method}: {trained.count:,} of {total:,} parameters are trained")
        note = self.folder / "before.json"
        if not note.is_file() or not (self.folder / f"{STAGE}.safetensors").exists():
            note.write_text(json.dumps(mean_interval(self.training.held_out(self.held_out, MEASURED).own)))
        self.before = json.loads(note.read_text())
        if s.checkpointing:
            recompute_activations(self.transformer)
        run_stage(STAGE, trained, self.losses, s.loop, self.folder, self.log, self.validate)
        for block in self.transformer.blocks:
            block.__dict__.pop("forward", None)
        self.after = self.training.held_out(self.held_out, MEASURED)
        if adapted is not None:
            save_adapter(adapted, self.folder / "adapter")
            self.transformer = adapted.merge_and_unload()

    def losses(self, step: int, progress: float) -> dict[str, torch.Tensor]:
        self.step = step + 1
        return self.training.losses(step, progress)

    def validate(self, _: nn.Module) -> dict[str, float]:
        errors = self.training.held_out(self.held_out)
        self.sample(f"step-{self.step:06d}")
        return {"loss": errors.own.mean(), "loss_of_another_caption": errors.other.mean()}

    def sample(self, name: str) -> None:
        """Pictures of held-out captions, the real ones above, to ``samples/`` and wandb."""
        import wandb

        chosen = self.held_out_pictures()[: self.settings.samples]
        if not chosen:
            return
        dcae, sampling = self.open_dcae(), self.sampling
        if self.settings.guidance is not None:
            sampling = sampling.__class__(**vars(sampling) | {"guidance": self.settings.guidance})
        sizes, captions = [size for size, _, _ in chosen], [told.texts[0] for _, _, told in chosen]
        with autocast(self.device, self.settings.loop.bf16):
            made = make_pictures(self.transformer, dcae, self.texts, captions, sizes, sampling)
        whole = sheet([[self.real(one, size) for size, one, _ in chosen], made])
        path = self.folder / "samples" / f"{name}.png"
        save_picture(whole, path)
        (path.parent / "captions.txt").write_text("\n".join(captions) + "\n")
        self.log.wandb.log({"samples": wandb.Image(str(path), caption=" | ".join(captions))})
        release_memory()

    def held_out_pictures(self) -> list[tuple]:
        """(size, picture, captions) of what is held out, one of each bucket in turn."""
        columns = [
            [(size, *pair) for pair in bin_[: self.pictures.held_out[size]]]
            for size, bin_ in self.pictures.bins.items()
        ]
        longest = max(map(len, columns))
        return [column[i] for i in range(longest) for column in columns if i < len(column)]

    @staticmethod
    def real(one, size: tuple[int, int]) -> Image.Image:
        return to_pictures(to_pixels(open_picture(one.picture.read()), *size))[0]

    def save(self) -> Path:
        """Write the release and what it measured."""
        meta = read_meta(self.folder / f"{STAGE}.safetensors")
        own, other = self.after
        numbers = {
            "pictures": {
                "train": len(self.train_set), "held_out": len(self.held_out), "left_out": len(self.pictures.lost),
                "captions": len(self.captions), "buckets": len(self.pictures.bins), "size": self.base,
            },
            "flow_loss": {
                "before": self.before, "after": mean_interval(own), "other_caption": mean_interval(other),
                "difference": mean_interval(other - own),
            },
            "steps": meta["step"], "minutes": round(meta["seconds"] / 60, 1),
        }  # fmt: skip
        where = torch.cuda.get_device_name() if self.device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
        folder = self.folder / "release"
        transformer = self.transformer.to("cpu", self.saved_dtype)
        write_release(folder, transformer, self.parts, self.sampling, card(self.config, numbers, where))
        (self.folder / "measured.json").write_text(json.dumps(numbers, indent=1) + "\n")
        flow = numbers["flow_loss"]
        self.log.scalars(
            meta["step"],
            {f"test/flow_loss_{name}": value["mean"] for name, value in flow.items() if value["mean"] is not None},
        )
        self.say(
            f"on {flow['after']['count']} held-out pictures: flow loss {flow['before']['mean']:.4g} -> "
            f"{flow['after']['mean']:.4g}; with another picture's caption {flow['other_caption']['mean']:.4g}"
        )
        if self.settings.lora is not None:
            self.log.console.print(f"adapter saved: [bold]{self.folder / 'adapter'}[/bold]", soft_wrap=True)
        self.log.console.print(f"release saved: [bold]{folder}[/bold]", soft_wrap=True)
        return folder


def train_images(config: dict[str, Any]) -> Path:
    """Run it all; what is finished already is loaded. -> the release's folder."""
    job = ImageRun(config)
    try:
        with occupied(job.cache):  # runs that share it would write the same files
            job.prepare()
        job.train()
        return job.save()
    finally:
        job.log.close()
