"""Planners by name, and settings of one that spend what another spends."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gymnasium import spaces

from sana_wm.agents.cem import CEM, CEMConfig
from sana_wm.agents.gradient import ROLLOUTS_PER_STEP, GradientConfig, GradientPlanner
from sana_wm.agents.icem import ICEM, ICEMConfig
from sana_wm.agents.mppi import MPPI, MPPIConfig
from sana_wm.agents.random_shooting import RandomShooting, RandomShootingConfig
from sana_wm.agents.shooting import Planner, ShootingConfig

PLANNERS: dict[str, tuple[type[Planner], type[ShootingConfig]]] = {
    "cem": (CEM, CEMConfig),
    "icem": (ICEM, ICEMConfig),
    "mppi": (MPPI, MPPIConfig),
    "random": (RandomShooting, RandomShootingConfig),
    "gradient": (GradientPlanner, GradientConfig),
}


def planner_config(name: str, settings: Mapping[str, Any] | None = None) -> ShootingConfig:
    """Settings of the planner of that name; values that are None are left at their default.

    Raises:
        ValueError: unknown planner or setting, or values that make no sense.
    """
    if name not in PLANNERS:
        raise ValueError(f"planner: got {name!r}, expected one of {sorted(PLANNERS)}")
    kind = PLANNERS[name][1]
    given = {key: value for key, value in (settings or {}).items() if value is not None}
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"planner {name} has no settings {unknown}; it has {sorted(known)}")
    return kind(**given)


def planner_name(config: ShootingConfig) -> str:
    """The name of the planner that these settings are of."""
    return next(name for name, (_, kind) in PLANNERS.items() if type(config) is kind)


def make_planner(settings: ShootingConfig | Mapping[str, Any], action_space: spaces.Box) -> Planner:
    """A planner for an action space, from its config or from settings with a `name`.

    >>> import numpy as np
    >>> box = spaces.Box(-1, 1, (2,), np.float32)
    >>> type(make_planner({"name": "icem", "initial_std": 0.5, "min_std": 0.05}, box)).__name__
    'ICEM'
    """
    if not isinstance(settings, ShootingConfig):
        settings = dict(settings)
        settings = planner_config(settings.pop("name", "cem"), settings)
    return PLANNERS[planner_name(settings)][0](settings, action_space)


def at_budget_of(name: str, other: ShootingConfig, **changes: Any) -> ShootingConfig:
    """Settings of the planner `name` with horizon and proposal of `other` and at most its rollouts per plan.

    Args:
        changes: settings that differ from the planner's defaults; with `samples` among them they are the budget.

    Raises:
        ValueError: settings that the planner does not have.
    """
    kind = type(planner_config(name))
    shared = {key: getattr(other, key) for key in ("knots", "block", "initial_std", "persistence", "interpolation")}
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(changes) - known):
        raise ValueError(f"planner {name} has no settings {unknown}; it has {sorted(known)}")
    # weights of MPPI are its own choice of elites, and a step of the gradient planner is no iteration of a search
    own = {"mppi": {"elites"}, "gradient": {"iterations"}}.get(name, set())
    for key in {"iterations", "elites", "min_std"} & known - own:
        if getattr(other, key, None) is not None:
            shared[key] = getattr(other, key)
    settings = shared | changes
    if name == "gradient":
        restarts = settings.get("samples", kind.samples)
        return kind(**{"iterations": max(1, other.rollouts // (ROLLOUTS_PER_STEP * restarts))} | settings)
    if "samples" in settings:
        return kind(**_no_more(settings, settings["samples"]) | changes)
    # the most candidates that the budget holds: how many rollouts they cost differs between planners
    counts = range(other.rollouts, 0, -1)
    fits = (n for n in counts if kind(**{"samples": n} | _no_more(settings, n)).rollouts <= other.rollouts)
    largest = next(fits, 1)
    return kind(**{"samples": largest} | _no_more(settings, largest) | changes)


def _no_more(settings: dict[str, Any], samples: int) -> dict[str, Any]:
    """With no more elites than samples."""
    return settings | ({"elites": min(settings["elites"], samples)} if settings.get("elites") else {})
