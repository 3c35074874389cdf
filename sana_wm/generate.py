"""`python -m sana_wm.generate`: a picture, a prompt and a camera path in, a video out.

    python -m sana_wm.generate model=sana-wm image=photo.png prompt="A street at dusk" action="w-100,dw-60"

Writes an MP4 that can be played while it grows and that holds its settings; prints what was made, how fast, and the
memory it took. Settings: configs/generate/generate.yaml, or `--help`.

    python -m sana_wm.generate model=sana-1600m prompt="A street at dusk"

With an image member of the family it writes PNG files, one for each prompt. Settings: configs/generate/image.yaml, or
`model=sana-1600m --help`.

    python -m sana_wm.generate model=sana-video-2b prompt="A street at dusk" image=photo.png
    python -m sana_wm.generate model=longsana-2b prompt="A street at dusk" seconds=60

With a video member it writes MP4 files from prompts, or from a picture and prompts; LongSANA's may be of any length.
Settings: configs/generate/clip.yaml, or `model=sana-video-2b --help`.
"""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sana_wm.generation.command_line import quoted_arguments, value_of
from sana_wm.generation.which_job import job_of
from sana_wm.job import check_device, plain_errors


def run(cfg: DictConfig, console: Console | None = None) -> str:
    """Generate as configured; returns the line that says what was made."""
    if "images" in cfg:
        return _run_images(cfg, console)
    if "videos" in cfg:
        return _run_clips(cfg, console)
    from sana_wm.generation.settings import GenerateSettings  # torch is slow to import, and --help does not need it

    settings = GenerateSettings.from_config(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    check_device(settings.device)

    from sana_wm.generation.pipeline import generate

    made = generate(settings, console)
    worked = made.seconds - made.loading
    return (
        f"{made.path}: {made.frames} frames in {worked:.1f} s ({made.frames / worked:.2f} frames/s; reading weights "
        f"{made.loading:.1f} s more), peak {made.memory} {made.peak / 1e9:.2f} GB"
    )


def _run_images(cfg: DictConfig, console: Console | None) -> str:
    from sana_wm.generation.image_settings import ImageSettings

    settings = ImageSettings(**OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    check_device(settings.device)

    from sana_wm.generation.image_job import generate_images

    made = generate_images(settings, console)
    if settings.plan:
        return _planned(made.peak)
    first, last = made.paths[0], made.paths[-1]
    name = str(first) if first == last else f"{len(made.paths)} pictures, {first} to {last.name}"
    return f"{name}: {made.seconds:.1f} s, reading weights included, peak {made.memory} {made.peak / 1e9:.2f} GB"


def _run_clips(cfg: DictConfig, console: Console | None) -> str:
    from sana_wm.generation.clip_settings import ClipSettings

    settings = ClipSettings(**OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    check_device(settings.device)

    from sana_wm.generation.clip_job import generate_clips

    made = generate_clips(settings, console)
    if settings.plan:
        return _planned(made.peak)
    first, last = made.paths[0], made.paths[-1]
    name = str(first) if first == last else f"{len(made.paths)} videos, {first} to {last.name}"
    worked = made.seconds - made.loading
    return (
        f"{name}: {made.frames} frames in {worked:.1f} s ({made.frames / worked:.2f} frames/s; reading weights "
        f"{made.loading:.1f} s more), peak {made.memory} {made.peak / 1e9:.2f} GB"
    )


def _planned(peak: int) -> str:
    return f"nothing was made: expected peak {peak / 1e9:.2f} GB"


@hydra.main(config_path="pkg://sana_wm.configs.generate", config_name="generate", version_base="1.3")
def _job(cfg: DictConfig) -> None:
    from sana_wm.generation.memory import avoid_holes

    avoid_holes()
    try:
        with plain_errors("nothing was written"):
            print(run(cfg))
    except ImportError as error:  # an extra that is not installed; the message says which
        sys.exit(f"error: {error}")


def main() -> None:
    model, arguments = value_of("model", sys.argv[1:]), quoted_arguments(sys.argv[1:])
    with plain_errors("nothing was written"):
        job = job_of(model) if model else "generate"
    sys.argv[1:] = arguments if job == "generate" else [f"--config-name={job}", *arguments]
    _job()


if __name__ == "__main__":
    main()
