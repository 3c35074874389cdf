"""What a world is, as data: the ``config.json`` of a bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sana_wm.diffusion.flow import FlowConfig
from sana_wm.models.dc_ae import DCAEConfig
from sana_wm.models.heads import HeadsConfig
from sana_wm.models.refiner import RefinerConfig
from sana_wm.models.transformer import SanaConfig
from sana_wm.nn.proprio import proprio_channels
from sana_wm.world.action_codec import ActionCodec

FORMAT = "sana_wm.world.2"


@dataclass(frozen=True)
class WorldConfig:
    """Everything about a world except its weights and starts.

    Attributes:
        resolution: (H, W) of its frames. context: frames that ``begin`` gets from a start.
        max_episode_steps: default truncation of the environment.
        proprio_names: columns of ``Prediction.proprio``.
        extra: recipe, data and measured numbers, for people.
    """

    fps: float
    resolution: tuple[int, int]
    context: int
    max_episode_steps: int
    tokenizer: DCAEConfig
    transformer: SanaConfig
    heads: HeadsConfig
    flow: FlowConfig
    codec: ActionCodec
    refiner: RefinerConfig | None = None  # None: the first stage's pictures are final
    proprio_names: tuple[str, ...] = ()
    task: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "resolution", tuple(self.resolution))
        object.__setattr__(self, "proprio_names", tuple(self.proprio_names))
        if len(self.proprio_names) != self.heads.proprio_dim:
            raise ValueError(f"{len(self.proprio_names)} proprio names for {self.heads.proprio_dim} values of the head")
        if self.refiner and (self.refiner.channels, self.refiner.grid, self.refiner.proprio_dim) != (
            self.heads.channels,
            self.heads.grid,
            self.heads.proprio_dim,
        ):
            raise ValueError(
                f"the refiner {self.refiner} does not fit the heads {self.heads}: channels, grid and proprio_dim "
                "must be the same"
            )
        channels = self.heads.channels + proprio_channels(self.heads.proprio_dim, self.heads.grid)
        if self.transformer.in_channels != channels:
            raise ValueError(
                f"the transformer takes {self.transformer.in_channels} channels, the tokenizer and proprioception "
                f"make {channels}"
            )
        if self.codec.network_width != self.transformer.action_dim:
            raise ValueError(
                f"the codec makes {self.codec.network_width} numbers, the transformer takes "
                f"{self.transformer.action_dim}"
            )

    @property
    def has_reward(self) -> bool:
        return self.heads.reward

    @property
    def has_terminated(self) -> bool:
        return self.heads.terminated

    @property
    def has_success(self) -> bool:
        return self.heads.success

    def to_dict(self) -> dict:
        return {
            "format": FORMAT,
            "fps": self.fps,
            "resolution": list(self.resolution),
            "context": self.context,
            "max_episode_steps": self.max_episode_steps,
            "task": self.task,
            "proprio_names": list(self.proprio_names),
            "tokenizer": self.tokenizer.to_dict(),
            "transformer": self.transformer.to_dict(),
            "heads": self.heads.to_dict(),
            "refiner": self.refiner.to_dict() if self.refiner else None,
            "flow": asdict(self.flow),
            "codec": self.codec.to_dict(),
            "extra": self.extra,
        }

    @classmethod
    def from_dict(cls, values: dict) -> WorldConfig:
        """Raises:
        ValueError: another format, or settings that are missing or unknown.
        """
        if not isinstance(values, dict):
            raise ValueError(f"config.json holds a {type(values).__name__}, expected an object")
        values = dict(values)
        if (found := values.pop("format", None)) != FORMAT:
            raise ValueError(
                f"config.json says format {found!r}, this version reads {FORMAT!r}: train the world anew, or use the "
                "version that made it"
            )
        try:
            refiner = values.pop("refiner", None)
            return cls(
                tokenizer=DCAEConfig.from_dict(values.pop("tokenizer")),
                transformer=SanaConfig.from_dict(values.pop("transformer")),
                heads=HeadsConfig(**values.pop("heads")),
                refiner=RefinerConfig(**refiner) if refiner else None,
                flow=FlowConfig(**values.pop("flow")),
                codec=ActionCodec.from_dict(values.pop("codec")),
                **values,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"config.json is not the configuration of a world: {error}") from error
