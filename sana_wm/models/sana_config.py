"""What a transformer of the SANA family is made of, as data."""

from dataclasses import asdict, dataclass, fields

from sana_wm.nn.layout import chunks_of
from sana_wm.nn.ucpe import STABILISERS


@dataclass(frozen=True)
class SanaConfig:
    """Architecture of a transformer. All of it is data: modes and sizes are values, not classes."""

    in_channels: int = 16
    grid: tuple[int, int] | None = (4, 4)  # latent height and width; None: as the latents have them
    patch_size: int = 1
    width: int = 256
    depth: int = 6
    heads: int = 8
    mlp_ratio: float = 3.0
    mixer: str = "gated_delta"  # or "relu": ReLU linear attention; of the blocks that are not softmax
    qk_norm: bool = True  # queries and keys are normalised, of frames and of text; without only where the mixer is relu
    softmax_every: int = 4  # block i is softmax when (i + 1) % softmax_every == 0; 0: never
    conv_kernel: int = 4  # taps over time of the keys of gated-delta blocks; 0: no convolution
    temporal_conv: bool = True  # the Mix-FFN has a convolution over time
    temporal: str = "chunk_causal"  # or "bidirectional": one chunk holds everything
    chunk_size: int = 1
    first_chunk_plus_one: bool = False  # the first chunk has one frame more: the given image
    remainder_first: bool = False  # frames that fill no chunk are added to the first one; else they are the last one
    window: int = 16  # frames a softmax block keeps; -1: all of them, which a stream cannot
    sink: int = 0  # frames at the start of a stream that a softmax block keeps for good
    action_dim: int = 0  # 0: no actions
    source: bool = False  # the previous clean frame enters as extra channels
    text_dim: int = 0  # width of the text features; 0: no text
    text_heads: int = 0  # heads of cross-attention; 0: as many as heads
    camera: bool = False  # self-attention has a camera branch
    plucker_channels: int = 0  # channels of the Plücker pack; 0: it is not taken
    plucker_blocks: int = -1  # the first so many blocks add it; -1: all
    positions: str = "rope"  # 3-D, in attention; "sincos": 2-D, added to the tokens; "none"
    rope_theta: float = 1e4
    sample_size: int = 0  # side of the square latents trained on; sincos positions span it, whatever the grid
    interpolation: float = 1.0  # sincos positions are divided by it
    guidance: bool = False  # the strength of guidance is embedded beside the time
    timestep_scale: float = 1.0  # for samplers: what 0..1000 is multiplied by to be the network's time
    norm_eps: float = 1e-5
    text_norm_eps: float = 1e-6  # of the query/key norms of cross-attention
    gdn_eps: float = 1e-8
    linear_eps: float = 1e-8  # the same of ReLU linear attention
    decay_bias: float = -5.0
    gate_bias: bool = False  # the decay's projection has a bias
    integer_timesteps: bool = False  # timesteps lose their fraction, as the published models were trained
    softmax_scale: float | None = None  # of the logits of softmax blocks; None: head width ** -0.5
    camera_scale: float | None = None  # the same in their camera branch; published: that of a head padded to 128
    ucpe_stabilise: str = "rms_clamp+beta"  # or "beta_only": what keeps far cameras from inflating keys (spec 4.3)
    frame_mask: str = "exclude"  # padded frames are as if absent; "dilute": zeros that neighbours see, as in diffusers
    unused_parameters: bool = False  # carry the tensors that published files have and nothing reads

    def __post_init__(self):
        if self.grid is not None:
            object.__setattr__(self, "grid", tuple(self.grid))
        choices = {
            "mixer": ("gated_delta", "relu"),
            "positions": ("rope", "sincos", "none"),
            "temporal": ("chunk_causal", "bidirectional"),
            "ucpe_stabilise": STABILISERS,
            "frame_mask": ("exclude", "dilute"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {known}")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads} with an even head width")
        if self.camera and (self.width // self.heads) % 8:
            raise ValueError(f"head width {self.width // self.heads}: the camera branch needs a multiple of 8")
        if self.text_heads and self.width % self.text_heads:
            raise ValueError(f"width {self.width} must be a multiple of text_heads {self.text_heads}")
        if self.mixer == "gated_delta" and self.camera and not self.conv_kernel:
            raise ValueError("conv_kernel=0: gated-delta blocks with cameras need a convolution")
        if (self.mixer == "gated_delta" or self.softmax_every) and (self.positions != "rope" or not self.qk_norm):
            raise ValueError(
                f"positions={self.positions!r}, qk_norm={self.qk_norm}: gated-delta and softmax blocks have rope and "
                "norms; others need mixer='relu' and softmax_every=0"
            )
        if self.mixer == "relu" and self.camera and not (self.softmax_every == 1):
            raise ValueError("camera=True: blocks of mixer='relu' have no camera branch")
        if self.positions == "sincos" and (self.width % 4 or self.sample_size < self.patch_size):
            raise ValueError(
                f"sincos positions need a width that is a multiple of 4 and a sample_size of at least patch_size "
                f"{self.patch_size}: got {self.width} and {self.sample_size}"
            )
        if self.grid is not None:
            self.tokens_of(self.grid)

    @property
    def tokens(self) -> int:
        return self.token_grid[0] * self.token_grid[1]

    @property
    def token_grid(self) -> tuple[int, int]:
        if self.grid is None:
            raise ValueError("grid=None: this transformer takes latents of any size; say which, as in grid=(22, 40)")
        return self.tokens_of(self.grid)

    def tokens_of(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Height and width in tokens of latents of ``grid``."""
        if any(side % self.patch_size for side in grid):
            raise ValueError(f"latent grid {tuple(grid)} is not divisible by patch_size {self.patch_size}")
        return grid[0] // self.patch_size, grid[1] // self.patch_size

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def chunks(self, frames: int, from_start: bool = True) -> tuple[int, ...]:
        """How so many frames divide into chunks, at the start of a clip or later in a stream."""
        if self.temporal == "bidirectional":
            return (frames,) if frames else ()
        first = (flag and from_start for flag in (self.first_chunk_plus_one, self.remainder_first))
        return chunks_of(frames, self.chunk_size, *first)

    def is_softmax(self, block: int) -> bool:
        return bool(self.softmax_every) and (block + 1) % self.softmax_every == 0

    def takes_plucker(self, block: int) -> bool:
        return bool(self.plucker_channels) and (self.plucker_blocks < 0 or block < self.plucker_blocks)

    def to_dict(self) -> dict:
        return asdict(self) | {"grid": None if self.grid is None else list(self.grid)}

    @classmethod
    def from_dict(cls, values: dict) -> "SanaConfig":
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown transformer settings {sorted(unknown)}; known: {[f.name for f in fields(cls)]}")
        return cls(**values)
