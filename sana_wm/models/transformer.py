"""SanaTransformer: token mixer -> added conditioning -> Mix-FFN under AdaLN-single, per frame (SANA-WM, section 2)."""

from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from sana_wm.nn.embeddings import ActionEmbedding, TimestepEmbedding, rope_angles
from sana_wm.nn.gated_delta import GatedDeltaAttention
from sana_wm.nn.layout import FrameLayout, chunks_of, frame_layout
from sana_wm.nn.mix_ffn import MixFFN
from sana_wm.nn.softmax_attention import SoftmaxAttention, window_mask
from sana_wm.nn.state import StreamState


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
    window: int = 16  # frames a softmax block keeps
    action_dim: int = 0  # 0: no actions
    source: bool = False  # the previous clean frame enters as extra channels
    rope_theta: float = 1e4
    norm_eps: float = 1e-5
    gdn_eps: float = 1e-8
    decay_bias: float = -5.0

    def __post_init__(self):
        object.__setattr__(self, "grid", tuple(self.grid))
        if self.temporal not in ("chunk_causal", "bidirectional"):
            raise ValueError(f"temporal={self.temporal!r}: expected 'chunk_causal' or 'bidirectional'")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads} with an even head width")
        if any(side % self.patch_size for side in self.grid):
            raise ValueError(f"latent grid {self.grid} is not divisible by patch_size {self.patch_size}")

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] // self.patch_size**2

    def to_dict(self) -> dict:
        return asdict(self) | {"grid": list(self.grid)}

    @classmethod
    def from_dict(cls, values: dict) -> "SanaConfig":
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown transformer settings {sorted(unknown)}; known: {[f.name for f in fields(cls)]}")
        return cls(**values)


class CleanPast(NamedTuple):
    """The clean stream of training: frames that later frames read. Shapes as in :meth:`SanaTransformer.forward`."""

    latents: Tensor
    actions: Tensor | None = None
    source: Tensor | None = None


class SanaOutput(NamedTuple):
    """velocity (B, C, T, H, W); the state after the committed frames, or the one given."""

    velocity: Tensor
    state: StreamState


class SanaBlock(nn.Module):
    """One block; ``softmax`` selects the mixer."""

    def __init__(self, config: SanaConfig, softmax: bool):
        super().__init__()
        c = config
        if softmax:
            self.attn = SoftmaxAttention(c.width, c.heads, c.window, c.norm_eps)
        else:
            self.attn = GatedDeltaAttention(c.width, c.heads, c.conv_kernel, c.norm_eps, c.gdn_eps, c.decay_bias)
        self.softmax = softmax
        self.norm = nn.LayerNorm(c.width, elementwise_affine=False, eps=1e-6)
        self.scale_shift_table = nn.Parameter(torch.randn(6, c.width) / c.width**0.5)
        self.action_proj = nn.Linear(c.width, c.width) if c.action_dim else None
        if self.action_proj is not None:
            nn.init.zeros_(self.action_proj.weight)
            nn.init.zeros_(self.action_proj.bias)
        self.ffn = MixFFN(c.width, c.mlp_ratio)

    def initial_state(self, lanes: int, tokens: int, device, dtype) -> dict[str, Tensor]:
        args = (lanes, tokens, device, dtype)
        return self.attn.initial_state(*args) | self.ffn.initial_state(*args)

    def forward(self, x, modulation, action, rope, grid, state, layout, mask):
        table = self.scale_shift_table.to(modulation.dtype)
        shift1, scale1, gate1, shift2, scale2, gate2 = (table + modulation)[:, :, :, None].unbind(2)  # each B F 1 C
        extra = (mask,) if self.softmax else ()
        mixed, attn_state = self.attn(self.norm(x) * (1 + scale1) + shift1, rope, state, layout, *extra)
        x = x + gate1 * mixed
        if self.action_proj is not None:
            x = x + self.action_proj(action)[:, :, None]
        mixed, ffn_state = self.ffn(self.norm(x) * (1 + scale2) + shift2, grid, state, layout)
        return x + gate2 * mixed, attn_state | ffn_state


