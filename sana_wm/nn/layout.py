"""Who sees whom in time: one description that serves training, the causal forward and the stream.

A forward pass holds F frames. The first ones are *writers*: they enter the memory, chunk after chunk, and later frames
read them. The others are *readers*: each reader chunk reads the memory as it stood after a given number of writer
frames, and itself, and leaves no trace. Three situations are the same thing with other numbers:

==========================  =============================  =====================================
situation                   writers                        readers
==========================  =============================  =====================================
causal forward, commit      all frames                     none
denoising in a stream       none (memory is the state)     the chunk being denoised
training (two streams)      the clean frames               noisy chunk k, after the writers of chunks < k
==========================  =============================  =====================================

Frames of one chunk see each other in both directions; chunks are causal.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FrameLayout:
    """Index tables over F frames, writers first.

    Attributes:
        offset: (F,) int64, time of each frame relative to the first frame after the state.
        chunk_start: (F,) int64, offset of the first frame of f's chunk.
        before: (F, F) bool, ``before[f, j]``: frame j has been absorbed when frame f arrives (forward direction).
        after: (F, F) bool, frame j follows f inside f's own chunk (backward direction).
        num_writers: the first so many frames enter the memory.
        bidirectional: some chunk has more than one frame, so that ``after`` is not empty.
    """

    offset: Tensor
    chunk_start: Tensor
    before: Tensor
    after: Tensor
    num_writers: int
    bidirectional: bool

    @lru_cache(maxsize=256)  # noqa: B019 - layouts are few and live as long as the process (see frame_layout)
    def neighbour(self, distance: int, tail: int, device: torch.device) -> Tensor:
        """(F,) index of the frame ``distance`` steps later (negative: earlier) into [tail | F frames | one zero frame].

        The tail holds the last ``tail`` frames of the state, oldest first. Earlier frames are looked up along f's path
        (``before``), later ones inside f's chunk (``after``); where there is none the zero frame is meant.
        """
        num_frames, offset = len(self.offset), self.offset.tolist()
        table = (self.before if distance < 0 else self.after).tolist()
        index = []
        for f in range(num_frames):
            wanted = offset[f] + distance
            found = [j for j, is_seen in enumerate(table[f]) if is_seen and offset[j] == wanted]
            if found:
                index.append(tail + found[0])
            else:
                in_tail = distance < 0 and -tail <= wanted < 0
                index.append(tail + wanted if in_tail else tail + num_frames)
        return torch.tensor(index, device=device)

    @lru_cache(maxsize=256)  # noqa: B019
    def runs(self, distance: int, tail: int) -> tuple[tuple[int, int, int], ...]:
        """:meth:`neighbour` as slices ``(start, stop, source)``: frames ``start:stop`` have ``source`` and on.

        A source lies in the tail where ``source < tail``, and else in the frames, a run never in both. Frames whose
        neighbour is the zero frame are in no run.
        """
        index = self.neighbour(distance, tail, torch.device("cpu")).tolist()
        runs = []
        for f, source in enumerate(index):
            if source == tail + len(index):
                continue
            start, stop, first = runs[-1] if runs else (0, -1, 0)
            if stop == f and source == first + f - start and source != tail:
                runs[-1] = (start, f + 1, first)
            else:
                runs.append((f, f + 1, source))
        return tuple(runs)

    @property
    def one_chunk(self) -> bool:
        """All frames see each other."""
        frames = len(self.offset)
        return self.runs(1, 0) == (((0, frames - 1, 1),) if frames > 1 else ())

    @lru_cache(maxsize=64)  # noqa: B019
    def path(self) -> tuple[list[int | None], list[int | None]]:
        """For every frame the one just before it along its path, and the one just after it inside its chunk."""
        offset, before, after = self.offset.tolist(), self.before.tolist(), self.after.tolist()

        def nearest(table: list[list[bool]], latest: bool) -> list[int | None]:
            seen = ([j for j, is_seen in enumerate(row) if is_seen] for row in table)
            return [(max if latest else min)(row, key=offset.__getitem__, default=None) for row in seen]

        return nearest(before, latest=True), nearest(after, latest=False)

    @lru_cache(maxsize=64)  # noqa: B019
    def chunks(self) -> tuple[tuple[int, int, int], ...]:
        """``(start, stop, number)``: frames ``start:stop`` are of the ``number``-th chunk in time, from 0.

        A writer chunk and the reader chunk of the same time have the same number.
        """
        starts = self.chunk_start.tolist()
        numbers = {start: number for number, start in enumerate(sorted(set(starts)))}
        runs = []
        for f, start in enumerate(starts):
            if runs and runs[-1][2] == numbers[start]:
                runs[-1] = (runs[-1][0], f + 1, numbers[start])
            else:
                runs.append((f, f + 1, numbers[start]))
        return tuple(runs)

    @lru_cache(maxsize=64)  # noqa: B019
    def on(self, device: torch.device) -> "FrameLayout":
        """The same layout with its tensors on ``device``."""
        tensors = {name: getattr(self, name).to(device) for name in ("offset", "chunk_start", "before", "after")}
        return replace(self, **tensors)


@lru_cache(maxsize=64)
def frame_layout(write_chunks: tuple[int, ...], read_chunks: tuple[tuple[int, int], ...] = ()) -> FrameLayout:
    """Build a layout.

    Args:
        write_chunks: sizes of the writer chunks, in order.
        read_chunks: ``(size, writers_before)`` of each reader chunk: it reads the state plus the first
            ``writers_before`` writer frames.
    """
    chunks, start = [], 0  # (offset of first frame, size, number of writers seen before the chunk)
    for size in write_chunks:
        chunks.append((start, size, start))
        start += size
    num_writers = start
    for size, seen in read_chunks:
        if not 0 <= seen <= num_writers:
            raise ValueError(f"a reader chunk follows {seen} writer frames, but there are {num_writers}")
        chunks.append((seen, size, seen))
    num_frames = sum(size for _, size, _ in chunks)
    offset = torch.zeros(num_frames, dtype=torch.int64)
    chunk_start = torch.zeros(num_frames, dtype=torch.int64)
    before = torch.zeros(num_frames, num_frames, dtype=torch.bool)
    after = torch.zeros(num_frames, num_frames, dtype=torch.bool)
    f = 0
    for first, size, seen in chunks:
        for i in range(size):
            offset[f + i], chunk_start[f + i] = first + i, first
            before[f + i, :seen] = True
            before[f + i, f : f + i] = True
            after[f + i, f + i + 1 : f + size] = True
        f += size
    return FrameLayout(offset, chunk_start, before, after, num_writers, bidirectional=bool(after.any()))


def chunks_of(
    num_frames: int, chunk_size: int, first_chunk_plus_one: bool = False, remainder_first: bool = False
) -> tuple[int, ...]:
    """Partition ``num_frames`` into chunks; the last one may be short, the first one may be longer by one.

    With ``remainder_first`` none is short: what does not fill a chunk is added to the first one (spec section 8.2).
    """
    sizes, left = [], num_frames
    if first_chunk_plus_one and left:
        sizes.append(min(left, chunk_size + 1))
        left -= sizes[-1]
    elif remainder_first and left:
        sizes.append(min(left, chunk_size + left % chunk_size))
        left -= sizes[-1]
    while left:
        sizes.append(min(left, chunk_size))
        left -= sizes[-1]
    return tuple(sizes)
