"""`python -m sana_wm.evaluate`: how far a world can be trusted, on held-out episodes and against the real simulator.

Prints tables; writes `report.html`, `evaluation.json` and film strips into `out`, anew after every part.
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
