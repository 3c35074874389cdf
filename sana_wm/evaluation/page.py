"""The report as one HTML page that needs nothing from outside: styles, charts and film strips are inside."""

import base64
from html import escape as escape_html
from pathlib import Path
from typing import Any

from sana_wm.evaluation.headlines import Headline, headlines, verdict
from sana_wm.evaluation.page_style import STYLE
from sana_wm.evaluation.sections import sections
from sana_wm.evaluation.tables import PLAIN, Number, Section, Table

PAGE = "report.html"


def write_page(result: dict[str, Any], folder: str | Path) -> Path:
    """Write `report.html` of what `sana_wm.evaluation.evaluate` returned; strips are taken from `films/` beside it."""
    path = Path(folder) / PAGE
    path.write_text(page(result, Path(folder) / "films"), encoding="utf-8")
    return path


def page(result: dict[str, Any], films: Path | None = None) -> str:
    """The page as text. films: folder of the strips; those that are not there are left out."""
    about, shown = result.get("about", {}), sections(result)
    name = escape(str(about.get("world", "a world")))
    where = [name, escape(f"held-out episodes of {about.get('dataset', 'a dataset')}"), escape(about.get("date", ""))]
    quick = " A quick look: few windows and no planning; intervals are wide." if result.get("quick") else ""
    task = escape(str(about.get("task", "")).strip())
    numbers = "".join(map(_headline, headlines(result)))
    links = "".join(f'<a href="#{section.key}">{escape(section.title)}</a>' for section in shown)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>How far can {name} be trusted?</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">{" · ".join(part for part in where if part)}</p>
<h1>How far can this world be trusted?</h1>
<p class="lead">{f"<strong>{task}</strong> " if task else ""}{escape(verdict(result))}{quick}</p>
<ul class="numbers">{numbers}</ul>
<nav>{links}<a href="#about">What was measured</a></nav>
</header>
{"".join(_section(section, films) for section in shown)}
{_about(result)}
</main>
</body>
</html>
"""


def escape(words: str, quote: bool = False) -> str:
    """For HTML; a number keeps its percent sign beside it."""
    return escape_html(words, quote).replace(" %", "&nbsp;%")


def _headline(headline: Headline) -> str:
    number, unit = headline.number, f' <span class="unit">{escape(headline.unit)}</span>' if headline.unit else ""
    return (
        f'<li><span class="big">{escape(number.text)}{unit}</span>'
        f'<span class="interval">{escape(number.interval)}</span><span class="what">{escape(headline.what)}</span>'
        f'<span class="against">{escape(headline.against)}</span></li>'
    )


def _section(section: Section, films: Path | None) -> str:
    figures = "".join(
        f"<figure><figcaption>{escape(chart.title)}</figcaption>{chart.svg}</figure>"
        for chart in section.charts
        if chart.svg
    )
    single = " single" if figures.count("<figure>") == 1 else ""
    charts = f'<div class="charts{single}">{figures}</div>' if figures else ""
    strips = "".join(_strip(films, name, caption) for name, caption in section.films)
    return (
        f'<section id="{section.key}"><h2>{escape(section.title)}</h2><p class="means">{escape(section.means)}</p>'
        f'<p class="how">{escape(section.how)}</p>{charts}'
        + (f'<div class="films">{strips}</div>' if strips else "")
        + "".join(map(_table, section.tables))
        + "</section>"
    )


def _strip(films: Path | None, name: str, caption: str) -> str:
    path = None if films is None else films / f"{name}.png"
    if path is None or not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    words = escape(caption, quote=True)
    return (
        f'<figure><figcaption>{words}</figcaption><div class="scroll"><img alt="{words}: real above imagined" '
        f'src="data:image/png;base64,{data}"></div></figure>'
    )


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = []
    for row in table.rows:
        if row.heads_group:
            rows.append(
                f'<tr class="group"><th scope="rowgroup" colspan="{len(table.columns)}">{escape(row.words)}</th></tr>'
            )
            continue
        key = "" if row.kind == PLAIN else f'<span class="key {row.kind}"></span>'
        cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row.cells)
        rows.append(f'<tr class="{row.kind}"><th scope="row">{key}{escape(row.words)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table><caption>{escape(table.title)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(cell: Number | str) -> str:
    if isinstance(cell, str):
        return escape(cell)
    interval = f'<span class="interval">{escape(cell.interval)}</span>' if cell.interval else ""
    return escape(cell.text) + interval


def _about(result: dict[str, Any]) -> str:
    about = result.get("about", {})
    machine, settings = about.get("machine", {}), about.get("settings", {})
    seconds, skips = result.get("seconds", {}), result.get("skipped", {})
    facts = {
        "World": f"{about.get('world', '')}: {about.get('parameters', 0):,} parameters, "
                 f"{about.get('fps', 0):g} steps a second",
        "Dataset": f"{about.get('dataset', '')}, {about.get('held_out_episodes', 0)} held-out episodes, fingerprint "
                   f"{about.get('fingerprint') or '–'}",
        "Simulator": about.get("simulator") or "none: measured against recorded episodes alone",
        "Settings": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items()),
        "Machine": ", ".join(f"{key} {value}" for key, value in machine.items()),
        "Date": about.get("date", ""),
        "Time": f"{sum(seconds.values()):,.0f} s: "
                + ", ".join(f"{name.replace('_', ' ')} {value:,.0f}" for name, value in seconds.items()),
        "Intervals": "95 %: Wilson's of rates, else percentiles of 1,000 bootstrap draws over windows, states or "
                     "starts",
    }  # fmt: skip
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(str(value))}</td></tr>' for key, value in facts.items()
    )
    skipped = "".join(f"<li>{escape(part.replace('_', ' '))}: {escape(reason)}</li>" for part, reason in skips.items())
    missing = f'<p class="how">Not measured:</p><ul class="skipped">{skipped}</ul>' if skipped else ""
    return (
        f'<section id="about"><footer><h2>What was measured</h2>{missing}<div class="scroll">'
        f'<table class="facts"><tbody>{rows}</tbody></table></div></footer></section>'
    )
