"""What a TwoRoom world measured, as Markdown for its card."""

_ROWS = {
    "zero_action": "stay",
    "random": "random",
    "cem_simulator_reward": "CEM, true simulator, its reward",
    "cem_world_reward": "CEM, world, predicted reward",
    "cem_simulator_image": "CEM, true simulator, distance to the goal's place",
    "cem_world_image": "CEM, world, distance to the place in a goal image",
}


def tworoom_lines(result: dict) -> list[str]:
    """Markdown lines for what `sana_wm.evaluation.tworoom.evaluate_tworoom` returned; intervals are 95 %."""
    lines: list[str] = []
    if "physics" in result:
        horizons = list(result["physics"]["world"])
        lines += [
            "Error against the simulator, in units of 1/64 of the square's side (pixels at 64 px). World, copy and "
            "decoder floor are read from frames by the pose decoder; world readout is what is imagined beside them, "
            "readout floor what the heads read from true frames:",
            "",
            *_table(
                ["", *(f"step {t}" for t in horizons)],
                [
                    [f"{thing}: {name.replace('_', ' ')}", *(_mean(row[t][thing]) for t in horizons)]
                    for thing in ("agent", "goal", "door")
                    for name, row in result["physics"].items()
                ],
            ),
        ]
    if "outcomes" in result:
        outcomes = result["outcomes"]
        rows = [["reward, mean absolute error", name, row] for name, row in outcomes.get("reward", {}).items()]
        for what in ("terminated", "success"):
            scores = outcomes.get(what, {}).get("brier", {})
            rows += [[f"{what}, Brier score", name, row] for name, row in scores.items()]
        horizons = list(rows[0][2])
        lines += [
            "Reward and outcomes of the same windows; world: imagined, readout: read from true frames:",
            "",
            *_table(
                ["", *(f"step {t}" for t in horizons)],
                [
                    [f"{what}: {name.replace('_', ' ')}", *(_mean(row[t], 4) for t in horizons)]
                    for what, name, row in rows
                ],
            ),
        ]
        for what in ("terminated", "success"):
            if what in outcomes:
                c = outcomes[what]["calibration"]
                lines += [
                    f"Imagined {what}, all steps: expected calibration error {c['ece']:.4f}, false positives "
                    f"{100 * c['false_positive']:.2f} %, false negatives {100 * c['false_negative']:.1f} %, base rate "
                    f"{100 * c['base_rate']:.1f} %.",
                    "",
                ]
    if "planning" in result:
        rows = result["planning"]["rows"]
        pairs, across = (rows["zero_action"][which]["trials"] for which in ("all", "other_room"))
        lines += [
            f"Planning success on {pairs} held-out pairs that are unsolved at the start, "
            f"{across} with the goal in the other room (budget {result['planning']['config']['budget']} steps, real "
            "simulator):",
            "",
            *_table(
                ["", "all", "goal in the other room", "s per plan"],
                [
                    [_ROWS[name], _rate(row["all"]), _rate(row["other_room"]),
                     "" if row["seconds_per_plan"] is None else f"{row['seconds_per_plan']:.3f}"]
                    for name, row in rows.items()
                ],
            ),
        ]  # fmt: skip
    return lines


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    line = "| {} |".format
    return [line(" | ".join(header)), "|" + "---|" * len(header), *(line(" | ".join(row)) for row in rows), ""]


def _mean(entry: dict, digits: int = 2) -> str:
    return f"{entry['mean']:.{digits}f} ({entry['low']:.{digits}f} to {entry['high']:.{digits}f})"


def _rate(entry: dict) -> str:
    return f"{100 * entry['rate']:.1f} % ({100 * entry['low']:.1f} to {100 * entry['high']:.1f})"
