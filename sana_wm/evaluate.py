"""`python -m sana_wm.evaluate`: measure a world on held-out episodes and in the real simulator.

Prints tables; writes `evaluation.json` and `film.png` (real above imagined) into `out`.
"""

from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from sana_wm.data import DatasetError, LeRobotDataset
from sana_wm.data.splits import split_episodes
from sana_wm.evaluation import evaluate
from sana_wm.evaluation.planning import planning_config
from sana_wm.evaluation.report import print_report
from sana_wm.world import WorldModel


def run(cfg: DictConfig) -> dict:
    """Evaluate as configured in configs/evaluate.yaml; returns the result that is written as JSON."""
    world = WorldModel.from_pretrained(cfg.world, device=device_named(cfg.device))
    dataset = LeRobotDataset(cfg.data)
    if cfg.split not in ("validation", "test"):
        raise ValueError(f"split must be 'validation' or 'test', got {cfg.split!r}: training episodes prove nothing")
    return evaluate(
        world,
        dataset,
        episodes=split_episodes(dataset.num_episodes)[cfg.split],
        parts=list(cfg.parts),
        quick=cfg.quick,
        windows=cfg.windows,
        pairs=cfg.pairs,
        camera=cfg.camera,
        planning=planning_config(OmegaConf.to_container(cfg.planner, resolve=True)),
        lanes=cfg.lanes,
        workers=cfg.workers,
        seed=cfg.seed,
        out=cfg.out,
        show_progress=True,
    )


def device_named(name: str) -> str:
    """Resolve "auto" to the GPU if there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


@hydra.main(config_path="pkg://sana_wm.configs", config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    try:
        result = run(cfg)
    except (DatasetError, ValueError, FileNotFoundError) as error:
        raise SystemExit(f"evaluate: {error}") from error
    print_report(result)
    print(f"\n{Path(cfg.out) / 'evaluation.json'}\n{Path(cfg.out) / 'film.png'}")


if __name__ == "__main__":
    main()
