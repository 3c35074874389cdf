"""What of a transformer is trained: all of it, or low-rank updates of its linear maps through PEFT."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from sana_wm.models.transformer import SanaTransformer

# Linear maps of attention (its camera branch among them), cross-attention and FFN.
TARGETS = (
    r"blocks\.\d+\.(attn\.(qkv|proj|output_gate|camera\.(q_proj|k_proj|v_proj|out_proj))"
    r"|text_attn\.(q|kv|proj)|ffn\.(inverted|point))"
)
# Zero at the start, so not a matter of low rank: trained in full, and saved with the adapter.
OF_ACTIONS = ("action_embedder", "action_time_proj", "action_proj")


@dataclass(frozen=True)
class LoraSettings:
    """rank: of an update; it is scaled by alpha / rank."""

    rank: int = 32
    alpha: float = 32

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"finetune.lora.rank={self.rank}: expected at least 1")


class Trained(nn.Module):
    """The parameters of a network that are trained, as a module of their own.

    The training loop keeps, averages and saves what its module holds: of a network with low-rank updates not the
    gigabytes that do not change.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        found = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.parameters_by_name = nn.ParameterDict({name.replace(".", "/"): p for name, p in found.items()})

    @property
    def count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def add_lora(transformer: SanaTransformer, settings: LoraSettings, base: str, seed: int):
    """Low-rank updates in the network, in place; nothing changes until they are trained. -> PEFT's model around it.

    Everything else is frozen but what takes actions in; what is trained is float32, whatever the rest is.

    Args:
        base: what the weights were read from, for adapter_config.json.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=TARGETS,
        modules_to_save=list(OF_ACTIONS),
    )
    torch.manual_seed(seed)
    model = get_peft_model(transformer, config)
    config.base_model_name_or_path = base
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def save_adapter(model, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, the action tensors among them.

    ``PeftModel.from_pretrained(transformer, folder)`` reads them into a network of the same configuration. To run as a
    stream it has to be merged (``merge_and_unload``): the mixer's memory reads weights, not modules.
    """
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    for path in folder.iterdir():  # safetensors writes for the owner alone
        path.chmod(0o644)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; the world's card says what this is


def train_everything(transformer: SanaTransformer) -> None:
    """Let every weight learn that a computation reads."""
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(not (".unused." in name or name.startswith("raymap_embedder.")))


def as_claims(settings: LoraSettings | None) -> dict[str, float]:
    """What a checkpoint notes of it."""
    return {} if settings is None else {f"finetune.lora.{name}": value for name, value in asdict(settings).items()}
