"""The parts of a text-to-image run, a release's or given one by one, and the release that it ends as."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from sana_wm.generation.image_release import (
    TRAINED_HERE,
    base_of,
    compression_of,
    locate_image_release,
    sampling_of,
)
from sana_wm.generation.image_sampling import Sampling
from sana_wm.models.transformer import SanaTransformer

INDEX = "model_index.json"
FLOW_PIPELINES = ("SanaPipeline", "SanaPAGPipeline")
OTHERS = ("vae", "text_encoder", "tokenizer")  # parts that are not trained


@dataclass(frozen=True)
class ImageParts:
    """Attributes:
    transformer: what is fine-tuned; None: nothing, the network is new.
    sampling: of the release; None where there is none. base: side in pixels that it was trained at, likewise.
    index: of the pipeline, {} where there is none.
    """

    vae: Path
    text_encoder: Path
    tokenizer: Path
    transformer: Path | None = None
    scheduler: Path | None = None
    sampling: Sampling | None = None
    base: int | None = None
    index: dict | None = None

    @property
    def compression(self) -> int:
        return compression_of(self.vae)


def locate_parts(init: str | None, given: dict[str, str | None]) -> ImageParts:
    """Of a release, with what is given in place of its own; without ``init`` all three have to be given.

    Args:
        given: folders of :data:`OTHERS`.

    Raises:
        ValueError: folders that are not there, or a release of a kind that is not trained like this.
    """
    if unknown := sorted(set(given) - set(OTHERS)):
        raise ValueError(f"parts.{unknown[0]}: expected one of {', '.join(OTHERS)}")
    paths = {name: Path(path).expanduser() for name, path in given.items() if path is not None}
    for name, path in paths.items():
        if not path.is_dir():
            raise ValueError(f"{name}={path}: no such folder")
    if init is None:
        if lost := [name for name in OTHERS if name not in paths]:
            raise ValueError(
                f"without init= a network is trained from scratch, and {', '.join(f'{name}=' for name in lost)} must "
                "name the folder of a part: the DC-AE, the Gemma-2 text encoder and its tokenizer, as diffusers and "
                "transformers save them"
            )
        return ImageParts(**paths)
    folder = locate_image_release(init)
    file = folder / INDEX
    index = json.loads(file.read_text()) if file.is_file() else {}
    sampling = sampling_of(init, folder)
    if index.get("_class_name", FLOW_PIPELINES[0]) not in FLOW_PIPELINES or sampling.sampler != "dpm-solver":
        raise ValueError(
            f"init={init} is a {index.get('_class_name', 'Sprint')}: stage=image trains flow models such as "
            "sana-1600m; Sprint members are distilled from one with stage=sprint"
        )
    here = {name: folder / name for name in OTHERS} | paths
    transformer, scheduler = folder / "transformer", folder / "scheduler"
    return ImageParts(
        **here, transformer=transformer, scheduler=scheduler, sampling=sampling, base=base_of(folder), index=index
    )


def write_release(folder: Path, transformer: SanaTransformer, parts: ImageParts, sampling: Sampling, card: str) -> None:
    """A release in diffusers' layout: its index, the transformer, and the other parts as they are.

    Weights of the other parts are hard links where the file system allows it, which take no room, and copies elsewhere.
    A folder that is there already is replaced when the new one is whole.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="diffusers has no setting for")  # of the release that was fine-tuned
        transformer.save_pretrained(partial / "transformer", layout="diffusers")
    for name in OTHERS:
        _link(getattr(parts, name), partial / name)
    if parts.scheduler is not None:
        _link(parts.scheduler, partial / "scheduler")
    scheduler = partial / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir(exist_ok=True)
    told = json.loads(scheduler.read_text()) if scheduler.is_file() else _scheduler()
    told["shift" if "shift" in told and "flow_shift" not in told else "flow_shift"] = sampling.shift
    told[TRAINED_HERE] = True
    scheduler.write_text(json.dumps(told, indent=1) + "\n")
    index = parts.index or _index(parts, told["_class_name"])
    (partial / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    (partial / "card.md").write_text(card)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def sampling_with(parts: ImageParts, shift: float | None) -> Sampling:
    """How the result is sampled, with the flow shift that it is trained at; None: the release's own."""
    sampling = parts.sampling or Sampling()
    return sampling if shift is None else replace(sampling, shift=float(shift))


def _link(source: Path, target: Path) -> None:
    """A folder's files beside each other; JSON and text are copied, since those get edited."""
    for path in sorted(file for file in source.rglob("*") if file.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            try:
                os.link(path.resolve(), place)
                continue
            except OSError:  # another file system, or one without links
                pass
        shutil.copyfile(path, place)


def _scheduler() -> dict:
    return {
        "_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction",
        "algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "lower_order_final": True,
        "num_train_timesteps": 1000,
    }  # fmt: skip


def _index(parts: ImageParts, scheduler: str) -> dict:
    """model_index.json: which class of which library reads each folder."""
    encoder = json.loads((parts.text_encoder / "config.json").read_text()).get("architectures") or ["Gemma2Model"]
    file = parts.tokenizer / "tokenizer_config.json"
    words = json.loads(file.read_text()) if file.is_file() else {}
    index = {
        "_class_name": "SanaPipeline",
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", encoder[0]],
        "tokenizer": ["transformers", words.get("tokenizer_class", "GemmaTokenizer")],
        "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"],
    }
    try:
        return {"_diffusers_version": importlib.metadata.version("diffusers")} | index
    except importlib.metadata.PackageNotFoundError:
        return index
