"""`python -m sana_wm.train`: data (recorded if absent) -> tokenizer -> latents -> dynamics and heads -> bundle."""

import hydra
from omegaconf import DictConfig, OmegaConf


@hydra.main(config_path="pkg://sana_wm.configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    from sana_wm.job import check_device, plain_errors
    from sana_wm.training.run import run

    with plain_errors("what is finished is kept, and the same command goes on from there"):
        check_device(config.device)
        run(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


if __name__ == "__main__":
    main()
