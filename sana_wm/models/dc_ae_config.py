"""Configurations of the DC-AE and the published ones as data (arXiv 2410.10733; sana_family spec section 4.2)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

CHOICES = {
    "downsample": ("conv", "pixel_unshuffle"),
    "upsample": ("interpolate", "pixel_shuffle"),
    "out_activation": ("relu", "silu"),
}
PER_STAGE_CHOICES = {
    "block_types": ("res", "vit"),
    "decoder_block_types": ("res", "vit"),
    "decoder_norms": ("rms", "batch"),
    "decoder_activations": ("silu", "relu"),
}


@dataclass(frozen=True)
class DCAEConfig:
    """Shape of an autoencoder: one entry per stage, finest first. A first stage without layers folds into the stem.

    Attributes:
        widths, block_types, multiscales: of the encoder, and of the decoder where it has none of its own (None).
        encoder_layers, decoder_layers: blocks of a stage. A later stage without blocks keeps its change of resolution
            (diffusers and mit-han-lab drop that too, and cannot hold such a network).
        decoder_norms, decoder_activations: of the residual blocks, one for all stages or one per stage (the norm of
            attention follows too); the encoder always has "rms" and "silu".
        encoder_shortcut, decoder_shortcut: the parameter-free paths around the encoder's last convolution and the
            decoder's first.
        out_activation: before the decoder's last convolution.
        scaling_factor: of the checkpoint; latent for diffusion = z * scaling_factor.
    """

    in_channels: int = 3
    latent_channels: int = 32
    head_dim: int = 32
    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    block_types: tuple[str, ...] = ("res", "res", "res", "vit", "vit", "vit")
    multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    downsample: str = "conv"  # or "pixel_unshuffle"
    upsample: str = "interpolate"  # or "pixel_shuffle"
    scaling_factor: float = 0.41407
    decoder_widths: tuple[int, ...] | None = None
    decoder_block_types: tuple[str, ...] | None = None
    decoder_multiscales: tuple[tuple[int, ...], ...] | None = None
    decoder_norms: str | tuple[str, ...] = "rms"
    decoder_activations: str | tuple[str, ...] = "silu"
    encoder_shortcut: bool = True
    decoder_shortcut: bool = True
    out_activation: str = "relu"

    def __post_init__(self):
        for name in ("widths", "encoder_layers", "decoder_layers", "block_types", "decoder_widths",
                     "decoder_block_types", "decoder_norms", "decoder_activations"):  # fmt: skip
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None or isinstance(value, str) else tuple(value))
        for name in ("multiscales", "decoder_multiscales"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(tuple(kernels) for kernels in value))
        self._check_stages()
        self._check_choices()
        self._shorten()
        self._check_widths()

    def _shorten(self) -> None:
        """One way to write a configuration: nothing of the decoder's that the encoder has, one name for equal ones."""
        for name in ("widths", "block_types", "multiscales"):
            if getattr(self, "decoder_" + name) == getattr(self, name):
                object.__setattr__(self, "decoder_" + name, None)
        for name in ("decoder_norms", "decoder_activations"):
            if len(kinds := set(getattr(self, name))) == 1:
                object.__setattr__(self, name, kinds.pop())

    def _check_stages(self) -> None:
        stages = {f.name: len(v) for f in fields(self) if isinstance(v := getattr(self, f.name), tuple)}
        if len(set(stages.values())) != 1:
            raise ValueError(f"every stage needs one entry: got {stages}")
        if len(self.widths) == 1 and not (self.encoder_layers[0] and self.decoder_layers[0]):
            raise ValueError("the only stage has no blocks: a stage folds into the stem of the next one")

    def _check_choices(self) -> None:
        wrong = [
            (name, getattr(self, name), given) for name, given in CHOICES.items() if getattr(self, name) not in given
        ]
        for name, given in PER_STAGE_CHOICES.items():
            value = getattr(self, name)
            entries = () if value is None else (value,) if isinstance(value, str) else value
            wrong += [(name, entry, given) for entry in entries if entry not in given]
        if wrong:
            told = (f"{name}={value!r} (expected {' or '.join(map(repr, given))})" for name, value, given in wrong)
            raise ValueError(", ".join(told))

    def _check_widths(self) -> None:
        """Shortcuts average or repeat whole groups of channels, heads are whole."""
        decoder = self.of_decoder()
        problems = []
        coders = (
            ("encoder", self.widths, self.encoder_layers, self.downsample == "pixel_unshuffle"),
            ("decoder", decoder.widths, self.decoder_layers, False),
        )
        for coder, widths, layers, fourths in coders:
            for i, (fine, coarse) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
                if (i or layers[0]) and 4 * fine % coarse:
                    problems.append(f"{coder}: 4 x {fine} channels are no multiple of {coarse}")
                if fourths and coarse % 4:
                    problems.append(f"{coder}: {coarse} channels of pixel_unshuffle are no multiple of 4")
        if self.encoder_shortcut and self.widths[-1] % self.latent_channels:
            problems.append(
                f"encoder: {self.widths[-1]} channels are no multiple of {self.latent_channels} latent ones"
            )
        if self.decoder_shortcut and decoder.widths[-1] % self.latent_channels:
            problems.append(
                f"decoder: {decoder.widths[-1]} channels are no multiple of {self.latent_channels} latent ones"
            )
        for widths, types in ((self.widths, self.block_types), (decoder.widths, decoder.block_types)):
            for width, kind in zip(widths, types, strict=True):
                if kind == "vit" and width % self.head_dim:
                    problems.append(f"stage width {width} is not a multiple of the head width {self.head_dim}")
        if problems:
            raise ValueError("; ".join(dict.fromkeys(problems)))

    @property
    def compression(self) -> int:
        """Pixels per latent cell along each side."""
        return 2 ** (len(self.widths) - 1)

    def of_decoder(self) -> "DecoderStages":
        """What the decoder's stages are, finest first."""
        count = len(self.widths)

        def each(value: str | tuple[str, ...]) -> tuple[str, ...]:
            return (value,) * count if isinstance(value, str) else value

        return DecoderStages(
            self.widths if self.decoder_widths is None else self.decoder_widths,
            self.block_types if self.decoder_block_types is None else self.decoder_block_types,
            self.multiscales if self.decoder_multiscales is None else self.decoder_multiscales,
            each(self.decoder_norms),
            each(self.decoder_activations),
        )

    @property
    def is_publishable(self) -> bool:
        """Whether diffusers and mit-han-lab have such a network: only the first stage may lack blocks."""
        return min(self.encoder_layers[1:] + self.decoder_layers[1:], default=1) > 0

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "DCAEConfig":
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown tokenizer settings {sorted(unknown)}; known: {[f.name for f in fields(cls)]}")
        return cls(**values)


