"""The printed report of an evaluation: tables for a terminal."""

from rich import box
from rich.console import Console, Group
from rich.markdown import Markdown
from rich.table import Table

from sana_wm.evaluation.tworoom_card import tworoom_lines

_NAMES = {
    "world": "world",
    "copy_last_frame": "copy last frame",
    "tokenizer": "tokenizer alone",
    "decoder_floor": "decoder's own",
    "world_readout": "world's readout",
    "readout_floor": "readout's own",
    "zero_action": "stay",
    "random": "random",
    "replay": "replay recorded actions",
    "cem_simulator": "CEM, true simulator",
    "cem_world": "CEM, world",
}
_QUANTITIES = {"agent_px": "agent, px", "block_px": "block, px", "block_degrees": "block angle, °"}


def print_report(result: dict, console: Console | None = None) -> None:
    """Print what `sana_wm.evaluation.evaluate` returned."""
    (console or Console()).print(render(result))


def render(result: dict) -> Group:
    parts = {"fidelity": _fidelity, "physics": _physics, "action_shuffle": _shuffle, "planning": _planning}
    drawn = [draw(result) for key, draw in {**parts, "speed": _speed}.items() if key in result]
    if "tworoom" in result:
        drawn.append(Markdown("\n".join(tworoom_lines(result["tworoom"]))))
    return Group(*drawn)


def _fidelity(result):
    horizons = list(result["fidelity"]["world"])
    table = _table(f"PSNR, dB · {result['windows']} held-out windows", "", *(f"step {t}" for t in horizons))
    for name, row in result["fidelity"].items():
        table.add_row(_NAMES[name], *(_mean(row[t]) for t in horizons))
    return table


def _physics(result):
    horizons = list(result["physics"]["world"])
    table = _table("Error against the simulator", "", *(f"step {t}" for t in horizons))
    for quantity, words in _QUANTITIES.items():
        table.add_row(f"[bold]{words}")
        for name, row in result["physics"].items():
            table.add_row(f"  {_NAMES[name]}", *(_mean(row[t][quantity]) for t in horizons))
    return table


def _shuffle(result):
    table = _table("Action-shuffle ratio (1: actions are ignored)", "pixels", "latents")
    ratios = (result["action_shuffle"][kind] for kind in ("pixels", "latents"))
    table.add_row(*(f"{r['mean']:.2f}  [{r['low']:.2f}, {r['high']:.2f}]" for r in ratios))
    return table


def _planning(result):
    rows = result["planning"]["rows"]
    trials = rows["zero_action"]["block"]["trials"]
    table = _table(f"Planning success, % · {trials} held-out pairs", "", "block", "block and agent", "s per plan")
    for name, row in rows.items():
        seconds = row["seconds_per_plan"]
        rates = (f"{r['rate']:.0%}  [{r['low']:.0%}, {r['high']:.0%}]" for r in (row["block"], row["block_and_agent"]))
        tried = row["block"]["trials"]
        words = _NAMES[name] + ("" if tried == trials else f" ({tried} pairs)")
        table.add_row(words, *rates, "" if seconds is None else f"{seconds:.2f}")
    return table


def _speed(result):
    rates, sizes = result["speed"]["env_steps_per_second"], result["speed"]["state_bytes"]
    heads = [f"{n} lane{'s' * (n != '1')}" for n in rates] + [f"bytes at step {t}" for t in sizes]
    table = _table("Environment steps per second, and state of a lane", *heads)
    table.add_row(*(f"{r:.0f}" for r in rates.values()), *(f"{b:,}" for b in sizes.values()))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), min_width=len(title)
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 and not column else "right", no_wrap=True)
    return table


def _mean(entry: dict) -> str:
    digits = 1 if entry["mean"] < 100 else 0
    return f"{entry['mean']:.{digits}f} ± {entry['high'] - entry['mean']:.{digits}f}"
