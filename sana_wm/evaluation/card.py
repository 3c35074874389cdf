"""The card of a world: what it was made from and what it measured, in Markdown."""

import json

from sana_wm.evaluation.headlines import headlines
from sana_wm.evaluation.sections import sections
from sana_wm.evaluation.tables import Number, Table
from sana_wm.world import WorldConfig


def measured(result: dict) -> list[str]:
    """Markdown lines for what ``sana_wm.evaluation.evaluate`` returned; intervals are 95 %."""
    lines = [f"- {headline.line}" for headline in headlines(result)]
    lines += [""] if lines else []
    for section in sections(result):
        if not section.tables:
            continue
        lines += [f"### {section.title}", "", section.means, ""]
        for table in section.tables:
            lines += [f"{table.title}:", "", *_table(table), ""]
    skipped = [f"- {part.replace('_', ' ')}: {reason}" for part, reason in result.get("skipped", {}).items()]
    return lines + (["Not measured:", "", *skipped, ""] if skipped else [])


def _table(table: Table) -> list[str]:
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    for row in table.rows:
        cells = [cell.full if isinstance(cell, Number) else cell for cell in row.cells]
        cells += [""] * (len(table.columns) - 1 - len(cells))
        words = f"**{row.words}**" if row.heads_group else row.words
        lines.append("| " + " | ".join([words, *cells]) + " |")
    return lines


def write_card(config: WorldConfig, result: dict | None = None) -> str:
    """Card of a world: its data, recipe and cost, and what `sana_wm.evaluation.evaluate` measured, if given."""
    extra = config.extra
    lines = [f"# {extra['data']['name']}", "", config.task, "", "## Recipe", ""]
    for stage, cost in extra["training"].items():
        lines.append(f"- {stage}: {cost['steps']} steps, {cost['minutes']} minutes of training")
    lines += [f"- seed: {extra['seed']}", f"- {extra['machine']}", "", "```json"]
    lines += [json.dumps({key: extra[key] for key in ("data", "recipe")}, indent=1), "```", ""]
    if result is not None:
        lines += ["## Measured", "", *measured(result)]
    return "\n".join(lines)
