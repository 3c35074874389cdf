"""Frame-wise Gated DeltaNet (SANA-WM, spec section 3): one frame inserts its S key/value pairs into the memory at once.

Column convention per head, frame t with keys K, values V in R^(D x S), B = diag(beta), decay g::

    S_t = g S_(t-1) (I - K~ B K~^T) + V B K~^T          numerator, rotated keys
    z_t = g (I - K B K^T) z_(t-1) + K beta              denominator, plain keys, target value 1
    out = (S_t Q~ + R_t Q~) / (z_t^T Q + r_t^T Q + eps) R, r: the same from the future inside the chunk, excluding t

``form="sequential"`` is this, frame by frame. ``form="parallel"`` solves all frames of a window at once: with
Delta_t = (V - g S_(t-1) K~) B the state is S_t = sum_j (decay from j to t) Delta_j K~_j^T, so the Deltas solve a
triangular system in the tokens, and everything else is a masked matrix product. It costs (F S)^2 per head instead of
F D^2 S, and wins for short windows.
"""

import torch
from einops import rearrange
from torch import Tensor

from sana_wm.nn.layout import FrameLayout

PARALLEL_TOKENS = 1024  # above this many tokens a window the quadratic form costs more memory than it saves time


def _absorb(memory: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
    """One frame into the memory. memory (B H Dv D), k (B H S D), v (B H S Dv), beta (B H S), decay (B H)."""
    memory = decay[..., None, None] * memory
    delta = (v - k @ memory.transpose(-1, -2)) * beta[..., None]
    return memory + delta.transpose(-1, -2) @ k


def _scan(q, k, v, beta, log_decay, memory, layout: FrameLayout) -> tuple[Tensor, Tensor]:
    """Sequential delta rule. q, k (B H F S D), v (B H F S Dv) -> reads (B H F S Dv), memory after the writers."""
    num_frames = q.shape[2]
    decay = log_decay.exp()

    def absorb(state, f):
        return _absorb(state, k[:, :, f], v[:, :, f], beta[:, :, f], decay[:, :, f])

    previous, following = layout.path()
    absorbed, reads = [], []
    for f in range(num_frames):
        absorbed.append(absorb(memory if previous[f] is None else absorbed[previous[f]], f))
        reads.append(q[:, :, f] @ absorbed[f].transpose(-1, -2))
    if layout.bidirectional:
        absorbed_back = [None] * num_frames
        for f in reversed(range(num_frames)):  # frames of a chunk stand in order
            later = torch.zeros_like(memory) if following[f] is None else absorbed_back[following[f]]
            reads[f] = reads[f] + q[:, :, f] @ later.transpose(-1, -2)
            absorbed_back[f] = absorb(later, f)
    return torch.stack(reads, dim=2), absorbed[layout.num_writers - 1] if layout.num_writers else memory


def _decay_between(log_decay: Tensor, to: Tensor, frm: Tensor, mask: Tensor, tokens: int) -> Tensor:
    """exp(to_f - from_j) where mask[f, j], else 0, repeated for the tokens of each frame: (B H N N)."""
    weight = (to[..., :, None] - frm[..., None, :]).masked_fill(~mask, -torch.inf).exp()
    return weight.repeat_interleave(tokens, dim=-2).repeat_interleave(tokens, dim=-1)


def _solve(q, k, v, beta, log_decay, memory, layout: FrameLayout) -> tuple[Tensor, Tensor]:
    """The same as :func:`_scan` in closed form over all frames."""
    num_frames, tokens = q.shape[2:4]
    flat = "b h f s d -> b h (f s) d"
    q, k, v = rearrange(q, flat), rearrange(k, flat), rearrange(v, flat)
    beta = rearrange(beta, "b h f s -> b h (f s) 1")
    own = torch.eye(num_frames, dtype=torch.bool, device=q.device)
    path = layout.before | own
    total = log_decay @ path.to(log_decay.dtype).T  # log decay from the state to the frame, its own included
    from_state = total.exp().repeat_interleave(tokens, dim=-1)[..., None]

    target = beta * (v - from_state * (k @ memory.transpose(-1, -2)))
    system = beta * (k @ k.transpose(-1, -2)) * _decay_between(log_decay, total, total, layout.before, tokens)
    delta = torch.linalg.solve_triangular(system, target, upper=False, unitriangular=True)
    weights = (q @ k.transpose(-1, -2)) * _decay_between(log_decay, total, total, path, tokens)
    reads = from_state * (q @ memory.transpose(-1, -2)) + weights @ delta

    if layout.bidirectional:
        total_back = log_decay @ (layout.after | own).to(log_decay.dtype).T
        system = (
            beta * (k @ k.transpose(-1, -2)) * _decay_between(log_decay, total_back, total_back, layout.after, tokens)
        )
        delta_back = torch.linalg.solve_triangular(system, beta * v, upper=True, unitriangular=True)
        # the memory is read before the frame itself decays it: exclusive of the frame's own decay
        weights = (q @ k.transpose(-1, -2)) * _decay_between(
            log_decay, total_back - log_decay, total_back, layout.after, tokens
        )
        reads = reads + weights @ delta_back

    if layout.num_writers:
        last, count = layout.num_writers - 1, layout.num_writers * tokens
        until_end = (total[..., last : last + 1] - total[..., : last + 1]).exp().repeat_interleave(tokens, dim=-1)
        written = (delta[:, :, :count] * until_end[..., None]).transpose(-1, -2) @ k[:, :, :count]
        memory = total[..., last, None, None].exp() * memory + written
    return rearrange(reads, "b h (f s) d -> b h f s d", s=tokens), memory


def _single(q, k, v, beta, log_decay, memory, layout: FrameLayout) -> tuple[Tensor, Tensor]:
    """The same for one frame that depends on nothing but the memory: the stream's case."""
    q, k, v, beta = q[:, :, 0], k[:, :, 0], v[:, :, 0], beta[:, :, 0, :, None]
    decay = log_decay.exp()[..., None]
    recalled = decay * (torch.cat([q, k], dim=-2) @ memory.mT)
    from_query, from_key = recalled.split(q.shape[-2], dim=-2)
    delta = (v - from_key) * beta
    reads = from_query + (q @ k.mT) @ delta
    if layout.num_writers:
        memory = decay * memory
        # one token is an outer product: elementwise beats a batched matrix product with inner width 1
        memory = memory.addcmul_(delta.mT, k) if k.shape[-2] == 1 else memory + delta.mT @ k
    return reads[:, :, None], memory


def _matrices(q, k, v, beta, log_decay, memory, layout: FrameLayout) -> tuple[Tensor, Tensor]:
    """The same with a frame as one map of the memory, ``S -> S P + U``: for frames of many tokens.

    P = g (I - K B K^T) and U = V B K^T are made once for all frames and serve both directions, the scans are over D x D
    matrices, and each query reads once: the sum of what came before and what follows.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    written = k * beta[..., None]
    keep = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device) - written.mT @ k
    keep, write = log_decay.exp()[..., None, None] * keep, v.mT @ written

    def absorb(state, f):
        return state @ keep[:, :, f] + write[:, :, f]

    previous, following = layout.path()
    absorbed = []
    for f in range(q.shape[2]):
        absorbed.append(absorb(memory if previous[f] is None else absorbed[previous[f]], f))
    seen = list(absorbed)
    if layout.bidirectional:
        back = [None] * q.shape[2]
        for f in reversed(range(q.shape[2])):
            if following[f] is None:
                back[f] = write[:, :, f]
            else:
                seen[f] = absorbed[f] + back[following[f]]
                back[f] = absorb(back[following[f]], f)
    reads = q @ torch.stack(seen, dim=2).mT
    return reads, absorbed[layout.num_writers - 1] if layout.num_writers else memory


def delta_rule(q, k, v, beta, log_decay, memory, layout: FrameLayout, form: str = "auto") -> tuple[Tensor, Tensor]:
    """Delta rule without a normaliser (the numerator above; all of the camera branch, spec section 4.3).

    Args:
        q, k: (B, H, F, S, D) queries and keys as they meet the memory. v: (B, H, F, S, Dv).
        beta: (B, H, F, S) in (0, 1). log_decay: (B, H, F) <= 0. memory: (B, H, Dv, D).
        form: ``"sequential"``, ``"matrices"``, ``"parallel"``, ``"single"`` (one frame) or ``"auto"``.
    Returns: reads (B, H, F, S, Dv) and the memory after the layout's writers.
    """
    form = _fastest(*q.shape[2:], layout.bidirectional) if form == "auto" else form
    run = {"parallel": _solve, "sequential": _scan, "single": _single, "matrices": _matrices}[form]
    return run(q, k, v, beta, log_decay, memory, layout)


def _fastest(frames: int, tokens: int, width: int, bidirectional: bool) -> str:
    """What takes the fewest products. A frame costs about S D^2 a pass in a scan, D^3 a step between matrices."""
    if tokens >= width:
        return "matrices" if bidirectional else "sequential"
    return "single" if frames == 1 else "parallel" if frames * tokens <= PARALLEL_TOKENS else "sequential"


def gated_delta(
    q, k, q_rot, k_rot, v, beta, log_decay, state, layout: FrameLayout, eps: float = 1e-8, form: str = "auto"
):
    """Gated delta rule with normaliser.

    Args:
        q, k, q_rot, k_rot, v: (B, H, F, S, D) plain and rotated queries and keys (already ReLU'd and scaled), values.
        beta, log_decay, form: as in :func:`delta_rule`.
        state: (numerator (B, H, D, D) value by key, denominator (B, H, 1, D)).
    Returns: outputs (B, H, F, S, D) and the state after the layout's writers.
    """
    numerator, memory = delta_rule(q_rot, k_rot, v, beta, log_decay, state[0], layout, form)
    ones = torch.ones_like(v[..., :1])
    denominator, normaliser = delta_rule(q, k, ones, beta, log_decay, state[1], layout, form)
    return numerator / (denominator + eps), (memory, normaliser)