class SanaTransformer(nn.Module):
    """Flow velocity of latent frames given actions and the past.

    The same weights run in three situations (see :mod:`sana_wm.nn.layout`): over a whole clip, chunk after chunk
    (``state=None``); as a stream (``state=``, with ``commit=True`` the frames enter the memory); and in training with
    ``past=``, where every frame of ``latents`` is denoised against the clean frames before its chunk, in one pass.
    """

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.config = c = config
        channels = c.in_channels * (2 if c.source else 1) * c.patch_size**2
        self.x_embedder = nn.Linear(channels, c.width)
        self.t_embedder = TimestepEmbedding(c.width)
        self.t_block = nn.Linear(c.width, 6 * c.width)
        if c.action_dim:
            self.action_embedder = ActionEmbedding(c.action_dim, c.width)
            self.action_time_proj = nn.Linear(c.width, c.width)
        self.blocks = nn.ModuleList(
            SanaBlock(c, softmax=bool(c.softmax_every) and (i + 1) % c.softmax_every == 0) for i in range(c.depth)
        )
        self.final_norm = nn.LayerNorm(c.width, elementwise_affine=False, eps=1e-6)
        self.final_table = nn.Parameter(torch.randn(2, c.width) / c.width**0.5)
        self.final_linear = nn.Linear(c.width, c.in_channels * c.patch_size**2)
        nn.init.normal_(self.t_block.weight, std=0.02)
        nn.init.zeros_(self.final_linear.weight)
        nn.init.zeros_(self.final_linear.bias)
        if c.action_dim:
            nn.init.zeros_(self.action_time_proj.weight)
            nn.init.zeros_(self.action_time_proj.bias)

    @property
    def dtype(self) -> torch.dtype:
        return self.x_embedder.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.x_embedder.weight.device

    def initial_state(self, lanes: int) -> StreamState:
        """The state of a stream that has seen nothing: zeros."""
        frame = torch.zeros(lanes, dtype=torch.int64, device=self.device)
        args = (lanes, self.config.tokens, self.device, self.dtype)
        return StreamState(frame, tuple(block.initial_state(*args) for block in self.blocks))

    def _layout(self, frames: int, past_frames: int | None, state: StreamState | None, commit: bool) -> FrameLayout:
        everything = self.config.temporal == "bidirectional"
        sizes = (frames,) if everything else chunks_of(frames, self.config.chunk_size)
        if past_frames is not None:
            first = past_frames - (frames - sizes[-1])  # frames of context before the first chunk
            if first < 0:
                raise ValueError(f"past holds {past_frames} frames, too few for {frames} frames in chunks {sizes}")
            readers, seen = [], first
            for size in sizes:
                readers.append((size, seen))
                seen += size
            context = chunks_of(first, self.config.chunk_size) if not everything else ((first,) if first else ())
            return frame_layout(context + sizes[:-1], tuple(readers))
        if state is None or commit:
            return frame_layout(sizes)
        if len(sizes) > 1:
            raise ValueError(f"a stream denoises one chunk at a time: got {frames} frames, chunks of {sizes[0]}")
        return frame_layout((), ((frames, 0),))

    def _embed(self, latents: Tensor, source: Tensor | None) -> Tensor:
        if self.config.source:
            source = torch.zeros_like(latents) if source is None else source
            latents = torch.cat([latents, source], dim=1)
        patch = {"p": self.config.patch_size, "q": self.config.patch_size}
        return self.x_embedder(rearrange(latents, "b c t (h p) (w q) -> b t (h w) (c p q)", **patch))

    def _check(self, latents: Tensor, actions: Tensor | None, past: CleanPast | None) -> None:
        c = self.config
        if latents.ndim != 5 or latents.shape[1] != c.in_channels or tuple(latents.shape[3:]) != c.grid:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}, expected (B, {c.in_channels}, T, {c.grid[0]}, {c.grid[1]})"
            )
        given = [(latents, actions)] + ([(past.latents, past.actions)] if past is not None else [])
        for frames, action in given:
            expected = (frames.shape[0], frames.shape[2], c.action_dim)
            if c.action_dim and (action is None or tuple(action.shape) != expected):
                got = None if action is None else tuple(action.shape)
                raise ValueError(f"actions have shape {got}, expected {expected}: one per frame, leading to it")

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        *,
        actions: Tensor | None = None,
        source: Tensor | None = None,
        past: CleanPast | None = None,
        state: StreamState | None = None,
        commit: bool = False,
    ) -> SanaOutput:
        """Predict the flow velocity.

        Args:
            latents: (B, C, T, H, W) noisy (or, to commit, clean) frames.
            timestep: (B,) or (B, T), 0..1000.
            actions: (B, T, A) normalised; ``actions[:, t]`` leads to frame t (zeros where nothing did).
            source: (B, C, T, H, W) the clean frame before each frame (zeros where there is none).
            past: clean frames to denoise against (training); ``latents`` end one chunk after ``past`` ends.
            state: memory of a stream; ``commit=True`` also writes ``latents`` into it.

        Raises:
            ValueError: shapes that do not fit the configuration.
        """
        self._check(latents, actions, past)
        lanes, frames = latents.shape[0], latents.shape[2]
        layout = self._layout(frames, None if past is None else past.latents.shape[2], state, commit)
        layout = layout.on(latents.device)
        state = self.initial_state(lanes) if state is None else state
        timestep = timestep[:, None].expand(lanes, frames) if timestep.ndim == 1 else timestep

        x = self._embed(latents, source)
        if past is not None:
            x = torch.cat([self._embed(past.latents, past.source), x], dim=1)
            timestep = torch.cat([torch.zeros_like(timestep[:, :1]).expand(-1, past.latents.shape[2]), timestep], dim=1)
            actions = torch.cat([past.actions, actions], dim=1) if self.config.action_dim else None
        embedded_time = self.t_embedder(timestep)
        action = None
        if self.config.action_dim:
            action = self.action_embedder(actions.to(x.dtype) if not torch.is_autocast_enabled() else actions)
            embedded_time = embedded_time + self.action_time_proj(action)
        modulation = rearrange(self.t_block(nn.functional.silu(embedded_time)), "b f (n c) -> b f n c", n=6)

        rope = self._rope(state.frame[:, None] + layout.offset, state)
        mask = window_mask(layout, self.config.window, state.frame) if self.config.softmax_every else None
        grid = tuple(side // self.config.patch_size for side in self.config.grid)
        new_blocks = []
        for block, memory in zip(self.blocks, state.blocks, strict=True):
            x, new = block(x, modulation, action, rope, grid, memory, layout, mask)
            new_blocks.append(new)
        x, embedded_time = x[:, -frames:], embedded_time[:, -frames:]
        shift, scale = (self.final_table.to(x.dtype) + embedded_time[:, :, None])[:, :, :, None].unbind(2)
        x = self.final_linear(self.final_norm(x) * (1 + scale) + shift)
        velocity = rearrange(
            x, "b t (h w) (c p q) -> b c t (h p) (w q)", h=grid[0], p=self.config.patch_size, q=self.config.patch_size
        )
        if commit:
            state = StreamState(state.frame + layout.num_writers, tuple(new_blocks))
        return SanaOutput(velocity, state)

    def _rope(self, position: Tensor, state: StreamState) -> tuple[Tensor, Tensor]:
        c = self.config
        grid = tuple(side // c.patch_size for side in c.grid)
        angles = rearrange(rope_angles(position, *grid, c.width // c.heads, c.rope_theta), "b f s d -> b 1 f s d")
        wide = torch.promote_types(self.dtype, torch.float32)
        return angles.cos().to(wide), angles.sin().to(wide)
