"""SanaTransformer: the whole SANA family, one class whose members differ in configuration (see models/presets)."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from sana_wm.models import pretrained
from sana_wm.models.sana_block import Conditions, SanaBlock
from sana_wm.models.sana_config import SanaConfig
from sana_wm.models.sana_context import context_of_pass, layout_of_pass
from sana_wm.models.sana_inputs import CleanPast, check_pass
from sana_wm.nn.embeddings import ActionEmbedding, TimestepEmbedding, sincos_positions
from sana_wm.nn.layout import FrameLayout
from sana_wm.nn.state import StreamState
from sana_wm.nn.text_attention import TextEmbedding, TextMemory, without_padding
from sana_wm.nn.widened import widened

__all__ = ["CleanPast", "SanaConfig", "SanaOutput", "SanaTransformer"]


class SanaOutput(NamedTuple):
    """velocity (B, C, T, H, W); the state after the committed frames, or the one given."""

    velocity: Tensor
    state: StreamState


class SanaTransformer(nn.Module):
    """Flow velocity of latent frames given text, cameras, actions and the past. An image is a video of one frame.

    The same weights run in three situations (see :mod:`sana_wm.nn.layout`): over a whole clip, chunk after chunk
    (``state=None``); as a stream (``state=``, with ``commit=True`` the frames enter the memory); and in training with
    ``past=``, where every frame of ``latents`` is denoised against the clean frames before its chunk, in one pass.

    Positions are absolute frame indices and their angles are computed, not looked up: there is no table to run out of.
    Past the 1024 frames of the published tables they go on as a longer table would. Attention sees differences only, so
    a stream never meets a distance that its window does not hold; the sink keeps its own place, and its distance grows.

    Forward-mode derivatives, which Sprint's training takes (spec section 6.4), need attention on text in plain
    operations: ``with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    """

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.config = c = config
        channels = c.in_channels * (2 if c.source else 1) * c.patch_size**2
        self.x_embedder = nn.Linear(channels, c.width)
        self.t_embedder = TimestepEmbedding(c.width)
        self.t_block = nn.Linear(c.width, 6 * c.width)
        if c.guidance:
            self.guidance_embedder = TimestepEmbedding(c.width)
        if c.action_dim:
            self.action_embedder = ActionEmbedding(c.action_dim, c.width)
            self.action_time_proj = nn.Linear(c.width, c.width)
        self.blocks = nn.ModuleList(SanaBlock(c, i) for i in range(c.depth))
        self.final_norm = nn.LayerNorm(c.width, elementwise_affine=False, eps=1e-6)
        self.final_table = nn.Parameter(torch.randn(2, c.width) / c.width**0.5)
        self.final_linear = nn.Linear(c.width, c.in_channels * c.patch_size**2)
        nn.init.normal_(self.t_block.weight, std=0.02)
        silent = [self.final_linear] + ([self.action_time_proj] if c.action_dim else [])
        if c.text_dim:
            self.text_embedder = TextEmbedding(c.text_dim, c.width, c.norm_eps)
        if c.plucker_channels:  # not at zero, as the blocks' projections are: two zeros in a row never learn
            self.plucker_embedder = nn.Linear(c.plucker_channels * c.patch_size**2, c.width)
        if c.unused_parameters:
            self.raymap_embedder = nn.Linear(3 * c.patch_size**2, c.width).requires_grad_(False)
            silent.append(self.raymap_embedder)
        if c.guidance:
            silent.append(self.guidance_embedder.linear_2)
        for linear in silent:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        preset: str | None = None,
        dtype: torch.dtype | None = None,
        quantise: str | None = None,
        **changes,
    ) -> "SanaTransformer":
        """Read a folder of :meth:`save_pretrained`, one that diffusers saved, or NVlabs' weights; safetensors only.

        Args:
            path: a folder (config.json and one or several .safetensors) or one .safetensors file.
            preset: a member of :data:`sana_wm.models.presets.PRESETS` whose modes (all but the sizes) to run with.
            dtype: of the parameters; None: as saved.
            quantise: "int8" or "int4": linear maps of the blocks in 8 or 4 bits, each rounded when it is read, so that
                memory never holds them in full (:mod:`sana_wm.models.quantised`).
            changes: values of the configuration to set, such as ``grid=(22, 40)`` or ``window=3``: published files do
                not hold the grid, and leave the named choices of the spec open. ``action_dim=N`` on a checkpoint
                without actions adds them, silent until trained.

        Raises:
            ValueError: a pickle; tensors that are missing, extra or of another shape, by name; unknown settings.
        """
        return pretrained.load(cls, path, preset, dtype, changes, quantise)

    def save_pretrained(self, folder: str | Path, *, layout: str = "sana_wm", max_shard_size: str = "5GB") -> None:
        """Write config.json and safetensors; ``layout="diffusers"`` for what diffusers' class of the member reads.

        Of images and videos a warning names the settings that diffusers has no place for, such as an epsilon.
        ``layout="nvlabs"`` gives the tensors NVlabs' names and shapes, without what their files hold for training
        alone (``y_embedder.y_embedding``, ``pos_embed``, ``logvar_linear``); config.json is ours.

        Raises:
            ValueError: a network that diffusers cannot hold.
        """
        pretrained.save(self, folder, layout, max_shard_size)

    @property
    def dtype(self) -> torch.dtype:
        return self.x_embedder.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.x_embedder.weight.device

    def initial_state(self, lanes: int, grid: tuple[int, int] | None = None) -> StreamState:
        """The state of a stream that has seen nothing: zeros.

        Args:
            grid: height and width of the latents; None: as configured.

        Raises:
            ValueError: ``window=-1``, which has no constant size; no grid where none is configured.
        """
        if self.config.window < 0 and self.config.softmax_every:
            raise ValueError(
                "window=-1 keeps every frame, and the state of a stream has a constant size: load with window= (and "
                "sink=) set, as in from_pretrained(path, window=3, sink=4)"
            )
        return self._blank_state(lanes, self.config.token_grid if grid is None else self.config.tokens_of(grid))

    def _blank_state(self, lanes: int, token_grid: tuple[int, int]) -> StreamState:
        frame = torch.zeros(lanes, dtype=torch.int64, device=self.device)
        args = (lanes, token_grid[0] * token_grid[1], self.device, self.dtype)
        return StreamState(frame, tuple(block.initial_state(*args) for block in self.blocks))

    @widened
    def encode_text(self, text: Tensor, text_mask: Tensor | None = None) -> TextMemory:
        """Keys and values of a prompt, once for all denoising steps and chunks.

        Of a CPU, without the tokens that are padding in every lane: every step would pay for them.

        Args:
            text: (B, L, text_dim) features of the text encoder, or (B, K, L, text_dim) for the K chunks of a pass.
            text_mask: the same without the last axis, nonzero for tokens of the prompt; None: all.
        """
        if text.ndim not in (3, 4) or text.shape[-1] != self.config.text_dim:
            width = self.config.text_dim
            raise ValueError(f"text has shape {tuple(text.shape)}, expected (B, L, {width}) or (B, chunks, L, {width})")
        if text_mask is not None and text_mask.shape != text.shape[:-1]:
            raise ValueError(f"text_mask has shape {tuple(text_mask.shape)}, expected {tuple(text.shape[:-1])}")
        text, text_mask = without_padding(text, text_mask)
        mask = torch.ones_like(text[..., 0], dtype=torch.bool) if text_mask is None else text_mask.bool()
        embedded = self.text_embedder(text.to(self.dtype))
        return TextMemory(tuple(block.text_attn.remember(embedded) for block in self.blocks), mask)

    def _parts(self, text: TextMemory, layout: FrameLayout) -> tuple[tuple[int, int, int], ...] | None:
        """Which frames of the pass read which row of ``text``; None: all read the one there is."""
        if text.mask.ndim == 2:
            return None
        parts = layout.chunks()
        if text.mask.shape[1] != len({row for _, _, row in parts}):
            raise ValueError(
                f"text has {text.mask.shape[1]} prompts a lane, expected one for each of the "
                f"{len({row for _, _, row in parts})} chunks of the pass"
            )
        return parts

    def _patches(self, latents: Tensor) -> Tensor:
        patch = {"p": self.config.patch_size, "q": self.config.patch_size}
        return rearrange(latents, "b c t (h p) (w q) -> b t (h w) (c p q)", **patch)

    def _embed(self, latents: Tensor, source: Tensor | None) -> Tensor:
        if self.config.source:
            source = torch.zeros_like(latents) if source is None else source
            latents = torch.cat([latents, source], dim=1)
        return self.x_embedder(self._patches(latents.to(self.dtype)))

    @widened
    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor | TextMemory | None = None,
        text_mask: Tensor | None = None,
        *,
        camera: Tensor | None = None,
        plucker: Tensor | None = None,
        actions: Tensor | None = None,
        source: Tensor | None = None,
        guidance: Tensor | None = None,
        past: CleanPast | None = None,
        state: StreamState | None = None,
        commit: bool = False,
        chunks: Sequence[int] | None = None,
        frame_mask: Tensor | None = None,
    ) -> SanaOutput:
        """Predict the flow velocity.

        Args:
            latents: (B, C, T, H, W) noisy (or, to commit, clean) frames.
            timestep: (B,) or (B, T) in the network's own units: 0..1000, of Sprint 0..1.
            text: (B, L, E) features of the prompt, or :meth:`encode_text` of them. text_mask: (B, L). One prompt for
                each of the K chunks of the pass, in order of time: (B, K, L, E) and (B, K, L).
            camera: (B, T, 20) pose and intrinsics, see :func:`sana_wm.nn.camera.camera_vectors`; float32 even where
                the network is not. None: the camera branch is silent (whole clips only).
            plucker: (B, P, T, H, W), see :func:`sana_wm.nn.camera.plucker_pack`; None: not added.
            actions: (B, T, A) normalised; ``actions[:, t]`` leads to frame t (zeros where nothing did).
            source: (B, C, T, H, W) the clean frame before each frame (zeros where there is none).
            guidance: (B,) the embedded strength, 0.1 times the scale of guidance (Sprint).
            past: clean frames to denoise against (training); ``latents`` end one chunk after ``past`` ends.
            state: memory of a stream; ``commit=True`` also writes ``latents`` into it.
            chunks: how the frames divide into chunks; None: as configured.
            frame_mask: (B, T), zero for frames that are padding (whole clips only); their velocity has no meaning.

        Raises:
            ValueError: shapes that do not fit the configuration.
        """
        c = self.config
        check_pass(
            c, latents, has_text=text is not None, camera=camera, plucker=plucker, actions=actions, past=past,
            streams=state is not None or commit, frame_mask=frame_mask, guidance=guidance,
        )  # fmt: skip
        lanes, frames, grid = latents.shape[0], latents.shape[2], c.tokens_of(latents.shape[3:])
        layout = layout_of_pass(c, frames, None if past is None else past.latents.shape[2], state, commit, chunks)
        layout = layout.on(latents.device)
        alone = state is None and past is None and chunks is None and not commit
        fresh = state is None
        if fresh:
            state = self.initial_state(lanes, latents.shape[3:]) if commit else self._blank_state(lanes, grid)
        timestep = timestep[:, None].expand(lanes, frames) if timestep.ndim == 1 else timestep
        timestep = timestep.long() if c.integer_timesteps else timestep

        x = self._embed(latents, source)
        if past is not None:
            x = torch.cat([self._embed(past.latents, past.source), x], dim=1)
            timestep = torch.cat([torch.zeros_like(timestep[:, :1]).expand(-1, past.latents.shape[2]), timestep], dim=1)
            actions = torch.cat([past.actions, actions], dim=1) if c.action_dim else None
            camera = None if camera is None else torch.cat([past.camera, camera], dim=1)
            plucker = None if plucker is None else torch.cat([past.plucker, plucker], dim=2)
        if c.positions == "sincos":
            span = c.sample_size // c.patch_size / c.interpolation
            x = x + sincos_positions(grid, c.width, span, x.device).to(x.dtype)
        embedded_time = self.t_embedder(timestep)
        if c.guidance:
            embedded_time = embedded_time + self.guidance_embedder(guidance)[:, None]
        action = None
        if c.action_dim:
            action = self.action_embedder(actions.to(x.dtype) if not torch.is_autocast_enabled() else actions)
            embedded_time = embedded_time + self.action_time_proj(action)
        modulation = rearrange(self.t_block(nn.functional.silu(embedded_time)), "b f (n c) -> b f n c", n=6)
        told = Conditions(modulation, action)
        if plucker is not None:
            told = told._replace(rays=self._patches(plucker.to(self.dtype)), rays_embedder=self.plucker_embedder)
        if c.text_dim:
            text = text if isinstance(text, TextMemory) else self.encode_text(text, text_mask)
            told = told._replace(text_mask=text.mask, text_parts=self._parts(text, layout))

        sees_all = alone and c.temporal == "bidirectional"
        wide = torch.promote_types(self.dtype, torch.float32)
        context = context_of_pass(c, layout, state.frame, camera, frame_mask, sees_all, fresh, wide, grid)
        x = context.blank(x)
        new_blocks = []
        for i, (block, memory) in enumerate(zip(self.blocks, state.blocks, strict=True)):
            told = told._replace(text=text.blocks[i]) if c.text_dim else told
            x, new = block(x, told, grid, memory, context)
            new_blocks.append(new)
        x, embedded_time = x[:, -frames:], embedded_time[:, -frames:]
        shift, scale = (self.final_table.to(x.dtype) + embedded_time[:, :, None])[:, :, :, None].unbind(2)
        x = self.final_linear(self.final_norm(x) * (1 + scale) + shift)
        patch = {"h": grid[0], "p": c.patch_size, "q": c.patch_size}
        velocity = rearrange(x, "b t (h w) (c p q) -> b c t (h p) (w q)", **patch)
        if commit:
            state = StreamState(state.frame + layout.num_writers, tuple(new_blocks))
        return SanaOutput(velocity, state)
