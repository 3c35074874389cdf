"""The card of a trained text-to-image release: data, recipe and what it measured, in Markdown."""

from __future__ import annotations

import json
from typing import Any


def card(config: dict[str, Any], numbers: dict[str, Any], where: str) -> str:
    """Markdown. numbers: as in ``measured.json``."""
    pictures, flow = numbers["pictures"], numbers["flow_loss"]
    made_of = f"`{config['init']}` fine-tuned ({config['method']})" if config["init"] else "Trained from scratch"
    rows = {"own caption": "after", "caption of another picture": "other_caption", "own caption, before": "before"}
    shown = {key: value for key, value in config.items() if key not in ("wandb", "device", "out", "cache")}
    lines = [
        "# Text to image",
        "",
        f"{made_of} on {pictures['train']:,} pictures with {pictures['captions']:,} captions "
        f"(`{config['data']['root']}`), {pictures['buckets']} sizes about {pictures['size']}x{pictures['size']}.",
        "",
        f"- Training: {numbers['steps']:,} steps in {numbers['minutes']:g} minutes on {where}, seed {config['seed']}.",
        f"- Left out: {pictures['left_out']:,} pictures (left-out.txt of the run says why).",
        "",
        f"Flow loss on {flow['after']['count']} pictures that training has not seen, at the same noise, with 95 % "
        "intervals:",
        "",
        "| | mean | |",
        "|---|---|---|",
        *(f"| {name} | {flow[key]['mean']:.4f} | {_interval(flow[key])} |" for name, key in rows.items()),
        f"| another's caption less own | {flow['difference']['mean']:.4f} | {_interval(flow['difference'])} |",
        "",
        "Recipe:",
        "",
        "```json",
        json.dumps(shown, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)


def _interval(value: dict[str, Any]) -> str:
    return "" if value["low"] is None else f"{value['low']:.4f} to {value['high']:.4f}"
