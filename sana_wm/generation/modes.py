"""How a release generates: which of the three ways, with what schedule (SANA-WM, spec sections 6 and 7)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sana_wm.diffusion.schedules import FEW_STEPS, few_step_schedule, flow_schedule
from sana_wm.generation.settings import GenerateSettings
from sana_wm.models.presets import PRESETS
from sana_wm.models.release import RELEASES, Release

BIDIRECTIONAL, CHUNK_CAUSAL, STREAMING = "sana-wm-bidirectional", "sana-wm-chunk-causal", "sana-wm-streaming"
TEACHER_STEPS, TEACHER_GUIDANCE = 60, 5.0
WINDOW = {name: PRESETS[STREAMING][name] for name in ("sink", "window")}


@dataclass(frozen=True)
class Mode:
    """A way to generate.

    Attributes:
        name: ``bidirectional`` (all frames at once), ``chunk_causal`` (staggered chunks, no memory) or ``streaming``
            (chunk after chunk against a memory of constant size).
        preset, changes: to load the transformer with.
        sigmas: (steps + 1,). guidance: 1 for none. interval: between staggered chunks, None: the sampler's own.
        chunk: latent frames that the length grows by.
        notes: for people.
    """

    name: str
    preset: str | None
    sigmas: Tensor
    guidance: float
    interval: float | None = None
    chunk: int = 1
    changes: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def streams(self) -> bool:
        return self.name == "streaming"


def choose_mode(settings: GenerateSettings, release: Release) -> Mode:
    """The mode that weights and settings ask for.

    Raises:
        ValueError: a stream of weights that were never trained for it, without ``force``; bad timesteps.
    """
    trained = _trained_as(settings, release)
    own = {} if trained else _own_config(release)
    notes: tuple[str, ...] = ()
    if not trained and not own:
        trained = BIDIRECTIONAL
        notes += (
            f"{release.root} does not say how its weights were trained: taken for {trained} (preset=... says it)",
        )
    causal = own.get("temporal") == "chunk_causal" or trained in (CHUNK_CAUSAL, STREAMING)
    distilled = trained == STREAMING or (causal and "timesteps" in release.settings)
    streams = distilled if settings.streaming is None else settings.streaming
    if streams and not causal:
        if not settings.force:
            raise ValueError(
                f"streaming=true: the weights of {release.root} are {trained or 'bidirectional'}, trained to see the "
                "whole clip, and fall apart when they stream. Take model=sana-wm-streaming; leave streaming out; or "
                "add force=true to see for yourself (preset=... if they are other weights)"
            )
        notes += ("these weights were not trained to stream: expect drift",)
    sigmas, guidance = _schedule(settings, release, distilled)
    if not streams and not causal:
        return Mode("bidirectional", trained, sigmas, guidance, notes=notes)
    if not streams:
        interval = 1.0 if distilled else None  # the student was trained against chunks that are done
        return Mode("chunk_causal", trained, sigmas, guidance, interval, notes=notes)
    runs_as = STREAMING if trained or not causal else None
    c = own if runs_as is None else PRESETS[runs_as]
    changes = WINDOW if runs_as is None and c.get("window", -1) < 0 else {}
    chunk = c.get("chunk_size", 1) if c.get("first_chunk_plus_one") else 1
    return Mode("streaming", runs_as, sigmas, guidance, None, chunk, dict(changes), notes)


def _schedule(settings: GenerateSettings, release: Release, distilled: bool) -> tuple[Tensor, float]:
    guidance = settings.guidance if settings.guidance is not None else (1.0 if distilled else TEACHER_GUIDANCE)
    steps = settings.steps
    if steps is None:
        steps = tuple(release.settings.get("timesteps", FEW_STEPS)) if distilled else TEACHER_STEPS
    sigmas = few_step_schedule(steps) if isinstance(steps, tuple) else flow_schedule(steps, settings.shift)
    return sigmas, float(guidance)


def _trained_as(settings: GenerateSettings, release: Release) -> str | None:
    """The preset that the weights were trained as, if anything says so."""
    said = settings.preset or release.settings.get("preset")
    if said is not None and said not in PRESETS:
        raise ValueError(f"preset={said!r} of {release.root}: expected one of {', '.join(PRESETS)}")
    repos = {repo: name for name, repo in RELEASES.items() if name in PRESETS}
    name = repos.get(RELEASES.get(settings.model, settings.model))
    return said or (None if "transformer" in settings.components else name)


def _own_config(release: Release) -> dict[str, Any]:
    """The transformer's config.json where save_pretrained wrote it, {} otherwise."""
    path = release.transformer / "config.json"
    try:
        config = json.loads(path.read_text()) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return config if "format" in config else {}
