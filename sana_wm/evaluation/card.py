"""The card of a world: what it was made from and what it measured, in Markdown."""

import json

from sana_wm.evaluation.tworoom_card import tworoom_lines
from sana_wm.world import WorldConfig


def _cell(entry: dict, digits: int = 2) -> str:
    text = f"{entry['mean']:.{digits}f}"
    return f"{text} ({entry['low']:.{digits}f} to {entry['high']:.{digits}f})" if "low" in entry else text


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def measured(result: dict) -> list[str]:
    """Markdown lines for what ``sana_wm.evaluation.evaluate`` returned; intervals are 95 %."""
    lines: list[str] = []
    if "fidelity" in result:
        horizons = list(result["fidelity"]["world"])
        rows = [
            [name.replace("_", " "), *(_cell(row[t]) for t in horizons)] for name, row in result["fidelity"].items()
        ]
        lines += [f"PSNR in dB, open loop, {result['windows']} held-out windows:", ""]
        lines += _table(["", *(f"step {t}" for t in horizons)], rows)
    if "physics" in result:
        horizons = list(result["physics"]["world"])
        rows = [
            [f"{quantity.replace('_', ' ')}: {name.replace('_', ' ')}", *(_cell(row[t][quantity]) for t in horizons)]
            for quantity in ("agent_px", "block_px", "block_degrees")
            for name, row in result["physics"].items()
        ]
        lines += [
            "Error against the simulator (px of the 512 px table, degrees). World, copy and decoder floor are read "
            "from frames by the pose decoder; world readout is the pose imagined beside them, readout floor what the "
            "heads read from true frames:",
            "",
        ]
        lines += _table(["", *(f"step {t}" for t in horizons)], rows)
    if "action_shuffle" in result:
        ratios = result["action_shuffle"]
        lines += [f"Action-shuffle ratio (1: actions are ignored): pixels {_cell(ratios['pixels'])}, latents "
                  f"{_cell(ratios['latents'])}.", ""]  # fmt: skip
    if "planning" in result:
        rows = [
            [name.replace("_", " "), str(row["block"]["trials"])]
            + [_percent(row[kind]) for kind in ("block", "block_and_agent")]
            for name, row in result["planning"]["rows"].items()
        ]
        lines += ["Planning success on held-out pairs whose block must move (goal 25 steps ahead, budget 50):", ""]
        lines += _table(["", "pairs", "block", "block and agent"], rows)
    if "tworoom" in result:
        lines += tworoom_lines(result["tworoom"])
    if "speed" in result:
        speed = result["speed"]
        lines += ["Environment steps per second, frames decoded, all lanes together:", ""]
        lines += _table(
            [f"{lanes} lane(s)" for lanes in speed["env_steps_per_second"]],
            [[f"{rate:.1f}" for rate in speed["env_steps_per_second"].values()]],
        )
        sizes = ", ".join(f"{size:,} at step {step}" for step, size in speed["state_bytes"].items())
        lines += [f"Bytes of a lane's state: {sizes}.", ""]
    return lines


def _percent(entry: dict) -> str:
    return f"{100 * entry['rate']:.1f} % ({100 * entry['low']:.1f} to {100 * entry['high']:.1f})"


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
