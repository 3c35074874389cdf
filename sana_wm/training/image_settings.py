"""The settings of a text-to-image run, checked where they enter; each is explained in ``configs/train_image.yaml``."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

import torch

from sana_wm.models.family import FAMILY, IMAGE, from_diffusers, to_diffusers
from sana_wm.models.sana_config import SanaConfig
from sana_wm.training.finetune_lora import LoraSettings
from sana_wm.training.image_data import ImageData
from sana_wm.training.image_stage import ImageLoss
from sana_wm.training.loop import LoopConfig
from sana_wm.training.recipe import settings
from sana_wm.training.run import loop_config

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SIZES = ("width", "depth", "heads", "text_heads", "mlp_ratio", "qk_norm", "positions", "interpolation")


@dataclass(frozen=True)
class ImageSettings:
    """What is to be learned, and how. loss: without its ``shift`` where that is the release's."""

    data: ImageData
    loop: LoopConfig
    loss: dict[str, Any]
    init: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    method: str = "full"
    lora: LoraSettings | None = None
    base: str = "auto"
    checkpointing: bool = False
    samples: int = 8
    guidance: float | None = None
    weights: str = "auto"

    def __post_init__(self):
        if self.method not in ("lora", "full"):
            raise ValueError(f"method={self.method!r}: expected full or lora")
        if self.method == "lora" and self.init is None:
            raise ValueError("method=lora changes a network that is there: name it with init=, or take method=full")
        if self.method == "lora" and importlib.util.find_spec("peft") is None:
            raise ValueError("method=lora needs peft: pip install 'sana-wm[lora]'")
        if (self.init is None) == (not self.model):
            got = "neither" if self.init is None else "both"
            raise ValueError(
                f"got {got} of init and model, expected one: init=<release> to fine-tune it, or model=<preset> "
                "(model.width=... and so on) to train from scratch"
            )
        if self.base not in ("auto", "bfloat16", "float32"):
            raise ValueError(f"base={self.base!r}: expected auto, bfloat16 or float32")
        if self.weights not in ("auto", *PRECISIONS):
            raise ValueError(f"weights={self.weights!r}: expected auto or one of {', '.join(PRECISIONS)}")
        if self.loop.compile != "off":
            raise ValueError(f"loop.compile={self.loop.compile}: expected off")
        if self.samples < 0:
            raise ValueError(f"samples={self.samples}: expected 0 or more")
        self.image_loss(3.0)

    def image_loss(self, shift: float) -> ImageLoss:
        """The loss, with the release's shift where none is given."""
        given = {name: value for name, value in self.loss.items() if name != "shift" or value is not None}
        return settings(ImageLoss, {"shift": shift} | given)

    @classmethod
    def from_config(cls, values: dict[str, Any]) -> ImageSettings:
        """Of the whole configuration; what is the run's own (folders, device, logging) is left aside."""
        own = ("stage", "out", "cache", "device", "seed", "wandb", "parts", "instruction")
        seed, values = values["seed"], {name: value for name, value in values.items() if name not in own}
        lora = settings(LoraSettings, values.get("lora") or {}) if values.get("method") == "lora" else None
        parts = {
            "data": settings(ImageData, values["data"]),
            "loop": loop_config(values.get("loop") or {}, seed),
            "loss": dict(values.get("loss") or {}),
            "model": {name: value for name, value in (values.get("model") or {}).items() if value is not None},
            "lora": lora,
        }
        return settings(cls, values | parts)


def new_config(model: dict[str, Any], base: int | None, cell: int, channels: int, text_dim: int) -> SanaConfig:
    """Of a network from scratch. Small numbers are those of diffusers, so that both compute the same.

    Args:
        model: preset, or sizes (:data:`SIZES`), or a preset with other sizes. base: in pixels; None: the preset's.
        channels, text_dim: of the autoencoder and the text encoder.

    Raises:
        ValueError: an unknown preset or size, one of a member that makes no images or is distilled, no size at all.
    """
    sizes = {name: value for name, value in model.items() if name != "preset"}
    if unknown := sorted(set(sizes) - set(SIZES)):
        raise ValueError(f"model.{unknown[0]}: expected preset or one of {', '.join(SIZES)}")
    preset, values = model.get("preset"), from_diffusers(IMAGE, {})
    images = [
        n for n, known in FAMILY.items() if known.get("positions") in ("none", "sincos") and not known.get("guidance")
    ]
    if preset is not None:
        if preset not in images:
            raise ValueError(f"model={preset}: expected one of {', '.join(images)}, or sizes as model.width=...")
        values = from_diffusers(IMAGE, to_diffusers(SanaConfig.from_dict(FAMILY[preset])))
    elif lost := [name for name in ("width", "depth", "heads") if name not in sizes]:
        raise ValueError(f"model.{lost[0]} is missing: a network of no preset needs width, depth and heads")
    else:
        values |= {"text_heads": 0, "sample_size": 0}
    if base is None and not values["sample_size"]:
        raise ValueError("size is missing: the side in pixels of a square picture, such as size=512")
    side = values["sample_size"] if base is None else base // cell
    taken = {"in_channels": channels, "text_dim": text_dim, "sample_size": side}
    return SanaConfig.from_dict(values | sizes | taken)
