"""One run of the recipe, from a configuration to a world on disk."""

import os
from pathlib import Path
from typing import Any

import torch

from sana_wm.data import LeRobotDataset
from sana_wm.data.arrays import EpisodeArrays
from sana_wm.diffusion.flow import FlowConfig
from sana_wm.models.dc_ae import DCAEConfig
from sana_wm.models.heads import Heads, HeadsConfig
from sana_wm.models.transformer import SanaConfig, SanaTransformer
from sana_wm.training import recipe
from sana_wm.training.card import write_card
from sana_wm.training.dynamics_stage import DynamicsLoss
from sana_wm.training.logging import RunLog
from sana_wm.training.loop import LoopConfig
from sana_wm.training.optimizer import OptimizerConfig
from sana_wm.training.tokenizer_stage import TokenizerLoss
from sana_wm.world import WorldConfig, WorldModel

STAGES = ("all", "collect", "tokenizer", "dynamics", "bundle", "evaluate")


def loop_config(values: dict[str, Any], seed: int) -> LoopConfig:
    values = dict(values)
    optimizer = recipe.settings(OptimizerConfig, values.pop("optimizer", {}))
    return recipe.settings(LoopConfig, values | {"optimizer": optimizer, "seed": seed})


class Run:
    """The parts of a run, each made from what the earlier ones left in the folder."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.data, self.recipe = config, config["data"], config["recipe"]
        self.folder, self.seed = Path(config["out"]), config["seed"]
        device = config["device"]
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        mode = config["wandb"]["mode"]
        mode = ("online" if os.environ.get("WANDB_API_KEY") else "disabled") if mode == "auto" else mode
        self.log = RunLog(self.folder, config, mode, config["wandb"]["project"])

    def collect(self) -> None:
        """Record the simulator, if this data is recorded and not complete yet."""
        if self.data["collect"] is not None:
            from sana_wm.collect import collect

            collect(self.data["root"], **self.data["collect"])

    def open_data(self) -> None:
        self.dataset = LeRobotDataset(self.data["root"])
        values = dict(self.data["columns"])
        values["camera"] = values["camera"] or self.dataset.cameras[0]
        self.columns = recipe.settings(recipe.Columns, values)
        resolution = tuple(self.data["resolution"])
        self.arrays: EpisodeArrays = recipe.load_data(
            self.dataset, self.columns, resolution, self.folder / "frames", self.log
        )

    def tokenizer(self) -> None:
        """Train, or load the finished stage, and encode the dataset."""
        config = DCAEConfig.from_dict(self.config["tokenizer"])
        section = self.recipe["tokenizer"]
        loop = loop_config(section["loop"], self.seed)
        loss = recipe.settings(TokenizerLoss, section["loss"])
        self.tokenizer_model = recipe.train_tokenizer(
            config, loss, loop, self.arrays, self.columns, self.folder, self.device, self.log
        )
        self.latents = recipe.encode_dataset(self.tokenizer_model, self.arrays, self.folder / "latents", self.log)

    def world(self) -> WorldModel:
        """An untrained world around the trained tokenizer."""
        dcae, data = self.tokenizer_model.dcae.config, self.data
        resolution = tuple(self.arrays.frames.shape[1:3])
        grid = tuple(side // dcae.compression for side in resolution)
        codec = recipe.action_codec(
            self.dataset, self.arrays, self.columns, recipe.settings(recipe.Bounds, data["bounds"]), data["unit"]
        )
        names = recipe.column_names(self.dataset, self.columns.proprio)
        c = self.columns
        config = WorldConfig(
            fps=float(self.dataset.fps),
            resolution=resolution,
            context=data["context"],
            max_episode_steps=data["max_episode_steps"],
            tokenizer=dcae,
            transformer=SanaConfig.from_dict(
                {"in_channels": dcae.latent_channels, "grid": grid, "action_dim": codec.width} | self.config["model"]
            ),
            heads=HeadsConfig(
                dcae.latent_channels,
                grid,
                len(names),
                c.reward is not None,
                c.terminated is not None,
                c.success is not None,
            ),
            flow=recipe.settings(FlowConfig, self.recipe["flow"]),
            codec=codec,
            proprio_names=names,
            task=data["task"],
            extra={"data": data, "recipe": self.recipe, "seed": self.seed},
        )
        torch.manual_seed(self.seed)
        starts = recipe.start_bank(self.arrays, self.columns, data["context"], data["starts"], self.seed)
        world = WorldModel(
            config, SanaTransformer(config.transformer), self.tokenizer_model, Heads(config.heads), starts
        )
        return world.to(self.device)

    def dynamics(self, world: WorldModel) -> None:
        """Train, or load the finished stage, in place."""
        section = self.recipe["dynamics"]
        loop = loop_config(section["loop"], self.seed)
        for module in (world.transformer, world.heads):
            module.requires_grad_(True)
        recipe.train_dynamics(
            world.transformer, world.heads, world.config.flow, recipe.settings(DynamicsLoss, section["loss"]), loop,
            world.codec, self.latents, self.arrays, self.columns, self.folder, self.device, self.log,
            lambda: recipe.imagined_errors(world, self.arrays, self.columns),
        )  # fmt: skip


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
        job.dynamics(world)
        if stage == "dynamics":
            return
        folder = job.folder / "world"
        world.card = write_card(world.config, job.folder)
        world.save_pretrained(folder)
        job.log.console.print(f"world saved: [bold]{folder}[/bold]")
        if stage == "bundle":
            return
        from sana_wm.evaluation import evaluate
        from sana_wm.evaluation.report import print_report

        result = evaluate(
            world,
            job.dataset,
            camera=job.columns.camera,
            quick=config["quick_evaluation"],
            out=job.folder / "evaluation",
            show_progress=True,
        )
        print_report(result, job.log.console)
        job.log.scalars(0, flatten("evaluation", result))
        world.card = write_card(world.config, job.folder, result)
        world.save_pretrained(folder)
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
