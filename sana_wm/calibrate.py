"""`python -m sana_wm.calibrate`: the trust signals of a finished world, measured on its dataset (docs/trust.md).

Writes `trust.safetensors` into the bundle. Training does this by itself; this is for worlds whose weights or data are
new, or that were trained before there was trust.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

WINDOWS_SEED = 5  # of the windows that are measured; those of the calibration have the seed that is given


@hydra.main(config_path="pkg://sana_wm.configs", config_name="calibrate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from sana_wm.job import check_device, plain_errors

    settings = OmegaConf.to_container(cfg, resolve=True)
    with plain_errors("nothing was written"):
        check_device(cfg.device)
        calibrate_bundle(settings.pop("world"), settings.pop("dataset"), **settings)


def calibrate_bundle(
    world: str,
    dataset: str,
    *,
    camera: str | None = None,
    action: str | None = None,
    train_clips: int = 160,
    held_out_clips: int = 600,
    horizon: int = 25,
    seed: int = 0,
    device: str = "auto",
    measure: bool = False,
    windows: int = 200,
) -> dict[str, float]:
    """Calibrate the bundle `world` (a folder, or a shipped world) on `dataset` and write the result into it.

    Args:
        camera, action: columns of the dataset; those of the world's recipe by default, else its first and "action".
        train_clips, held_out_clips, horizon: see `sana_wm.training.trust_stage.TrustSettings`.
        measure: print how well the signals predict the true error in `windows` windows of the test split.

    Returns:
        The threshold of each signal.

    Raises:
        ValueError: a world or dataset that cannot be read or do not fit each other.
    """
    from rich.console import Console
    from rich.progress import Progress

    from sana_wm.data import LeRobotDataset
    from sana_wm.training.trust_stage import TrustSettings, calibrated
    from sana_wm.world import WorldModel
    from sana_wm.world.bundle import TRUST, locate, save_trust, shipped_worlds

    if world not in shipped_worlds() and not Path(world).is_dir():
        raise ValueError(
            f"world={world}: got no folder and no shipped world ({', '.join(shipped_worlds())}); the result is written "
            "into the bundle, so save a hub's world into a folder first"
        )
    folder = locate(world)
    model, episodes = WorldModel.from_pretrained(folder, device, trust=False), LeRobotDataset(dataset)
    columns = model.config.extra.get("data", {}).get("columns", {})
    settings = TrustSettings(train_clips, held_out_clips, horizon)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("calibrating", total=None)
        trust = calibrated(
            model,
            episodes,
            settings,
            camera=camera or columns.get("camera") or episodes.cameras[0],
            action=action or columns.get("action", "action"),
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    save_trust(folder, trust)
    for name, threshold in trust.thresholds.items():
        print(f"{name:18s} 1 means {threshold:.4g}")
    print(folder / TRUST)
    if measure:
        from sana_wm.data.splits import split_episodes
        from sana_wm.evaluation.tasks import task_of
        from sana_wm.evaluation.trust import trust_correlation, trust_table

        model.trust, recorded = trust, task_of(episodes)
        task = recorded if recorded is not None and recorded.reads(model) else None
        result = trust_correlation(
            model, episodes, split_episodes(episodes.num_episodes)["test"], windows=windows, horizon=horizon,
            task=task, seed=WINDOWS_SEED, camera=camera, action=action, show_progress=True,
        )  # fmt: skip
        for name in result["sets"]:
            Console().print(trust_table(result, name))
    return trust.thresholds


if __name__ == "__main__":
    main()
