"""`python -m sana_wm.evaluate`: measure a world on held-out episodes and in the real simulator.

Prints tables; writes `evaluation.json` and `film.png` (real above imagined) into `out`.
"""

import hydra
from omegaconf import DictConfig, OmegaConf


@hydra.main(config_path="pkg://sana_wm.configs", config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from sana_wm.evaluation.run import evaluate_bundle
    from sana_wm.job import check_device, plain_errors

    settings = OmegaConf.to_container(cfg, resolve=True)
    with plain_errors("what is measured so far is in out"):
        check_device(cfg.device)
        evaluate_bundle(settings.pop("world"), **settings)


if __name__ == "__main__":
    main()
