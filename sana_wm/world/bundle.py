"""Bundles: the folder that a world is saved in. Safetensors and json only; written whole or not at all."""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sana_wm.world.config import WorldConfig
from sana_wm.world.starts import Starts
from sana_wm.world.trust import Trust, trust_shapes

SHIPPED = Path(__file__).resolve().parent.parent / "worlds"
TRUST = "trust.safetensors"
TRUST_FORMAT = "sana_wm.trust.1"
CALIBRATE = "calibrate the world again (python -m sana_wm.calibrate)"


def shipped_worlds() -> list[str]:
    """Names of the worlds that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))


def locate(name_dir_or_repo: str | os.PathLike) -> Path:
    """A bundle's folder: a path, the name of a shipped world, or a hub repository.

    Raises:
        ValueError: there is no such world.
    """
    path = Path(name_dir_or_repo)
    if (path / "config.json").is_file():
        return path
    if not path.exists() and (_previous(path) / "config.json").is_file():
        return _previous(path)  # a save was killed between its two renames
    name = str(name_dir_or_repo)
    if (SHIPPED / name / "config.json").is_file() and "/" not in name:
        return SHIPPED / name
    known = f"shipped worlds: {', '.join(shipped_worlds()) or 'none'}"
    if path.exists():
        raise ValueError(f"{path} has no config.json: expected a folder that WorldModel.save_pretrained wrote; {known}")
    if name.count("/") == 1 and not name.startswith((".", "/")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise ValueError(
                f"world {name!r} is not a folder here and could not be fetched from the hub ({error}); {known}"
            ) from error
    raise ValueError(f"unknown world {name!r}: not a folder, not a shipped world; {known}")


def read_config(folder: Path) -> WorldConfig:
    try:
        return WorldConfig.from_dict(json.loads((folder / "config.json").read_text()))
    except (OSError, json.JSONDecodeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing; fetch or save the world again, whole") from error
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); fetch or save the world again") from error


def load_part(module: nn.Module, path: Path) -> None:
    """Weights into a module, every missing, extra or misshapen tensor named.

    Raises:
        ValueError: they do not fit.
    """
    found = _tensors(path)
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in wanted]
    problems += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    if problems:
        raise ValueError(f"{path} does not fit config.json: {'; '.join(problems)}")
    module.load_state_dict(found)


def load_starts(folder: Path) -> Starts:
    tensors = _tensors(folder / "starts.safetensors")
    if set(tensors) != {"frames", "actions"}:
        raise ValueError(f"{folder / 'starts.safetensors'} holds {sorted(tensors)}, expected actions and frames")
    return Starts(tensors["frames"].numpy(), tensors["actions"].numpy())


def load_trust(folder: Path, config: WorldConfig) -> Trust | None:
    """The calibration beside the weights. None: there is none, or (with a warning) it is that of other weights.

    Raises:
        ValueError: a file that is damaged or does not fit the world.
    """
    path = folder / TRUST
    if not path.exists():
        return None
    tensors = _tensors(path)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    version, _, weights = str(header.get("__metadata__", {}).get("format")).partition(" weights=")
    if version != TRUST_FORMAT:
        raise ValueError(f"{path}: format {version!r}, this version reads {TRUST_FORMAT!r}; {CALIBRATE}")
    known = tensors["places"].shape if tensors.get("places", torch.zeros(0)).ndim == 2 else (0, 1)
    wanted = trust_shapes(config, known[0], known[1] - 1)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted:
        wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        told = "; ".join(f"{name} is {found.get(name)}, expected {wanted.get(name)}" for name in wrong)
        raise ValueError(f"{path} does not fit config.json: {told}; {CALIBRATE}")
    broken = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    broken += ["quantiles"] if not (tensors["quantiles"] > 0).all() else []
    if broken:
        raise ValueError(f"{path}: {broken} hold numbers that no calibration makes; {CALIBRATE}")
    if weights != _digest(folder):
        warnings.warn(f"{path} was calibrated for other weights and is left aside; {CALIBRATE}", stacklevel=3)
        return None
    return Trust(tensors)


def save_trust(folder: Path, trust: Trust) -> None:
    """Write a calibration beside the weights that it was made for, whole or not at all."""
    tensors = trust.tensors()
    tensors["places"] = tensors["places"].half()  # most of the file
    # one entry: safetensors does not order them, and equal calibrations shall be equal files
    facts = {"format": f"{TRUST_FORMAT} weights={_digest(folder)}"}
    partial = folder / f"{TRUST}.partial"
    save_file(tensors, partial, metadata=facts)
    partial.chmod(0o644)
    os.replace(partial, folder / TRUST)


def _digest(folder: Path) -> str:
    """Of all networks of a bundle: a calibration rests on each of them."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in (TRUST, "starts.safetensors"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _previous(folder: Path) -> Path:
    """Where the old bundle stands while a new one takes its place."""
    folder = folder.absolute()  # "." has no name
    return folder.with_name(folder.name + ".old")


def save_bundle(
    folder: Path,
    config: WorldConfig,
    parts: dict[str, nn.Module],
    starts: Starts,
    card: str,
    dtype: torch.dtype | None = None,
    trust: Trust | None = None,
) -> None:
    """Write beside the target and swap it in; an existing bundle is replaced only by a complete one.

    ``dtype`` stores the weights in another precision; they load back as what the networks use. Measured statistics
    (the buffers) keep theirs: a half cannot hold every dataset's units.

    Raises:
        ValueError: the folder holds something else than a bundle, which would be lost.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (folder / "config.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not a bundle and not empty: saving would delete it; choose a new folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    for name, module in parts.items():
        tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in module.state_dict().items()}
        if dtype is not None:
            tensors |= {key: tensors[key].to(dtype) for key, _ in module.named_parameters()}
        save_file(tensors, partial / f"{name}.safetensors")
    frames, actions = (np.ascontiguousarray(array) for array in (starts.frames, starts.actions))
    save_file(
        {"frames": torch.from_numpy(frames), "actions": torch.from_numpy(actions)}, partial / "starts.safetensors"
    )
    (partial / "card.md").write_text(card)
    if trust is not None:
        save_trust(partial, trust)
    for path in partial.iterdir():  # safetensors writes for the owner alone; an installed world is read by everybody
        path.chmod(0o644)
    old = _previous(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
