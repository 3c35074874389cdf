"""The card of a fine-tuned world: data, recipe and what it measured, in Markdown."""

from __future__ import annotations

import json
from typing import Any

from sana_wm.training.finetune_data import RobotData, RobotEpisodes
from sana_wm.training.finetune_settings import FinetuneSettings
from sana_wm.world import ActionCodec


def card(
    config: dict[str, Any],
    settings: FinetuneSettings,
    data: RobotData,
    episodes: RobotEpisodes,
    codec: ActionCodec,
    numbers: dict[str, Any],
    where: str,
) -> str:
    """Markdown. numbers: clips, psnr {world, copy, autoencoder}, flow_loss {before, after}, steps, minutes."""
    flow, db = numbers["flow_loss"], numbers["psnr"]
    height, width = episodes.resolution
    layout = f", among the 80 dimensions of {codec.layout}" if codec.layout else ""
    lines = [
        f"# {data.name}",
        "",
        f"SANA-WM (`{config['init']}`) fine-tuned to a robot: {height}x{width} frames, "
        f"{codec.per_latent} actions a step.",
        "",
        f"- Data: `{data.root}`, {len(episodes.lengths):,} episodes, {int(episodes.lengths.sum()):,} frames at "
        f"{episodes.dataset.fps:g} fps; {len(episodes.split['train']):,} episodes to train on.",
        f"- Actions: {', '.join(codec.names)}{f' ({codec.unit})' if codec.unit else ''}; column "
        f"`{episodes.action}`{layout}.",
        f"- Camera: `{episodes.camera}`, taken to stand still, {settings.fov:g} degrees of horizontal field of view.",
        f"- Training: {settings.method}, {numbers['steps']:,} steps in {numbers['minutes']:g} minutes on {where}, seed "
        f"{config['seed']}.",
        f"- A step is denoised at timesteps {', '.join(f'{t:g}' for t in settings.timesteps)}.",
        "",
        f"Measured on {numbers['clips']} clips of episodes that training has not seen:",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(
            f"| flow loss, {part} episodes | {flow['before'][part]:.4f} | {flow['after'][part]:.4f} |"
            for part in ("validation", "test")
        ),
        "",
        "| PSNR of the first step, dB | |",
        "|---|---|",
        f"| this world | {db['world']:.2f} |",
        f"| copying the given frame | {db['copy']:.2f} |",
        f"| the autoencoder's reconstruction | {db['autoencoder']:.2f} |",
        "",
        "Recipe:",
        "",
        "```json",
        json.dumps({"data": config["data"], "finetune": config["finetune"]}, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)
