"""`python -m sana_wm.train`: data (recorded if absent) -> tokenizer -> latents -> dynamics and heads -> bundle."""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf


@hydra.main(config_path="pkg://sana_wm.configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    from sana_wm.data import DatasetError
    from sana_wm.training.loop import Interrupted
    from sana_wm.training.run import run

    try:
        run(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except Interrupted as stop:
        print(f"\n{stop}")
        sys.exit(130)
    except (DatasetError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
