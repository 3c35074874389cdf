"""`python -m sana_wm.train`: a dataset in, a world out.

From scratch: data (recorded if absent) -> tokenizer -> latents -> dynamics and heads -> bundle. With ``init=``: a
SANA-WM release fine-tuned to the dataset's actions -> a release of its own. With ``stage=image`` or ``stage=sprint``:
the text-to-image members of the family, learned from pictures and distilled to one step.
"""

import re
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

IMAGE_STAGES = {"image": "train_image", "sprint": "train_sprint"}  # stage -> its settings, configs/<name>.yaml


@hydra.main(config_path="pkg://sana_wm.configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    from sana_wm.job import check_device, plain_errors
    from sana_wm.training.occupied import occupied

    with plain_errors("what is finished is kept, and the same command goes on from there"):
        check_device(config.device)
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        with occupied(values["out"]):
            _train(values)


def _train(values: dict[str, Any]) -> None:
    if values.get("stage") == "image":
        from sana_wm.training.image import train_images

        _without_bars()
        train_images(values)
    elif values.get("stage") == "sprint":
        from sana_wm.training.sprint import distil

        distil(values)
    elif "init" in values:
        from sana_wm.training.finetune import finetune

        _without_bars()
        finetune(values)
    else:
        from sana_wm.training.run import run

        run(values)


def _without_bars() -> None:
    """Silence the progress bars of the libraries that load and save networks: they would cut through the job's own."""
    import importlib.util

    import huggingface_hub
    import transformers

    huggingface_hub.utils.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if importlib.util.find_spec("diffusers"):
        import diffusers

        diffusers.utils.logging.disable_progress_bar()


def arguments(given: list[str]) -> list[str]:
    """The command line as Hydra takes it: ``data=`` may be a dataset, and ``init=`` chooses the fine-tuning.

    Raises:
        ValueError: ``data=`` is neither a configuration nor a dataset, or ``init=`` comes without it.
    """
    for stage, config in IMAGE_STAGES.items():
        if f"stage={stage}" in given:
            return [f"--config-name={config}", *_of_pictures(given)]
    finetunes = any(argument.startswith("init=") for argument in given)
    chosen, rewritten = None, []
    for argument in given:
        if not argument.startswith("data="):
            rewritten.append(argument)
            continue
        chosen = argument.removeprefix("data=")
        if finetunes and chosen == "lerobot":  # of any robot, too, but with settings of small worlds
            chosen, argument = "robot", "data=robot"
        rewritten += [argument] if chosen in _configurations() else _dataset(chosen, finetunes, given)
    if "init=" in given:
        raise ValueError("init= is empty: expected the folder, name or hub repository of a SANA-WM release")
    if finetunes and chosen is None and not any(argument.startswith("data.root=") for argument in given):
        raise ValueError("init= fine-tunes a checkpoint to a dataset: add data=<folder of a LeRobot dataset>")
    return (["--config-name=finetune"] if finetunes else []) + rewritten


def _of_pictures(given: list[str]) -> list[str]:
    """``data=``, ``model=`` and ``tokenizer=`` are groups of configurations elsewhere; here folders, and a preset."""
    short = {"data": "data.root", "model": "model.preset"}
    short |= {name: f"parts.{name}" for name in ("vae", "text_encoder", "tokenizer")}
    split = [argument.partition("=") for argument in given]
    return [f"{short[name]}={_quoted(value)}" if name in short else name + is_ + value for name, is_, value in split]


def _configurations() -> list[str]:
    from importlib.resources import files

    return sorted(path.name.removesuffix(".yaml") for path in (files("sana_wm.configs") / "data").iterdir())


def _dataset(name: str, finetunes: bool, given: list[str]) -> list[str]:
    """``data=<folder or hub repository>`` as settings."""
    folder, configuration = Path(name.strip("'\"")).expanduser(), "robot" if finetunes else "lerobot"
    if not (folder / "meta" / "info.json").is_file():
        found = "no such folder" if not folder.exists() else "a folder without meta/info.json"
        if folder.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
            raise ValueError(
                f"data={name}: {found}; expected the folder of a LeRobot dataset, a hub repository such as "
                f"lerobot/pusht, or one of {', '.join(_configurations())}"
            )
    settings = [f"data={configuration}", f"data.root={_quoted(str(folder))}"]
    if not any(argument.startswith("data.name=") for argument in given):
        settings.append(f"data.name={_quoted(folder.resolve().name)}")
    return settings


def _quoted(text: str) -> str:
    """A value as Hydra's grammar takes any text."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def start() -> None:
    """What ``python -m sana_wm.train`` runs."""
    try:
        sys.argv[1:] = arguments(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    main()


if __name__ == "__main__":
    start()
