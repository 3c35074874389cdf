"""Reading predictions of any dynamics: numpy in, or tensors with or without a gradient.

Objectives are written once, in operations that numpy arrays and tensors share. Tensors without a gradient become
float64 arrays; tensors with one stay what they are, so that the gradient planner can descend the same formula.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

FIELDS = ("latents", "reward", "terminated", "success", "proprio", "uncertainty")
Reduction = Literal["last", "mean", "min"]


def array(value: Any) -> Any:
    """A float64 array, or the tensor itself where it carries a gradient."""
    if hasattr(value, "detach"):  # a tensor, possibly on a GPU
        if value.requires_grad:
            return value
        value = value.detach().float().cpu().numpy()
    return np.asarray(value, np.float64)


def require(prediction: Any, field: str) -> Any:
    """A field of a prediction, or a ValueError that says who lacks it."""
    value = getattr(prediction, field, None)
    if value is None:
        raise ValueError(f"this objective scores {field}, but the dynamics predicts none; choose another objective")
    return array(value)


def like(value: np.ndarray, other: Any) -> Any:
    """An array as whatever the other one is."""
    return other.new_tensor(value) if hasattr(other, "new_tensor") else value


def group(values: Any, goals: int) -> Any:
    """(B, ...) -> (goals, B / goals, ...)."""
    if len(values) % goals:
        raise ValueError(f"{len(values)} lanes cannot be shared evenly among {goals} goals")
    return values.reshape(goals, -1, *values.shape[1:])


def root(values: Any) -> Any:
    """Square root whose gradient at zero is zero, not infinite."""
    if hasattr(values, "detach"):
        return values.clamp_min(1e-12).sqrt()
    return np.sqrt(values)


def reduce(cost: Any, how: Reduction) -> Any:
    """Costs (..., H) of the steps -> (...) of the plan."""
    if how == "last":
        return cost[..., -1]
    if how == "mean":
        return cost.mean(-1)
    return cost.amin(-1) if hasattr(cost, "detach") else cost.min(-1)


def check_reduction(how: str) -> Reduction:
    if how not in ("last", "mean", "min"):
        raise ValueError(f"over_horizon must be 'last', 'mean' or 'min', got {how!r}")
    return how


def joined(parts: Sequence[Any]) -> Any:
    """The predictions of several groups of lanes, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return SimpleNamespace(**{name: _joined([getattr(part, name, None) for part in parts]) for name in FIELDS})


def _joined(values: list) -> Any:
    if values[0] is None:
        return None
    if hasattr(values[0], "detach"):
        import torch

        return torch.cat(values)
    return np.concatenate(values)
