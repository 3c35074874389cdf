"""The printed report of an evaluation: tables for a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from sana_wm.evaluation.headlines import headlines
from sana_wm.evaluation.sections import sections
from sana_wm.evaluation.tables import Number, Table

WIDTH = 80  # of a terminal; wider tables are printed with briefer numbers


def print_report(result: dict, console: Console | None = None) -> None:
    """Print what `sana_wm.evaluation.evaluate` returned."""
    (console or Console()).print(render(result))


def render(result: dict) -> Group:
    """Every table of every section, what was left out and why, and the numbers to remember at the end."""
    drawn = [_table(table) for section in sections(result) for table in section.tables]
    for part, reason in result.get("skipped", {}).items():
        drawn.append(Text(f"{part.replace('_', ' ')}: not measured, {reason}", style="dim"))
    lines = headlines(result)
    if lines:
        drawn.append(Text("\nHow far it can be trusted (95 % intervals)", style="bold"))
        drawn += [Text(f"  {headline.line}") for headline in lines]
    return Group(*drawn)


def _table(table: Table) -> RichTable:
    drawn = RichTable(
        title=escape(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1),
        pad_edge=False, min_width=len(table.title),
    )  # fmt: skip
    for index, column in enumerate(table.columns):
        drawn.add_column(escape(column), justify="right" if index else "left", no_wrap=True)
    grouped = any(row.heads_group for row in table.rows)
    indent = "  " if grouped else ""
    full, brief = (
        [(row.words, *(_cell(cell, short) for cell in row.cells)) for row in table.rows] for short in (False, True)
    )
    for row in full if _width([table.columns, *full]) + len(indent) <= WIDTH else brief:
        words, *cells = row
        drawn.add_row(Text(indent + words) if cells else Text(words, style="bold"), *map(Text, cells))
    return drawn


def _width(rows: Sequence[Sequence[str]]) -> int:
    """Of a table of these rows in characters; three of them part two columns."""
    columns = range(max(map(len, rows)))
    return sum(max(len(row[k]) for row in rows if k < len(row)) for k in columns) + 3 * len(columns)


def _cell(cell: Number | str, brief: bool) -> str:
    if isinstance(cell, str):
        return cell
    return cell.brief if brief else cell.full
