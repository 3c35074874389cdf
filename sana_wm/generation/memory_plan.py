"""How much memory generating will take, told before anything is loaded (docs/memory.md has what was measured).

The networks take turns, so the most that is in use is that of the largest phase: its weights, and what it works on, by
:mod:`sana_wm.generation.memory_formulas`. Pages of weight files that are mapped while a tensor is read are not counted:
the system takes them back when it needs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sana_wm.generation.memory import GB
from sana_wm.generation.memory_formulas import (
    Asked,
    Shapes,
    VideoCoder,
    autoencoder_weights,
    autoencoder_working,
    text_weights,
    text_working,
    transformer_weights,
    transformer_working,
)
from sana_wm.models.dc_ae import DCAEConfig
from sana_wm.models.sana_config import SanaConfig

PROCESS = 0.56e9  # Python, torch, diffusers, transformers and torchao, in host memory
# On a CPU: what its library of products needs, and freed tensors of less than 4 MB, which stay with the heap.
HEAP = 0.12e9
OWN_GROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_V2 = "memory.max", "memory.current", "inactive_file"
_V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"  # no limit: 2^63 and a little less


@dataclass(frozen=True)
class Phase:
    """One network at work: bytes of its weights, and of everything else while it works."""

    name: str
    weights: int
    working: int

    @property
    def bytes(self) -> int:
        return self.weights + self.working


@dataclass(frozen=True)
class Networks:
    """What takes turns.

    Attributes:
        transformer: its configuration. text: shapes of the text encoder's tensors by name; None: there is none.
        autoencoder: of images, or of videos; None: it is not planned.
        saved_as: what the transformer's files are quantised to already.
    """

    transformer: SanaConfig
    text: Shapes | None = None
    autoencoder: DCAEConfig | VideoCoder | None = None
    saved_as: str | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """Phases in their order, and what there is.

    Attributes:
        process: bytes that are there in every phase. available: bytes that can be had in all; None: unknown.
    """

    phases: tuple[Phase, ...]
    process: int = 0
    available: int | None = None
    device: str = "cpu"

    @property
    def peak(self) -> int:
        return self.process + max((phase.bytes for phase in self.phases), default=0)

    @property
    def fits(self) -> bool:
        return self.available is None or self.peak <= self.available

    def lines(self) -> list[str]:
        """For a person: a line for each phase, then the most in use and what is available."""
        width = max(len(phase.name) for phase in self.phases)
        lines = [
            f"{phase.name:<{width}}  weights {phase.weights / GB:6.2f} GB + working {phase.working / GB:6.2f} GB"
            f" = {(self.process + phase.bytes) / GB:6.2f} GB" + " with the process" * (self.process > 0)
            for phase in self.phases
        ]
        there = "" if self.available is None else f"; available on {self.device}: {self.available / GB:.2f} GB"
        return [*lines, f"expected peak {self.peak / GB:.2f} GB{there}"]


def plan_memory(networks: Networks, asked: Asked, device: torch.device | str = "cpu") -> MemoryPlan:
    """The phases of ``asked`` on a device, which may be one that is not here: nothing is known as available then."""
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    phases = []
    if networks.text is not None:
        weights = text_weights(networks.text, asked.dtype, asked.quantise_text)
        phases.append(Phase("text encoder", weights, text_working(networks.text, asked.dtype)))
    kind = networks.saved_as or asked.quantise
    working = transformer_working(networks.transformer, asked) + int(HEAP) * on_cpu
    phases.append(Phase("transformer", transformer_weights(networks.transformer, asked.dtype, kind), working))
    if (coder := networks.autoencoder) is not None:
        if isinstance(coder, VideoCoder):
            phases.append(Phase("autoencoder", coder.weights(asked), coder.working(asked)))
        else:
            working = autoencoder_working(coder, asked)
            phases.append(Phase("autoencoder", autoencoder_weights(coder, asked.dtype), working))
        if asked.together:
            *phases, first, second = phases
            name = f"{first.name} and {second.name}"
            phases.append(Phase(name, first.weights + second.weights, max(first.working, second.working)))
    return MemoryPlan(tuple(phases), int(PROCESS) * on_cpu, available_memory(device), str(device))


def changes_that_help(
    networks: Networks, asked: Asked, device: torch.device | str, plan: MemoryPlan
) -> list[tuple[str, int]]:
    """What to change, one thing after the other, each with the peak that it gives on top of those before it.

    In every round it is the change that costs the picture least of those that make the plan fit, or where none does the
    one that lowers the peak most. Where the plan fits already, and where nothing helps any more, there are none.
    """
    found: list[tuple[str, int]] = []
    peak = plan.peak
    while plan.available is not None and peak > plan.available:
        rounds = {name: replace(asked, **change) for name, change in _candidates(networks, asked)}
        peaks = {name: plan_memory(networks, changed, device).peak for name, changed in rounds.items()}
        fitting = [name for name in peaks if peaks[name] <= plan.available]
        best = fitting[0] if fitting else min(peaks, key=peaks.get, default=None)
        if best is None or peaks[best] > 0.98 * peak:
            break
        asked, peak = rounds[best], peaks[best]
        found.append((best, peak))
    return found


def _candidates(networks: Networks, asked: Asked) -> Iterable[tuple[str, dict]]:
    """Changes, those that cost the picture least first."""
    if isinstance(coder := networks.autoencoder, VideoCoder):
        if asked.tiling != "on" and not asked.together:
            yield "tiling=on", {"tiling": "on"}
    elif asked.tile is None or asked.tile > 512:
        yield "tile=512", {"tile": 512}
    if asked.batch > 1:
        yield "batch=1", {"batch": 1}
    if asked.dtype == torch.float32:
        yield "dtype=bfloat16", {"dtype": torch.bfloat16}
    for name in ("quantise_text", "quantise"):
        for kind in {None: ("int8", "int4"), "int8": ("int4",)}.get(getattr(asked, name), ()):
            yield f"{name}={kind}", {name: kind}
    if isinstance(coder, VideoCoder) and asked.frames > 2 and not asked.together:
        half = asked.frames // 2
        yield f"frames={coder.stride * (half - 1) + 1}", {"frames": half}


def plan_lines(networks: Networks, asked: Asked, device: torch.device | str, plan: MemoryPlan) -> list[str]:
    """For a person: the plan, and where it does not fit what to change."""
    lines = plan.lines()
    if not plan.fits:
        lines.append("it does not fit. Add, in this order, until it does:")
        changes = changes_that_help(networks, asked, device, plan)
        lines += [f"  {change}: expected peak {peak / GB:.2f} GB" for change, peak in changes]
        if not changes:
            lines.append("  nothing that can be set helps: a smaller member, or a machine with more memory")
    return lines


# --- what there is ---------------------------------------------------------------------------------------------------


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process can have in all on a device, what it has included; None where that is not known."""
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return None
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type != "cpu":
        return None
    free = [_meminfo(), _of_container()]
    known = [value for value in free if value is not None]
    return min(known) + _resident() if known else None


def _meminfo() -> int | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _of_container() -> int | None:
    """What the limits of the control groups that this process is in leave (Linux; version 1 or 2, as containers have
    them); files that were read and may be forgotten do not count."""
    left = []
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        root, *names = (CGROUPS, *_V2) if number == "0" else (CGROUPS / "memory", *_V1)
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if (room := _room(folder, *names)) is not None:
                left.append(room)
            if folder == root:
                break
    return min(left, default=None)


def _room(group: Path, limit: str, used: str, forgotten: str) -> int | None:
    try:
        told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        room = int((group / limit).read_text()) - int((group / used).read_text()) + int(told.get(forgotten, 0))
    except (OSError, ValueError):  # there is none, or it says "max"
        return None
    return max(0, room)


def _resident() -> int:
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0
