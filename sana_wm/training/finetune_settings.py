"""The settings of a fine-tuning run, checked where they enter."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

from sana_wm.diffusion.flow import TIMESTEPS, sigma_grid
from sana_wm.models.presets import PRESETS
from sana_wm.training.finetune_data import ClipSettings, RobotData
from sana_wm.training.finetune_lora import LoraSettings
from sana_wm.training.finetune_stage import FinetuneLoss
from sana_wm.training.loop import LoopConfig
from sana_wm.training.recipe import Bounds, settings
from sana_wm.training.run import loop_config

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class FinetuneSettings:
    """The recipe; every setting is explained in ``configs/finetune/lora.yaml``."""

    method: str
    lora: LoraSettings | None
    loss: FinetuneLoss
    loop: LoopConfig
    clips: ClipSettings = ClipSettings()
    preset: str | None = None
    window: int = 6
    sink: int = 1
    fov: float = 60.0
    denoising_steps: int = 8
    shift: float = 9.95
    base: str = "auto"
    checkpointing: bool = True

    def __post_init__(self):
        if self.method not in ("lora", "full"):
            raise ValueError(f"finetune.method={self.method!r}: expected lora or full")
        if (self.method == "lora") != (self.lora is not None):
            raise ValueError(f"finetune.method={self.method} with finetune.lora={self.lora}: it belongs to lora alone")
        if self.base not in ("auto", "bfloat16", "float32"):
            raise ValueError(f"finetune.base={self.base!r}: expected auto, bfloat16 or float32")
        if self.base == "bfloat16" and self.method == "full":
            raise ValueError("finetune.base=bfloat16 loses the small updates of finetune=full: expected float32")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"finetune.preset={self.preset!r}: expected one of {', '.join(PRESETS)}")
        if self.window < 1 or self.sink < 0:
            raise ValueError(
                f"finetune.window={self.window}, sink={self.sink}: expected at least 1 and 0 latent frames"
            )
        if self.loop.compile != "off":
            raise ValueError(f"finetune.loop.compile={self.loop.compile}: expected off")
        if self.denoising_steps < 1 or not self.shift > 0:
            raise ValueError(
                f"finetune.denoising_steps={self.denoising_steps}, shift={self.shift}: expected at least 1, above 0"
            )

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Of a step of the world: even noise levels, shifted as in training, without fraction."""
        return tuple((sigma_grid(self.denoising_steps, self.shift) * TIMESTEPS).round().tolist())

    @classmethod
    def from_config(cls, values: dict[str, Any], seed: int) -> FinetuneSettings:
        values = dict(values)
        parts = {
            "lora": None if values.get("lora") is None else settings(LoraSettings, values["lora"]),
            "loss": settings(FinetuneLoss, values.get("loss") or {}),
            "loop": loop_config(values.get("loop") or {}, seed),
            "clips": settings(ClipSettings, values.get("clips") or {}),
        }
        return settings(cls, values | parts)


def robot_data(values: dict[str, Any]) -> RobotData:
    """The data section. What only the recipe from scratch uses (``data=lerobot``) is left aside."""
    scratch = {"collect", "context"}
    columns = {key: value for key, value in (values.get("columns") or {}).items() if key in ("camera", "action")}
    bounds = settings(Bounds, values.get("bounds") or {})
    values = {key: value for key, value in values.items() if key not in scratch}
    mapping = values.get("mapping") or {}
    return settings(RobotData, values | {"columns": columns, "bounds": bounds, "mapping": mapping})


def check_extras(method: str) -> None:
    """Raises:
    ValueError: a package that the run needs, and that only an extra of this one installs, is not there.
    """
    needed = {"diffusers": "ltx"} | ({"peft": "lora"} if method == "lora" else {})
    if absent := [name for name in needed if importlib.util.find_spec(name) is None]:
        extras = ",".join(needed[name] for name in absent)
        raise ValueError(f"fine-tuning needs {' and '.join(absent)}: pip install 'sana-wm[{extras}]'")
