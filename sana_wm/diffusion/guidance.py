"""What a clip is told, and how strongly: conditions and classifier-free guidance (SANA-WM, spec section 7.1)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from sana_wm.nn.state import StreamState
from sana_wm.nn.text_attention import TextMemory

if TYPE_CHECKING:
    from sana_wm.models.transformer import SanaOutput, SanaTransformer


@dataclass(frozen=True)
class Conditions:
    """What a clip of T latent frames is told.

    Attributes:
        text: the prompt, from :meth:`SanaTransformer.encode_text`, of B lanes or of one that all share.
        unconditional: the negative prompt, alike; guidance other than 1 needs it.
        camera: (B, T, 20) pose and intrinsics of every frame.
        plucker: (B, 48, T, h, w) rays of the raw frames of every latent frame.
        actions: (B, T, A) normalised; ``actions[:, t]`` leads to frame t.
    """

    text: TextMemory | None = None
    unconditional: TextMemory | None = None
    camera: Tensor | None = None
    plucker: Tensor | None = None
    actions: Tensor | None = None

    def frames(self, start: int, stop: int) -> "Conditions":
        """Those of frames ``start`` to ``stop``; the text is that of the whole clip."""
        return replace(
            self,
            camera=None if self.camera is None else self.camera[:, start:stop],
            plucker=None if self.plucker is None else self.plucker[:, :, start:stop],
            actions=None if self.actions is None else self.actions[:, start:stop],
        )


def _of_lanes(text: TextMemory, lanes: int, name: str) -> TextMemory:
    if len(text.mask) not in (1, lanes):
        raise ValueError(f"{name} is of {len(text.mask)} lanes, expected {lanes} as the noise has, or 1 for all")
    blocks = tuple(tuple(part.expand(lanes, -1, -1, -1) for part in block) for block in text.blocks)
    return TextMemory(blocks, text.mask.expand(lanes, -1))


def _stack(first: TextMemory, second: TextMemory) -> TextMemory:
    """Lanes of two texts one after the other; the shorter one is padded behind its mask."""
    length = max(first.mask.shape[1], second.mask.shape[1])

    def padded(text: TextMemory) -> TextMemory:
        more = length - text.mask.shape[1]
        blocks = tuple(tuple(F.pad(part, (0, 0, 0, more)) for part in block) for block in text.blocks)
        return TextMemory(blocks, F.pad(text.mask, (0, more)))

    first, second = padded(first), padded(second)
    blocks = tuple(
        tuple(torch.cat(parts) for parts in zip(*pair, strict=True))
        for pair in zip(first.blocks, second.blocks, strict=True)
    )
    return TextMemory(blocks, torch.cat([first.mask, second.mask]))


def _twice(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.cat([tensor, tensor])


class GuidedTransformer:
    """A transformer that has been told its conditions: velocities of B lanes, and what a stream keeps of them.

    Guidance s other than 1 gives v = v_u + s (v_c - v_u), v_u of the negative prompt and v_c of the prompt; camera,
    Plücker rays and actions are given to both. The halves are one batch of 2 B lanes, unconditional ones first. A
    stream keeps the memory of both in one state of 2 B lanes, ``state.map(lambda t: t[B:])`` being that of the prompt:
    each half remembers the frames as it reads them, with its own text. The network sees latents in its own dtype;
    velocities come in the dtype of the latents given.

    Raises:
        ValueError: guidance without an unconditional text; texts of another number of lanes.
    """

    def __init__(self, transformer: "SanaTransformer", conditions: Conditions, guidance: float, lanes: int):
        self.transformer, self.guidance = transformer, float(guidance)
        self.copies = 1 if self.guidance == 1 else 2
        self.lanes = self.copies * lanes
        text, unconditional = conditions.text, conditions.unconditional
        text = None if text is None else _of_lanes(text, lanes, "text")
        if self.copies == 1:
            self.conditions = replace(conditions, text=text, unconditional=None)
            return
        if text is None or unconditional is None:
            missing = "text" if text is None else "unconditional"
            raise ValueError(
                f"guidance {guidance} compares two texts, and conditions.{missing} is None: give the encoded prompt "
                "as text and the negative one (it may be empty) as unconditional, or guidance=1"
            )
        self.conditions = Conditions(
            text=_stack(_of_lanes(unconditional, lanes, "unconditional"), text),
            camera=_twice(conditions.camera),
            plucker=_twice(conditions.plucker),
            actions=_twice(conditions.actions),
        )

    def _run(
        self,
        latents: Tensor,
        timestep: Tensor,
        state: StreamState | None,
        chunks: Sequence[int] | None,
        commit: bool = False,
    ) -> "SanaOutput":
        told = self.conditions.frames(0, latents.shape[2])
        latents = latents.to(self.transformer.dtype)
        if self.copies == 2:
            latents = _twice(latents)
        return self.transformer(
            latents, timestep.expand(len(latents), -1), told.text, camera=told.camera, plucker=told.plucker,
            actions=told.actions, state=state, commit=commit, chunks=chunks,
        )  # fmt: skip

    def initial_state(self) -> StreamState:
        return self.transformer.initial_state(self.lanes)

    def check_state(self, state: StreamState) -> None:
        if len(state.frame) != self.lanes:
            halves = " (unconditional and conditional, side by side)" if self.copies == 2 else ""
            raise ValueError(
                f"the state has {len(state.frame)} lanes, guidance {self.guidance:g} on {self.lanes // self.copies} "
                f"lanes needs {self.lanes}{halves}: keep to one guidance from the start of a stream"
            )

    def velocity(
        self,
        latents: Tensor,
        timestep: Tensor,
        state: StreamState | None = None,
        chunks: Sequence[int] | None = None,
    ) -> Tensor:
        """Velocity of the first frames of the clip.

        Args:
            latents: (B, C, n, h, w). timestep: (n,). state: of a stream, read only. chunks: how the frames divide.
        """
        velocity = self._run(latents, timestep, state, chunks).velocity.to(latents.dtype)
        if self.copies == 1:
            return velocity
        unconditional, conditional = velocity.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)

    def commit(self, latents: Tensor, state: StreamState) -> StreamState:
        """The state after clean frames (B, C, n, h, w), one chunk, read at timestep 0."""
        frames = latents.shape[2]
        return self._run(latents, torch.zeros(frames, device=latents.device), state, (frames,), commit=True).state
