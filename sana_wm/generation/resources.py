"""What settings of pictures and of clips say of the machine: where to compute, in how many bits, and the plan alone."""

from __future__ import annotations

import torch

from sana_wm.models.quantised import check_kind

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class Resources:
    """Of a frozen dataclass with these fields; :meth:`check_resources` is for its ``__post_init__``.

    Attributes:
        device: "auto", "cpu" or "cuda". dtype: "auto" or one of :data:`DTYPES`.
        quantise, quantise_text: "int8", "int4" or "none": linear maps of the transformer, and of the text encoder, in 8
            or 4 bits (:mod:`sana_wm.models.quantised`).
        plan: say how much memory it will take, and stop.
    """

    device: str
    dtype: str
    quantise: str
    quantise_text: str
    plan: bool

    def check_resources(self) -> None:
        """Raise ValueError for values that cannot be meant."""
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype={self.dtype}: expected one of auto, {', '.join(DTYPES)}")
        for name in ("quantise", "quantise_text"):
            value = getattr(self, name)
            object.__setattr__(self, name, "none" if value is None else value)
            check_kind(self.kind(name), name)
        if not isinstance(self.plan, bool):
            raise ValueError(f"plan={self.plan}: expected true or false")

    def kind(self, name: str) -> str | None:
        """What ``quantise`` or ``quantise_text`` asks for; None: nothing."""
        value = getattr(self, name)
        return None if value == "none" else value

    def kinds(self) -> dict[str, str]:
        """Those of the two that are asked for."""
        return {name: kind for name in ("quantise", "quantise_text") if (kind := self.kind(name)) is not None}

    def place(self) -> tuple[torch.device, torch.dtype]:
        """Where to compute, and in what: by itself on CUDA, where there is one, and there in bfloat16."""
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(automatic if self.device == "auto" else self.device)
        return device, DTYPES.get(self.dtype) or (torch.bfloat16 if device.type == "cuda" else torch.float32)

    def fewer_bits(self) -> dict[str, bool]:
        """Advice, and whether it would help: the next smaller kind of both networks."""
        smaller = {None: "int8, or int4", "int8": "int4"}
        return {
            f"{name}={smaller.get(self.kind(name))}": self.kind(name) in smaller
            for name in ("quantise_text", "quantise")
        }
