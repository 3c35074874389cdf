"""One run of the recipe, from a configuration to a world on disk."""

import os
from pathlib import Path
from typing import Any

import torch

from sana_wm.data import LeRobotDataset
from sana_wm.data.arrays import EpisodeArrays
from sana_wm.diffusion.flow import FlowConfig
from sana_wm.evaluation.card import write_card
from sana_wm.models.dc_ae import DCAEConfig
from sana_wm.models.heads import Heads, HeadsConfig
from sana_wm.models.refiner import Refiner, RefinerConfig
from sana_wm.models.transformer import SanaConfig, SanaTransformer
from sana_wm.nn.proprio import proprio_channels
from sana_wm.training import recipe
from sana_wm.training.checkpoint import read_meta
from sana_wm.training.claim import claim
from sana_wm.training.decoder_stage import DecoderLoss
from sana_wm.training.dynamics_stage import DynamicsLoss
from sana_wm.training.heads_stage import HeadsLoss
from sana_wm.training.logging import RunLog
from sana_wm.training.loop import LoopConfig
from sana_wm.training.optimizer import OptimizerConfig
from sana_wm.training.refiner_stage import RefinerLoss
from sana_wm.training.tokenizer_stage import TokenizerLoss
from sana_wm.training.trust_stage import TrustSettings, calibrated
from sana_wm.world import WorldConfig, WorldModel

TRAINED = ("tokenizer", "heads", "refiner", "dynamics", "decoder")
STAGES = ("all", "collect", *TRAINED, "bundle", "evaluate")


def loop_config(values: dict[str, Any], seed: int) -> LoopConfig:
    values = dict(values)
    optimizer = recipe.settings(OptimizerConfig, values.pop("optimizer", {}))
    return recipe.settings(LoopConfig, {"seed": seed} | values | {"optimizer": optimizer})


