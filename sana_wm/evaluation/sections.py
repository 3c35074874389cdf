"""The sections of a report, from what `sana_wm.evaluation.evaluate` returned: words, tables and charts."""

from collections.abc import Callable
from typing import Any

from sana_wm.evaluation import sections_imagined as imagined
from sana_wm.evaluation import sections_used as used
from sana_wm.evaluation.tables import Section

# In the order of the report.
SECTIONS: dict[str, Callable[[dict], Section]] = {
    "fidelity": imagined.fidelity_section,
    "physics": imagined.physics_section,
    "films": imagined.films_section,
    "action_shuffle": imagined.action_shuffle_section,
    "counterfactual": imagined.counterfactual_section,
    "calibration": imagined.calibration_section,
    "policy_ranking": used.policy_ranking_section,
    "planning": used.planning_section,
    "trust": used.trust_section,
    "speed": used.speed_section,
}


def sections(result: dict[str, Any]) -> list[Section]:
    """Of the parts that were measured."""
    return [make(result) for part, make in SECTIONS.items() if part in result]