@dataclass(frozen=True)
class DecoderStages:
    """The decoder's stages with nothing left to inherit."""

    widths: tuple[int, ...]
    block_types: tuple[str, ...]
    multiscales: tuple[tuple[int, ...], ...]
    norms: tuple[str, ...]
    activations: tuple[str, ...]


def _deep(latent_channels: int, extra: tuple[int, ...], scaling_factor: float) -> DCAEConfig:
    """The in and mix checkpoints: no multi-scale branch, batch norm and ReLU in the decoder's residual stages."""
    count = 3 + len(extra)
    return DCAEConfig(
        latent_channels=latent_channels,
        widths=(128, 256, 512, *extra),
        encoder_layers=(0, 4, 8) + (2,) * len(extra),
        decoder_layers=(0, 5, 10) + (2,) * len(extra),
        block_types=("res",) * 3 + ("vit",) * len(extra),
        multiscales=((),) * count,
        downsample="pixel_unshuffle",
        upsample="pixel_shuffle",
        scaling_factor=scaling_factor,
        decoder_norms=("batch",) * 3 + ("rms",) * len(extra),
        decoder_activations=("relu",) * 3 + ("silu",) * len(extra),
    )


_SANA = DCAEConfig()
_F32 = _deep(32, (512, 1024, 1024), 0.3189)
_F64 = _deep(128, (512, 1024, 1024, 2048), 0.2889)
_F128 = _deep(512, (512, 1024, 1024, 2048, 2048), 0.4883)
# Scales of the sana and in networks are published with them; those of f32c32-mix and f128c512 are unverified. A loaded
# folder's own config.json says its own.
DCAE_PRESETS: Mapping[str, DCAEConfig] = {
    "f32c32-sana-1.0": _SANA,
    "f32c32-sana-1.1": _SANA,  # the same network, trained again
    "f32c32-in": _F32,
    "f32c32-mix": replace(_F32, scaling_factor=0.4552),
    "f64c128-in": _F64,
    "f64c128-mix": replace(_F64, scaling_factor=0.4538),
    "f128c512-in": _F128,
    "f128c512-mix": replace(_F128, scaling_factor=0.3620),
    # The decoder alone is light: residual blocks everywhere. It reads the latents of f32c32-sana-1.1.
    "lite-f32c32-sana-1.1": replace(
        _SANA,
        upsample="pixel_shuffle",
        decoder_layers=(0, 3, 5, 4, 4, 4),
        decoder_block_types=("res",) * 6,
        decoder_multiscales=((),) * 6,
        out_activation="silu",
    ),
}


def dcae_preset(name: str) -> DCAEConfig:
    """A preset by its own name or a published one such as ``mit-han-lab/dc-ae-f32c32-in-1.0-diffusers``.

    Raises:
        ValueError: unknown name.
    """
    short = name.rsplit("/", 1)[-1].removeprefix("dc-ae-").removesuffix("-diffusers")
    for known in (short, short.removesuffix("-1.0")):
        if known in DCAE_PRESETS:
            return DCAE_PRESETS[known]
    raise ValueError(f"no autoencoder {name!r}; known: {', '.join(DCAE_PRESETS)}")
