"""ReLU linear attention: the mixer of images (spec section 2.3) and of video with RoPE (7.1), block-causal too (8.1).

With phi = ReLU and R the rotation of a token's position, a query i that sees the tokens j reads::

    o_i = (sum_j v_j <R_j phi(k_j), R_i phi(q_i)>) / (<sum_j phi(k_j), phi(q_i)> + eps)

The normaliser is not rotated, so that it stays positive. Sums over tokens are all that is remembered of them: a matrix
S (D x D) and a vector z (D) per head, whatever the number of tokens. :func:`linear_attention_dense` is the formula
written out; :func:`linear_attention` is the sums, over whole clips, chunk after chunk, or from a stream's memory.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.context import FrameContext
from sana_wm.nn.embeddings import apply_rope
from sana_wm.nn.layout import FrameLayout
from sana_wm.nn.norm import rms_norm, rms_scale

AT_ONCE = 2**24  # elements of queries that are wide at once without gradients, or those of one head


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
        out, memory = self._mixed(self.qkv(x_BFSC), x_BFSC.dtype, state, context)
        out = self.proj(out)
        if out.dtype == torch.float16:
            out = out.clamp(*(getattr(torch.finfo(out.dtype), end) for end in ("min", "max")))
        return out, dict(zip(("memory", "normaliser"), memory, strict=True))

    def _mixed(self, qkv: Tensor, dtype: torch.dtype, state: dict, context: FrameContext):
        """-> what the projection reads (B, F, S, C), memory after the writers.

        Heads do not meet, so that without gradients only as many are wide at once as :data:`AT_ONCE` says.
        """
        q, k, v = qkv.chunk(3, dim=-1)
        memory, wide = (state["memory"], state["normaliser"]), state["memory"].dtype
        at_once = max(AT_ONCE // max(q[..., : self.head_dim].numel(), 1), 1)
        with torch.autocast(qkv.device.type, enabled=False):
            if torch.is_grad_enabled() or at_once >= self.heads:
                q, k = (
                    part.to(wide) if norm is None else rms_norm(norm, part, wide)
                    for norm, part in ((self.q_norm, q), (self.k_norm, k))
                )
                out, memory = self._attend(q, k, v.to(wide), memory, context)
                return out.to(dtype), memory
            gains = [_gain(norm, part, wide) for norm, part in ((self.q_norm, q), (self.k_norm, k))]
            out, after = torch.empty_like(q, dtype=dtype), []
            for start in range(0, self.heads, at_once):
                some = slice(start, start + at_once)
                of = slice(start * self.head_dim, (start + at_once) * self.head_dim)
                wide_q, wide_k = (gain(part[..., of].to(wide), of) for gain, part in zip(gains, (q, k), strict=True))
                before = tuple(part[:, some] for part in memory)
                out[..., of], one = self._attend(wide_q, wide_k, v[..., of].to(wide), before, context)
                after.append(one)
            return out, tuple(torch.cat(parts, dim=1) for parts in zip(*after, strict=True))

    def _attend(self, q, k, v, memory: tuple[Tensor, Tensor], context: FrameContext):
        """Some heads: q, k (normalised) and v (B, F, S, heads D) -> the same, memory of these heads."""
        split = "b f s (h d) -> b h f s d"
        q, k, v = (rearrange(part, split, d=self.head_dim) for part in (F.relu(q), F.relu(k), v))
        q_rot, k_rot = (apply_rope(q, context.rope), apply_rope(k, context.rope)) if self.rope else (q, k)
        out, memory = linear_attention(q, k, q_rot, k_rot, v, memory, context.layout, self.eps, context.fresh)
        return rearrange(out, "b h f s d -> b f s (h d)"), memory


def _gain(norm: nn.RMSNorm | None, x: Tensor, dtype: torch.dtype) -> Callable[[Tensor, slice], Tensor]:
    """``norm`` of x, a function of some of its channels and of which these are."""
    if norm is None:
        return lambda part, of: part
    scale, weight = rms_scale(norm, x, dtype), norm.weight.to(dtype)
    return lambda part, of: part * scale * weight[of]
