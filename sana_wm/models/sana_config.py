"""What a transformer of the SANA family is made of, as data."""

from dataclasses import asdict, dataclass, fields

from sana_wm.nn.ucpe import STABILISERS


@dataclass(frozen=True)
class SanaConfig:
    """Architecture of a transformer. All of it is data: modes and sizes are values, not classes."""

    in_channels: int = 16
    grid: tuple[int, int] = (4, 4)  # latent height and width
    patch_size: int = 1
    width: int = 256
    depth: int = 6
    heads: int = 8
    mlp_ratio: float = 3.0
    softmax_every: int = 4  # block i is softmax when (i + 1) % softmax_every == 0; 0: never
    conv_kernel: int = 4
    temporal: str = "chunk_causal"  # or "bidirectional": one chunk holds everything
    chunk_size: int = 1
    first_chunk_plus_one: bool = False  # the first chunk has one frame more: the given image
    window: int = 16  # frames a softmax block keeps; -1: all of them, which a stream cannot
    sink: int = 0  # frames at the start of a stream that a softmax block keeps for good
    action_dim: int = 0  # 0: no actions
    source: bool = False  # the previous clean frame enters as extra channels
    text_dim: int = 0  # width of the text features; 0: no text
    text_heads: int = 0  # heads of cross-attention; 0: as many as heads
    camera: bool = False  # self-attention has a camera branch
    plucker_channels: int = 0  # channels of the Plücker pack; 0: it is not taken
    plucker_blocks: int = -1  # the first so many blocks add it; -1: all
    rope_theta: float = 1e4
    norm_eps: float = 1e-5
    gdn_eps: float = 1e-8
    decay_bias: float = -5.0
    gate_bias: bool = False  # the decay's projection has a bias
    integer_timesteps: bool = False  # timesteps lose their fraction, as the published models were trained
    softmax_scale: float | None = None  # of the logits of softmax blocks; None: head width ** -0.5
    camera_scale: float | None = None  # the same in their camera branch; published: that of a head padded to 128
    ucpe_stabilise: str = "rms_clamp+beta"  # or "beta_only": what keeps far cameras from inflating keys (spec 4.3)
    frame_mask: str = "exclude"  # padded frames are as if absent; "dilute": zeros that neighbours see, as in diffusers
    unused_parameters: bool = False  # carry the tensors that published files have and nothing reads

    def __post_init__(self):
        object.__setattr__(self, "grid", tuple(self.grid))
        choices = {
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
        if any(side % self.patch_size for side in self.grid):
            raise ValueError(f"latent grid {self.grid} is not divisible by patch_size {self.patch_size}")

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] // self.patch_size**2

    @property
    def token_grid(self) -> tuple[int, int]:
        return self.grid[0] // self.patch_size, self.grid[1] // self.patch_size

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def is_softmax(self, block: int) -> bool:
        return bool(self.softmax_every) and (block + 1) % self.softmax_every == 0

    def takes_plucker(self, block: int) -> bool:
        return bool(self.plucker_channels) and (self.plucker_blocks < 0 or block < self.plucker_blocks)

    def to_dict(self) -> dict:
        return asdict(self) | {"grid": list(self.grid)}

    @classmethod
    def from_dict(cls, values: dict) -> "SanaConfig":
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown transformer settings {sorted(unknown)}; known: {[f.name for f in fields(cls)]}")
        return cls(**values)
