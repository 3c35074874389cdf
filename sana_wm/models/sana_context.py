"""How the frames of one pass hang together: chunks, masks, positions and rays."""

import torch
from einops import rearrange
from torch import Tensor

from sana_wm.models.sana_config import SanaConfig
from sana_wm.nn.context import FrameContext
from sana_wm.nn.embeddings import rope_angles
from sana_wm.nn.kv_window import memory_mask
from sana_wm.nn.layout import FrameLayout, frame_layout
from sana_wm.nn.state import StreamState
from sana_wm.nn.ucpe import rays_of


def layout_of_pass(
    config: SanaConfig,
    frames: int,
    past_frames: int | None,
    state: StreamState | None,
    commit: bool,
    chunks: tuple[int, ...] | None,
) -> FrameLayout:
    """Who sees whom when ``frames`` frames are given; ``chunks`` says how they divide, None: as configured."""
    if chunks is not None and (sum(chunks) != frames or min(chunks) < 1):
        raise ValueError(f"chunks {tuple(chunks)} do not divide {frames} frames")

    if past_frames is not None:
        sizes = tuple(chunks) if chunks else config.chunks(frames)
        first = past_frames - (frames - sizes[-1])  # frames of context before the first chunk
        if first > 0 and chunks is None:
            sizes = config.chunks(frames, from_start=False)
            first = past_frames - (frames - sizes[-1])
        if first < 0:
            raise ValueError(f"past holds {past_frames} frames, too few for {frames} frames in chunks {sizes}")
        readers, seen = [], first
        for size in sizes:
            readers.append((size, seen))
            seen += size
        return frame_layout(config.chunks(first) + sizes[:-1], tuple(readers))
    if chunks is None:
        # Asking whether a stream is at its start makes the host wait: only where the answer matters.
        by_age = config.first_chunk_plus_one or config.remainder_first
        from_start = by_age and (state is None or not bool(state.frame.any()))
        chunks = config.chunks(frames, from_start)
    if state is None or commit:
        return frame_layout(tuple(chunks))
    if len(chunks) > 1:
        raise ValueError(f"a stream denoises one chunk at a time: got {frames} frames, chunks of {chunks[0]}")
    return frame_layout((), ((frames, 0),))


def context_of_pass(
    config: SanaConfig,
    layout: FrameLayout,
    age: Tensor,
    camera: Tensor | None,
    frame_mask: Tensor | None,
    sees_all: bool,
    fresh: bool,
    dtype: torch.dtype,
    grid: tuple[int, int] | None = None,
) -> FrameContext:
    """What the mixers share.

    Args:
        age: (B,) frames in every lane's memory. camera, frame_mask: as in :meth:`SanaTransformer.forward`.
        sees_all: every frame sees every other one, and there is no memory to read or write.
        fresh: the memory holds nothing yet.
        dtype: of positions and rays, float32 at least.
        grid: height and width in tokens; None: as configured.
    """
    c = config
    grid, rope = c.token_grid if grid is None else grid, None
    if c.positions == "rope":
        angles = rope_angles(age[:, None] + layout.offset, *grid, c.head_dim, c.rope_theta)
        angles = rearrange(angles, "b f s d -> b 1 f s d")
        rope = torch.complex(angles.cos().to(dtype), angles.sin().to(dtype))
    mask = None if sees_all or not c.softmax_every else memory_mask(layout, c.window, age, c.sink)
    rays = None if camera is None else rays_of(camera, grid, c.patch_size, rope, c.head_dim)
    context = FrameContext(layout, rope, age, mask, mask, fresh=fresh, rays=rays)
    if frame_mask is None:
        return context
    valid = frame_mask.to(age.device).bool()
    masked = _close(mask, valid)
    return context._replace(valid=valid, mask=mask if c.frame_mask == "dilute" else masked, camera_mask=masked)


def _close(mask: Tensor | None, valid: Tensor) -> Tensor:
    """Close the frames that are padding (B, F) to all others: (B, F or 1, memory + F)."""
    if mask is None:
        return valid[:, None]
    own = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    readable = valid[:, None] | own
    remembered = mask.shape[-1] - valid.shape[1]
    return torch.cat([mask[..., :remembered], mask[..., remembered:] & readable], dim=-1)
