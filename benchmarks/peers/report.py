"""The measured numbers as one printed table and as Markdown."""

from rich.console import Console
from rich.table import Table

Row = tuple[str, list[str]]


def rows(result: dict) -> tuple[list[str], list[Row]]:
    """Names of what is compared, and a line of cells for each measure. ``result``: what `measure` makes."""
    systems = list(result["systems"])
    lines: list[Row] = []

    def add(label: str, cell) -> None:
        cells = []
        for name in systems:
            try:
                cells.append(cell(result["systems"][name]))
            except KeyError:  # not measured of this one, or nothing to measure
                cells.append("n/a")
        if set(cells) != {"n/a"}:
            lines.append((label, cells))

    add("parameters", lambda s: f"{s['parameters']:,}")
    add("updates (stages)", lambda s: s["updates"])
    add("minutes of training, one thread", lambda s: f"{s['minutes']:.1f}")
    steps = next(iter(result["systems"].values()))["prediction"]["agent"]
    for label, key, digits in (
        ("PSNR of frames, dB", "psnr", 1), ("agent error as read, px", "agent", 2),
        ("agent error in frames, px", "agent_in_frames", 2), ("reward error", "reward", 4),
    ):  # fmt: skip
        for t in steps:
            add(f"{label}, step {t}", lambda s, key=key, t=t, digits=digits: _mean(s["prediction"][key][t], digits))
    for label, key in (
        ("planning, predicted reward", "reward"), ("planning, goal image, places", "image"),
        ("planning, goal image, latents", "latent"), ("same time as SanaWM: reward", "reward, same time"),
        ("same time as SanaWM: goal image", "image, same time"),
    ):  # fmt: skip
        add(label, lambda s, key=key: _rate(s["planning"][key]))
    for label, key in (
        ("predicted reward", "reward"),
        ("goal image, places", "image"),
        ("goal image, latents", "latent"),
    ):
        add(f"s per plan, {label}", lambda s, key=key: f"{s['planning'][key]['seconds_per_plan']:.2f}")
    for lanes in result["lanes"]:
        add(f"steps/s, {lanes} lanes, with frames", lambda s, n=lanes: f"{s['speed'][str(n)]['frames']:,.0f}")
        add(f"steps/s, {lanes} lanes, no frames", lambda s, n=lanes: f"{s['speed'][str(n)]['latents']:,.0f}")
    for what, words in (("frames", "with frames"), ("latents", "no frames")):
        for when, where in (("first", "steps 1-100"), ("last", "steps 901-1,000")):
            add(
                f"steps/s, 16 lanes, {words}, {where}",
                lambda s, k=what, w=when: f"{s['long'][k]['steps_per_second'][w]:,.0f}",
            )
    for step in ("10", "1000"):
        add(f"bytes of a lane at step {step}", lambda s, step=step: f"{s['long']['latents']['state_bytes'][step]:,}")
    for step in ("100", "1000"):
        add(
            f"agent error at step {step}, median px",
            lambda s, step=step: f"{s['long']['latents']['agent_at'][step]:.2f}",
        )
    add("peak RSS, MB (own process)", lambda s: f"{s['rss_mb']:.0f}")
    return systems, lines


def print_table(result: dict, console: Console) -> None:
    systems, lines = rows(result)
    table = Table("", *systems, title="Peers at equal compute, TwoRoom 64 px, one CPU thread")
    for label, cells in lines:
        table.add_row(label, *cells)
    console.print(table)
    bounds = Table("", "all", "goal in the other room", title="Floors and ceilings of planning")
    for name, row in result["bounds"].items():
        bounds.add_row(name, _rate(row), _rate({"all": row["other_room"]}))
    console.print(bounds)


def markdown(result: dict) -> str:
    systems, lines = rows(result)
    line = "| {} |".format
    table = [line(" | ".join(["", *systems])), "|" + "---|" * (len(systems) + 1)]
    return "\n".join([*table, *(line(" | ".join([label, *cells])) for label, cells in lines)])


def _mean(entry: dict, digits: int) -> str:
    return f"{entry['mean']:.{digits}f} ({entry['low']:.{digits}f} to {entry['high']:.{digits}f})"


def _rate(entry: dict) -> str:
    share = entry["all"]
    return f"{100 * share['rate']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f}; {share['trials']})"
