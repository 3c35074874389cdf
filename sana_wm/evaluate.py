"""`python -m sana_wm.evaluate`: measure a world on held-out episodes and in the real simulator.

Prints tables; writes `evaluation.json` and `film.png` (real above imagined) into `out`.
"""

import hydra
from omegaconf import DictConfig, OmegaConf


@hydra.main(config_path="pkg://sana_wm.configs", config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from sana_wm.data import DatasetError
    from sana_wm.evaluation.run import evaluate_bundle

    settings = OmegaConf.to_container(cfg, resolve=True)
    try:
        evaluate_bundle(settings.pop("world"), **settings)
    except (DatasetError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
