"""What is where in memory, and what to do when there is not enough of it."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from sana_wm.generation.planned import Planned

WORKING = 12e9  # bytes that 161 frames of 704 x 1280 and their guidance take beside the weights, roughly
GB = 1e9


# Of glibc. malloc_trim: pages of the heap that are free go back to the system. Without it what was freed there stays
# with the process, and the next network comes on top of it.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_trim = getattr(_LIBC, "malloc_trim", None)
_mallopt, _MMAP_THRESHOLD = getattr(_LIBC, "mallopt", None), -3
OWN_PAGES = 4 * 2**20  # bytes from which an allocation has pages of its own, see :func:`avoid_holes`


class Offload:
    """Networks on the device while they work; those that wait are in host memory, if ``sequential``.

    Args:
        device: that computes.
    """

    def __init__(self, device: torch.device, sequential: bool):
        self.device, self.sequential = device, sequential

    @contextmanager
    def use(self, *modules: nn.Module) -> Iterator[None]:
        """The modules are on the device inside the block."""
        for module in modules:
            module.to(self.device)
        try:
            yield
        finally:
            if self.sequential:
                for module in modules:
                    module.to("cpu")
                release_memory()


def release_memory() -> None:
    """Give what nothing refers to any more back to the system."""
    gc.collect()
    if _trim is not None:
        _trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def avoid_holes() -> None:
    """For a whole process on glibc: what takes 4 MB or more lies outside of the heap, and goes back when it is freed.

    By itself glibc comes to keep tensors of up to 32 MB in the heap, where those that stay leave holes between them: a
    transformer's working memory then grows from block to block (docs/memory.md). Fresh pages cost some time.
    """
    if _mallopt is not None:
        _mallopt(_MMAP_THRESHOLD, OWN_PAGES)


def choose_offload(setting: str, device: torch.device, weights: list[Path]) -> Offload:
    """``auto`` is sequential where the weights that take turns, and what they work on, would not fit together."""
    if device.type != "cuda":
        return Offload(device, False)
    if setting == "auto":
        free, _ = torch.cuda.mem_get_info(device)
        setting = "sequential" if sum(map(_size, weights)) + WORKING > free else "none"
    return Offload(device, setting == "sequential")


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Most bytes in use so far, and of what: the device's, or this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "GPU memory"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch (on any device) or Python could not get memory: on the CPU, torch says so in words only."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
    said = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def out_of_memory_advice(planned: Planned, doing: str) -> str:
    """What was going on, how much memory was in use, and what to change, most useful first."""
    settings, offload, frames = planned.settings, planned.offload, planned.raw_frames
    cuda, streams, used = offload.device.type == "cuda", planned.mode.streams, ""
    if cuda:
        free, total = torch.cuda.mem_get_info(offload.device)
        held = torch.cuda.max_memory_allocated(offload.device)
        used = f" ({held / GB:.1f} GB at most in use by torch; {free / GB:.1f} of {total / GB:.1f} GB free)"
    fewer = max(9, (frames // 2 - 1) // 8 * 8 + 1)
    advice = {
        "offload=sequential: what is idle waits in host memory": cuda and not offload.sequential,
        "streaming=true, with model=sana-wm-streaming: memory does not grow with the frames": not streams,
        f"num_frames={fewer}: fewer frames": not streams and fewer < frames,
        "dtype=bfloat16: half the memory of the weights": planned.dtype == torch.float32,
        "tiling=on: decode in tiles": not streams and settings.tiling != "on",
        "refine=false": settings.refine,
    }
    lines = [line for line, helps in advice.items() if helps] or [
        "a device with more memory; all that saves some is on"
    ]
    listed = "".join(f"\n  {number}. {line}" for number, line in enumerate(lines, 1))
    return f"out of memory on {offload.device} at {doing!r}{used}. Try, in this order:{listed}"
