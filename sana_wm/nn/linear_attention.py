"""ReLU linear attention: the mixer of images (spec section 2.3) and of video with RoPE (7.1), block-causal too (8.1).

With phi = ReLU and R the rotation of a token's position, a query i that sees the tokens j reads::

    o_i = (sum_j v_j <R_j phi(k_j), R_i phi(q_i)>) / (<sum_j phi(k_j), phi(q_i)> + eps)

The normaliser is not rotated, so that it stays positive. Sums over tokens are all that is remembered of them: a matrix
S (D x D) and a vector z (D) per head, whatever the number of tokens. :func:`linear_attention_dense` is the formula
written out; :func:`linear_attention` is the sums, over whole clips, chunk after chunk, or from a stream's memory.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.context import FrameContext
from sana_wm.nn.embeddings import apply_rope
from sana_wm.nn.layout import FrameLayout
from sana_wm.nn.norm import rms_norm


def linear_attention_dense(q, k, q_rot, k_rot, v, visible_FF: Tensor, eps: float = 1e-8) -> Tensor:
    """The formula with all pairs of tokens, for tests: quadratic in them, without memory.

    Args:
        q, k, q_rot, k_rot, v: (B, H, F, S, D), plain and rotated, ReLU'd.
        visible_FF: (F, F) bool, frame f reads frame j.
    Returns: (B, H, F, S, D).
    """
    weights = torch.einsum("bhfsd,bhjtd->bhfsjt", q_rot, k_rot)
    total = torch.einsum("bhfsd,bhjtd->bhfsjt", q, k)
    seen = visible_FF[:, None, :, None].to(q.dtype)
    out = torch.einsum("bhfsjt,bhjtd->bhfsd", weights * seen, v)
    return out / ((total * seen).sum((-1, -2))[..., None] + eps)


def visible(layout: FrameLayout) -> Tensor:
    """(F, F) bool: frame f reads frame j of the pass."""
    return layout.before | layout.after | torch.eye(len(layout.offset), dtype=torch.bool, device=layout.offset.device)


def linear_attention(q, k, q_rot, k_rot, v, state, layout: FrameLayout, eps: float = 1e-8, fresh: bool = False):
    """Running sums.

    Args:
        q, k, q_rot, k_rot, v: (B, H, F, S, D), plain and rotated, ReLU'd; where there is no rotation q_rot is q.
        state: (S (B, H, D, D) value by key, z (B, H, 1, D)) of what was written before; ``fresh``: it is zeros.
    Returns: outputs (B, H, F, S, D), state after the layout's writers.
    """
    frames = q.shape[2]
    matrix, vector = state
    if layout.one_chunk:
        flat = "b h f s d -> b h (f s) d"
        q, k, q_rot, k_rot, v = (rearrange(x, flat) for x in (q, k, q_rot, k_rot, v))
        seen, total = v.mT @ k_rot, k.sum(dim=-2, keepdim=True)
        if not fresh:
            seen, total = matrix + seen, vector + total
        out = rearrange((q_rot @ seen.mT) / (q @ total.mT + eps), "b h (f s) d -> b h f s d", f=frames)
        return out, (seen, total) if layout.num_writers else state
    written, totals = v.mT @ k_rot, k.sum(dim=-2, keepdim=True)  # of every frame: (B, H, F, D, D), (B, H, F, 1, D)
    table = visible(layout).to(q.dtype)
    seen, total = (torch.einsum("fj,bhjed->bhfed", table, sums) for sums in (written, totals))
    if not fresh:
        seen, total = matrix[:, :, None] + seen, vector[:, :, None] + total
    out = (q_rot @ seen.mT) / (q @ total.mT + eps)
    if not layout.num_writers:
        return out, state
    count = layout.num_writers
    return out, (matrix + written[:, :, :count].sum(2), vector + totals[:, :, :count].sum(2))


class LinearAttention(nn.Module):
    """Fused qkv without bias, full-width query/key norms or none, heads of ReLU linear attention, projection.

    Sums are float32 at least; float16 outputs stay in its range, where larger ones would be infinite (spec 22.1).

    Args:
        qk_norm: queries and keys are normalised over the full width, before the split into heads.
        rope: numerators are rotated by the position of their token.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, rope: bool, norm_eps: float = 1e-5, eps: float = 1e-8):
        super().__init__()
        self.heads, self.head_dim, self.rope, self.eps = heads, width // heads, rope, eps
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.RMSNorm(width, eps=norm_eps) if qk_norm else None
        self.k_norm = nn.RMSNorm(width, eps=norm_eps) if qk_norm else None
        self.proj = nn.Linear(width, width)

    def initial_state(self, lanes: int, tokens: int, device, dtype) -> dict[str, Tensor]:
        """Zero sums, float32 at least, whatever the number of tokens."""
        wide = torch.promote_types(dtype, torch.float32)
        shapes = {"memory": (self.head_dim, self.head_dim), "normaliser": (1, self.head_dim)}
        return {n: torch.zeros(lanes, self.heads, *s, device=device, dtype=wide) for n, s in shapes.items()}

    def forward(self, x_BFSC: Tensor, state: dict, context: FrameContext):
        """-> outputs (B, F, S, C), state after the writers."""
        q, k, v = self.qkv(x_BFSC).chunk(3, dim=-1)
        with torch.autocast(x_BFSC.device.type, enabled=False):
            wide = state["memory"].dtype
            split = "b f s (h d) -> b h f s d"
            q, k = (F.relu(self._normed(norm, part, wide)) for norm, part in ((self.q_norm, q), (self.k_norm, k)))
            q, k, v = (rearrange(part, split, h=self.heads) for part in (q, k, v.to(wide)))
            q_rot, k_rot = (apply_rope(q, context.rope), apply_rope(k, context.rope)) if self.rope else (q, k)
            memory = (state["memory"], state["normaliser"])
            out, memory = linear_attention(q, k, q_rot, k_rot, v, memory, context.layout, self.eps, context.fresh)
        out = self.proj(rearrange(out, "b h f s d -> b f s (h d)").to(x_BFSC.dtype))
        if out.dtype == torch.float16:
            out = out.clamp(*(getattr(torch.finfo(out.dtype), end) for end in ("min", "max")))
        return out, {"memory": memory[0], "normaliser": memory[1]}

    @staticmethod
    def _normed(norm: nn.RMSNorm | None, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype) if norm is None else rms_norm(norm, x, dtype)
