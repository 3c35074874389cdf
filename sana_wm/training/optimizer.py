"""Optimizers: AdamW; Muon for the hidden matrices with AdamW for everything else; CAME from pytorch_optimizer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sana_wm.training.checkpoint import under


@dataclass(frozen=True)
class OptimizerConfig:
    """``name``: "adamw", "muon" (torch >= 2.9) or "came". Rates are peaks; the loop scales all by its schedule.

    Muon (Jordan et al. 2024) orthogonalises the momentum of matrices; with few steps it learns faster. Its rate is
    matched to the root mean square of AdamW's updates, so one ``lr`` serves both.

    CAME (Luo et al. 2023), which the SANA family was trained with, keeps the second moments of a matrix as those of its
    rows and columns. Its third decay is 0.9999 unless ``betas`` has three, and ``eps`` is AdamW's alone.
    """

    name: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8  # of AdamW
    weight_decay: float = 0.01


def _came() -> type[torch.optim.Optimizer]:
    try:
        from pytorch_optimizer import CAME
    except ImportError as error:
        raise ValueError("optimizer 'came' needs pytorch_optimizer: pip install 'sana-wm[came]'") from error
    return CAME


class Optimizer:
    """One or two torch optimizers behind one surface, with their state as flat tensors."""

    def __init__(self, model: nn.Module, config: OptimizerConfig):
        params = [p for p in model.parameters() if p.requires_grad]
        betas = tuple(config.betas)
        if len(betas) != 2 and (config.name != "came" or len(betas) != 3):
            raise ValueError(f"betas={list(betas)} of {config.name!r}: expected two, of 'came' two or three")
        adamw = {
            "lr": config.lr, "betas": betas, "eps": config.eps, "weight_decay": config.weight_decay,
            "fused": True,
        }  # fmt: skip
        if config.name == "adamw":
            self.parts = [torch.optim.AdamW(params, **adamw)]
        elif config.name == "muon":
            if not hasattr(torch.optim, "Muon"):
                raise ValueError(f"optimizer 'muon' needs torch 2.9 or later, this is {torch.__version__}: use 'adamw'")
            matrices = [p for p in params if p.ndim == 2 and min(p.shape) > 16]
            chosen = {id(p) for p in matrices}
            muon = torch.optim.Muon(
                matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            self.parts = [muon, torch.optim.AdamW([p for p in params if id(p) not in chosen], **adamw)]
        elif config.name == "came":
            betas = betas if len(betas) == 3 else (*betas, 0.9999)
            self.parts = [_came()(params, lr=config.lr, betas=betas, weight_decay=config.weight_decay)]
        else:
            raise ValueError(f"optimizer {config.name!r}: expected 'adamw', 'muon' or 'came'")
        self.lr = config.lr

    def scale_lr(self, factor: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * factor

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """Flat: ``<part>.<parameter index>.<name>``."""
        flat = {}
        for number, part in enumerate(self.parts):
            for index, entry in part.state_dict()["state"].items():
                flat |= {f"{number}.{index}.{name}": torch.as_tensor(value) for name, value in entry.items()}
        return flat

    def load(self, tensors: dict[str, Tensor]) -> None:
        for number, part in enumerate(self.parts):
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in under(str(number), tensors).items():
                index, key = name.split(".", 1)
                state.setdefault(int(index), {})[key] = tensor
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
