"""Text: its embedding, and cross-attention whose keys are made once per prompt (SANA-WM, spec sections 2.2, 2.3)."""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sana_wm.nn.norm import wide_norm


class TextMemory(NamedTuple):
    """A prompt as every block reads it.

    Attributes:
        blocks: keys and values of every block, each (B, H, L, D); with a prompt per chunk (B, K, H, L, D).
        mask: (B, L) or (B, K, L) bool, True for tokens of the prompt.
    """

    blocks: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor


def without_padding(text: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Features (..., L, E) and mask (..., L) without the tokens that are padding in every lane, which nothing reads.

    On a CPU only: elsewhere the host would have to wait for the mask.
    """
    if mask is None or mask.device.type != "cpu" or mask.shape != text.shape[:-1] or torch.compiler.is_compiling():
        return text, mask
    kept = mask.flatten(0, -2).any(dim=0)
    return (text, mask) if kept.all() or not kept.any() else (text[..., kept, :], mask[..., kept])


class TextEmbedding(nn.Module):
    """Features of a text encoder (B, L, E) -> (B, L, C): Linear -> GELU (tanh) -> Linear -> RMSNorm."""

    def __init__(self, text_dim: int, width: int, norm_eps: float = 1e-5):
        super().__init__()
        self.linear_1 = nn.Linear(text_dim, width)
        self.linear_2 = nn.Linear(width, width)
        self.norm = nn.RMSNorm(width, eps=norm_eps)
        nn.init.constant_(self.norm.weight, 0.01)

    def forward(self, text: Tensor) -> Tensor:
        return wide_norm(self.norm, self.linear_2(F.gelu(self.linear_1(text), approximate="tanh")))


class TextAttention(nn.Module):
    """Tokens of frames read tokens of text; full-width query/key norms, or none. Its output starts at zero."""

    def __init__(self, width: int, heads: int, norm_eps: float = 1e-6, qk_norm: bool = True):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_norm = nn.RMSNorm(width, eps=norm_eps) if qk_norm else None
        self.k_norm = nn.RMSNorm(width, eps=norm_eps) if qk_norm else None
        self.proj = nn.Linear(width, width)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def remember(self, text_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., H, L, D) of an embedded prompt (..., L, C)."""
        k, v = self.kv(text_BLC).chunk(2, dim=-1)
        k = wide_norm(self.k_norm, k)
        return tuple(rearrange(part, "... l (h d) -> ... h l d", h=self.heads) for part in (k, v))

    def forward(
        self,
        x_BFSC: Tensor,
        memory: tuple[Tensor, Tensor],
        mask: Tensor,
        parts: tuple[tuple[int, int, int], ...] | None = None,
    ) -> Tensor:
        """-> (B, F, S, C).

        Args:
            memory, mask: as in :class:`TextMemory`.
            parts: with a prompt per chunk, which it is of: (first frame, one past the last, row of K).
        """
        if parts is not None:
            rows = (
                self(x_BFSC[:, start:stop], tuple(part[:, row] for part in memory), mask[:, row])
                for start, stop, row in parts
            )
            return torch.cat(list(rows), dim=1)
        q = rearrange(wide_norm(self.q_norm, self.q(x_BFSC)), "b f s (h d) -> b h (f s) d", h=self.heads)
        keys, values = (part.to(q.dtype) for part in memory)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask[:, None, None, :])
        return self.proj(rearrange(out, "b h (f s) d -> b f s (h d)", s=x_BFSC.shape[2]))