def latent_grid(config: DCAEConfig, resolution: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Height and width of the latents of frames.

    Raises:
        ValueError: a resolution that is no whole number of the transformer's patches.
    """
    side = config.compression * patch_size
    if len(resolution) != 2 or any(pixels < side or pixels % side for pixels in resolution):
        raise ValueError(
            f"data.resolution={list(resolution)}: expected [height, width] in multiples of {side}, the tokenizer's "
            f"compression {config.compression} times model.patch_size={patch_size}; change either"
        )
    return tuple(pixels // config.compression for pixels in resolution)


class Run:
    """The parts of a run, each made from what the earlier ones left in the folder.

    Every setting is read at once: a misspelt one must not surface after an hour of training.
    """

    def __init__(self, config: dict[str, Any]):
        self.config, self.data, self.recipe = config, config["data"], config["recipe"]
        self.folder, self.seed = Path(config["out"]), config["seed"]
        stages = {name: self.recipe[name] for name in TRAINED if self.recipe.get(name) is not None}
        self.loops = {name: loop_config(section["loop"], self.seed) for name, section in stages.items()}
        self.tokenizer_loss = recipe.settings(TokenizerLoss, stages["tokenizer"]["loss"])
        self.dynamics_loss = recipe.settings(DynamicsLoss, stages["dynamics"]["loss"])
        self.refiner_loss = recipe.settings(RefinerLoss, stages["refiner"]["loss"]) if "refiner" in stages else None
        if "decoder" in stages and "refiner" not in stages:
            raise ValueError("recipe.decoder fits the decoder to the refiner, and recipe.refiner is null: null both")
        self.decoder_loss = recipe.settings(DecoderLoss, stages["decoder"]["loss"]) if "decoder" in stages else None
        self.heads_loss = recipe.settings(HeadsLoss, stages["heads"]["loss"])
        trust = self.recipe.get("trust", {})
        self.trust_settings = None if trust is None else recipe.settings(TrustSettings, trust)
        self.flow = recipe.settings(FlowConfig, self.recipe["flow"])
        self.bounds = recipe.settings(recipe.Bounds, self.data["bounds"])
        self.dcae = DCAEConfig.from_dict(config["tokenizer"])
        self.resolution = tuple(self.data["resolution"])
        self.grid = latent_grid(self.dcae, self.resolution, config["model"].get("patch_size", 1))
        self.transformer_config(action_dim=1, proprio_dim=0)
        self.refiner_config(proprio_dim=0)
        if self.flow.steps > 1 and self.dynamics_loss.start_share >= 1:
            raise ValueError(
                f"recipe.flow.steps={self.flow.steps} asks for noise levels that training leaves out: set "
                "recipe.dynamics.loss.start_share below 1 (0.5), or recipe.flow.steps=1"
            )
        for name in set(self.loops) - {"dynamics"}:
            if self.loops[name].compile != "off":
                raise ValueError(
                    f"recipe.{name}.loop.compile={self.loops[name].compile}: only dynamics can be compiled"
                )
        device = config["device"]
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        mode = config["wandb"]["mode"]
        mode = ("online" if os.environ.get("WANDB_API_KEY") else "disabled") if mode == "auto" else mode
        precisions = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
        if config["weights"] not in precisions:
            raise ValueError(f"weights={config['weights']!r}: expected one of {', '.join(precisions)}")
        self.weights = precisions[config["weights"]]
        self.log = RunLog(self.folder, config, mode, config["wandb"]["project"])

    def transformer_config(self, action_dim: int, proprio_dim: int) -> SanaConfig:
        channels = self.dcae.latent_channels + proprio_channels(proprio_dim, self.grid)
        given = {"in_channels": channels, "grid": self.grid, "action_dim": action_dim}
        return SanaConfig.from_dict(given | self.config["model"])

    def refiner_config(self, proprio_dim: int) -> RefinerConfig | None:
        if self.refiner_loss is None:
            return None
        given = {"channels": self.dcae.latent_channels, "grid": self.grid, "proprio_dim": proprio_dim}
        return recipe.settings(RefinerConfig, given | self.recipe["refiner"]["model"])

    def claim(self, stage: str, made_of: dict[str, Any]) -> None:
        """Note beside a stage's checkpoint what it is made of, or hold it against what it was begun with.

        Raises:
            ValueError: the checkpoint belongs to other data or another model.
        """
        claim(self.folder, stage, made_of)

    def trained(self, *stages: str) -> dict[str, float | None]:
        """What identifies the trained stages that another one rests on: for how long each was trained."""
        paths = {name: self.folder / f"{name}.safetensors" for name in stages}
        return {
            f"seconds of {name} training": read_meta(path)["seconds"] if name in self.loops else None
            for name, path in paths.items()
        }

    def collect(self) -> None:
        """Record the simulator, if this data is recorded and not complete yet."""
        if self.data["collect"] is not None:
            from sana_wm.collect import collect

            collect(self.data["root"], **self.data["collect"])

    def open_data(self) -> None:
        self.dataset = LeRobotDataset(self.data["root"])
        if not self.dataset.cameras:
            raise ValueError(f"{self.data['root']}: the dataset has no camera; it has {sorted(self.dataset.features)}")
        values = dict(self.data["columns"])
        values["camera"] = values["camera"] or self.dataset.cameras[0]
        self.columns = recipe.settings(recipe.Columns, values)
        recipe.check_lengths(self.dataset, self.data["context"], self.dynamics_loss.frames)
        made_of = {
            "data.root": str(self.data["root"]),
            "the dataset": self.dataset.fingerprint,
            "seed": self.seed,
            "data.resolution": self.data["resolution"],
        }
        columns = {f"data.columns.{key}": value for key, value in self.data["columns"].items()}
        self.made_of = made_of | columns | {f"tokenizer.{k}": v for k, v in self.config["tokenizer"].items()}
        self.claim("tokenizer", self.made_of)
        self.arrays: EpisodeArrays = recipe.load_data(
            self.dataset, self.columns, self.resolution, self.folder / "frames", self.log
        )

    def tokenizer(self) -> None:
        """Train, or load the finished stage, and encode the dataset."""
        self.tokenizer_model = recipe.train_tokenizer(
            self.dcae, self.tokenizer_loss, self.loops["tokenizer"], self.arrays, self.columns, self.folder,
            self.device, self.log,
        )  # fmt: skip
        self.latents = recipe.encode_dataset(self.tokenizer_model, self.arrays, self.folder / "latents", self.log)

    def world(self) -> WorldModel:
        """An untrained world around the trained tokenizer."""
        data, c = self.data, self.columns
        codec = recipe.action_codec(self.dataset, self.arrays, c, self.bounds, data["unit"])
        names = recipe.column_names(self.dataset, c.proprio)
        config = WorldConfig(
            fps=float(self.dataset.fps),
            resolution=self.resolution,
            context=data["context"],
            max_episode_steps=data["max_episode_steps"],
            tokenizer=self.dcae,
            transformer=self.transformer_config(codec.width, len(names)),
            heads=HeadsConfig(
                self.dcae.latent_channels,
                self.grid,
                len(names),
                c.reward is not None,
                c.terminated is not None,
                c.success is not None,
                hidden=self.recipe["heads"]["hidden"],
                outcome_hidden=self.recipe["heads"].get("outcome_hidden", 0),
            ),
            refiner=self.refiner_config(len(names)),
            flow=self.flow,
            codec=codec,
            proprio_names=names,
            task=data["task"],
            extra={"data": data, "recipe": self.recipe, "seed": self.seed},
        )
        torch.manual_seed(self.seed)
        starts = recipe.start_bank(self.arrays, self.columns, data["context"], data["starts"], self.seed)
        world = WorldModel(
            config,
            SanaTransformer(config.transformer),
            self.tokenizer_model,
            Heads(config.heads),
            starts,
            refiner=Refiner(config.refiner) if config.refiner else None,
        )
        return world.to(self.device)

    def dynamics(self, world: WorldModel) -> None:
        """Train, or load the finished stage, in place."""
        made_of = self.made_of | {f"model.{k}": v for k, v in self.config["model"].items()}
        made_of |= {f"recipe.flow.{k}": v for k, v in self.recipe["flow"].items()}
        self.claim("dynamics", made_of | self.trained("tokenizer", "heads", "refiner"))
        world.transformer.requires_grad_(True)
        recipe.train_dynamics(
            world, self.dynamics_loss, self.loops["dynamics"], self.latents, self.arrays, self.columns, self.folder,
            self.device, self.log, lambda: self.look(world),
        )  # fmt: skip

    def decoder(self, world: WorldModel) -> None:
        """Train, or load the finished stage, in place; nothing where the recipe has none."""
        if self.decoder_loss is None:
            return
        self.claim("decoder", self.made_of | self.trained("tokenizer", "refiner"))
        recipe.train_decoder(
            world, self.decoder_loss, self.refiner_loss, self.loops["decoder"], self.latents, self.arrays, self.columns,
            self.folder, self.device, self.log,
        )  # fmt: skip

    def heads(self, world: WorldModel) -> None:
        """Train, or load the finished stage, in place."""
        self.claim("heads", self.made_of | self.trained("tokenizer"))
        world.heads.requires_grad_(True)
        recipe.train_heads(
            world.heads, self.heads_loss, self.loops["heads"], self.latents, self.arrays, self.columns, self.folder,
            self.device, self.log,
        )  # fmt: skip

    def refiner(self, world: WorldModel) -> None:
        """Train, or load the finished stage, in place; nothing where the recipe has none."""
        if world.refiner is None:
            return
        made_of = {f"recipe.refiner.model.{k}": v for k, v in self.recipe["refiner"]["model"].items()}
        self.claim("refiner", self.made_of | made_of | self.trained("tokenizer"))
        world.refiner.requires_grad_(True)
        recipe.train_refiner(
            world.refiner, world.heads, self.refiner_loss, self.loops["refiner"], self.latents, self.arrays,
            self.columns, self.folder, self.device, self.log,
        )  # fmt: skip

    def trust(self, world: WorldModel) -> None:
        """Calibrate the finished world's trust signals; nothing where the recipe says null."""
        if self.trust_settings is None:
            return
        with self.log.stage("trust", self.trust_settings.batches) as show:
            world.trust = calibrated(
                world, self.dataset, self.trust_settings, camera=self.columns.camera, action=self.columns.action,
                seed=self.seed, progress=lambda done, _: show(done, None, {}),
            )  # fmt: skip

    def look(self, world: WorldModel) -> dict[str, float]:
        """Validation of the dynamics: a film of imagined episodes, and numbers."""
        film = recipe.sample_video(world, self.arrays, self.columns)
        self.log.video("imagined", film, world.config.fps)
        return recipe.imagined_errors(world, self.arrays, self.columns)

    def save(self, world: WorldModel) -> Path:
        """Write the bundle, with what the training cost."""
        extra = world.config.extra
        extra["training"] = {}
        for stage in self.loops:
            meta = read_meta(self.folder / f"{stage}.safetensors")
            extra["training"][stage] = {"steps": meta["step"], "minutes": round(meta["seconds"] / 60, 1)}
        threads = f"{torch.get_num_threads()} CPU thread(s), {torch.backends.cpu.get_cpu_capability()}"
        extra["machine"] = f"trained on {threads if self.device.type == 'cpu' else torch.cuda.get_device_name()}"
        world.card = write_card(world.config)
        folder = self.folder / "world"
        world.save_pretrained(folder, dtype=self.weights)
        self.log.console.print(f"world saved: [bold]{folder}[/bold]")
        return folder


def run(config: dict[str, Any]) -> None:
    """Run the recipe, or one stage of it (earlier ones are loaded where they are finished, else run first)."""
    stage = config["stage"]
    if stage not in STAGES:
        raise ValueError(f"stage={stage!r}: expected one of {', '.join(STAGES)}")
    job = Run(config)
    try:
        job.collect()
        if stage == "collect":
            return
        job.open_data()
        job.tokenizer()
        if stage == "tokenizer":
            return
        world = job.world()
        job.heads(world)
        if stage == "heads":
            return
        job.refiner(world)
        if stage == "refiner":
            return
        job.dynamics(world)
        if stage == "dynamics":
            return
        job.decoder(world)
        if stage == "decoder":
            return
        job.trust(world)
        folder = job.save(world)
        if stage == "bundle":
            return
        from sana_wm.evaluation.run import evaluate_bundle

        result = evaluate_bundle(
            folder,
            job.data["root"],
            job.folder / "evaluation",
            quick=config["quick_evaluation"],
            camera=job.columns.camera,
            device=str(job.device),
            card=True,
            console=job.log.console,
            show_progress=True,
        )
        job.log.scalars(0, flatten("evaluation", result))
    finally:
        job.log.close()


def flatten(prefix: str, values: dict[str, Any]) -> dict[str, float]:
    """The numbers of a nested dict, by path."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(f"{prefix}/{key}", value)
        elif isinstance(value, (int, float)):
            flat[f"{prefix}/{key}"] = float(value)
    return flat
