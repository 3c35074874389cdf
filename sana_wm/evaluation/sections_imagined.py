"""Sections about what a world imagines: likeness, places, films, actions, reward and success."""

from typing import Any

from sana_wm.evaluation import charts
from sana_wm.evaluation.fidelity import HORIZONS
from sana_wm.evaluation.row_names import named
from sana_wm.evaluation.tables import BASELINE, WORLD, Chart, Number, Row, Section, Table


def horizons(by_step: dict[str, Any]) -> list[str]:
    """The steps that tables show: those of `HORIZONS`, and the last one."""
    shown = [t for t in by_step if int(t) in HORIZONS]
    last = list(by_step)[-1]
    return shown if last in shown else [*shown, last]


def _steps(by_step: dict[str, Any]) -> tuple[str, ...]:
    return ("", *(f"step {t}" for t in horizons(by_step)))


def _line(name: str, by_step: dict[str, dict], digits: int = 2) -> charts.Line:
    words, kind = named(name)
    return charts.Line(words, kind, [(float(t), Number.of(entry, digits)) for t, entry in by_step.items()])


def fidelity_section(result: dict) -> Section:
    rows = result["fidelity"]
    steps = horizons(rows["world"])
    last = steps[-1]
    world, copied, own = (Number.of(rows[name][last], 1) for name in ("world", "copy_last_frame", "tokenizer"))
    table = Table(
        f"PSNR in dB, {result['windows']} held-out windows",
        _steps(rows["world"]),
        tuple(Row(named(n)[0], tuple(Number.of(row[t]) for t in steps), named(n)[1]) for n, row in rows.items()),
    )
    return Section(
        "fidelity",
        "What it shows",
        f"{last} steps after the last true frame, imagined pictures match what happened at {world.text} dB; repeating "
        f"that frame gives {copied.text}, and the tokenizer alone, which sees the truth, {own.text}.",
        "Open loop: the world sees a few frames of an episode that it was not trained on, then only the actions. Plain "
        "backgrounds inflate PSNR, hence the comparison with the frame that is merely repeated.",
        (table,),
        (
            Chart("Likeness of imagined frames, dB (higher is better)", charts.curves(
                [_line(name, row) for name, row in rows.items()], "steps imagined", "PSNR, dB", from_zero=False)),
        ),
    )  # fmt: skip


def physics_section(result: dict) -> Section:
    physics = result["physics"]
    rows, things, main = physics["rows"], physics["things"], physics["main"]
    steps = horizons(rows["world"])
    last = steps[-1]
    lines: list[Row] = []
    for thing, what in things.items():
        lines.append(Row(f"{what['words']}, {what['unit']}"))
        for name, row in rows.items():
            words, kind = named(name)
            lines.append(Row(words, tuple(Number.of(row[t][thing]) for t in steps), kind))
    found = rows["world"][last].get("found")
    seen = Number.of(found, percent=True).text if found else "–"
    world, copied = (Number.of(rows[name][last][main], 1) for name in ("world", "copy_last_frame"))
    return Section(
        "physics",
        "Where things are",
        f"After {last} steps the {things[main]['words']} is {world.text} {things[main]['unit']} off in the mean; where "
        f"it was last seen is {copied.text} off. It can be made out in {seen} of the imagined frames.",
        "A decoder without any training reads places from imagined and from true frames, and both are held against the "
        "simulator's own state. The readout is what the world says of places beside its picture; planners use it. What "
        "either errs on true frames is its own error.",
        (Table(f"Error against the simulator; {physics['units']}", _steps(rows["world"]), tuple(lines)),),
        tuple(
            Chart(
                f"{what['words'].capitalize()}: error, {what['unit']}",
                charts.curves(
                    [_line(name, {t: of[thing] for t, of in row.items()}) for name, row in rows.items()],
                    "steps imagined", f"error, {what['unit']}",
                ),
            )
            for thing, what in things.items()
            if what["moves"]
        ),
    )  # fmt: skip


def action_shuffle_section(result: dict) -> Section:
    ratios = result["action_shuffle"]
    pixels, latents = (Number.of(ratios[kind]) for kind in ("pixels", "latents"))
    ignored = Number(1.0)
    return Section(
        "action_shuffle",
        "Does it listen to actions?",
        f"With the actions of another episode its pictures are {pixels.text} times as wrong as with the right ones; a "
        "world that ignores actions would be as wrong with either, a ratio of 1.",
        "The same windows imagined with shuffled actions: mean squared error with wrong actions over that with the "
        "right ones, of pixels and of latents.",
        (
            Table("Action-shuffle ratio", ("", "pixels", "latents"), (
                Row("world", (pixels, latents), WORLD), Row("ignores actions", (ignored, ignored), BASELINE))),
        ),
    )  # fmt: skip


def counterfactual_section(result: dict) -> Section:
    measured = result["counterfactual"]
    things, rows = measured["things"], measured["rows"]
    order = ("world", "world_readout", "ignores_actions", "copy_last_frame", "readout_floor", "decoder_floor")
    shown = [name for name in order if name in rows]
    cells = {name: tuple(Number.of(rows[name][thing], 3) for thing in things) for name in shown}
    words = ", ".join(f"{Number.of(rows['world'][thing]).text} of the {what}" for thing, what in things.items())
    return Section(
        "counterfactual",
        "What if it had acted otherwise?",
        f"From one and the same moment, {measured['actions']} different actions: the share of the differences in "
        f"motion that the world foresees (R²; 1 is all, 0 is what ignoring actions gives) is {words}.",
        f"{measured['states']} held-out moments, each action held for {measured['hold']} steps, in the simulator and "
        "in the world. The state is the same, only the action differs, so that guessing what usually comes next "
        "explains nothing.",
        (
            Table(
                "R² of displacements", ("", *things.values()),
                tuple(Row(named(name)[0], cells[name], named(name)[1]) for name in shown),
            ),
        ),
        tuple(
            Chart(f"R² of displacements: {what}", charts.bars(
                [(*named(name), Number.of(rows[name][thing], 3)) for name in shown if name != "copy_last_frame"], 1.0))
            for thing, what in things.items()
        ),
    )  # fmt: skip


def calibration_section(result: dict) -> Section:
    measured = result["calibration"]
    tables, drawn, said = [], [], []
    if "reward" in measured:
        reward = measured["reward"]
        tables.append(Table("Reward, all steps", ("", "mean absolute error", "R²"), tuple(
            Row(named(n)[0], (Number.of(entry, 4), Number.of(reward["r2"][n], 3)), named(n)[1])
            for n, entry in reward["mae"].items())))  # fmt: skip
        drawn.append(Chart("Reward: mean absolute error", charts.curves(
            [_line(n, row, 4) for n, row in reward["by_step"].items()], "steps imagined", "error")))  # fmt: skip
        said.append(f"imagined reward explains {Number.of(reward['r2']['world'], percent=True).text} of what the true "
                    "one varies (always saying the mean: 0 %)")  # fmt: skip
    for what in ("terminated", "success"):
        if what not in measured:
            continue
        entry = measured[what]
        errors = entry["confusion"]
        rows = [
            Row(
                named(n)[0],
                (Number.of(score, 4), Number.of(entry["ece"][n], 4),
                 Number(errors[n]["false_positive_rate"], percent=True, digits=3),
                 Number(errors[n]["false_negative_rate"], percent=True, digits=3)),
                named(n)[1],
            )
            for n, score in entry["brier"].items()
        ]  # fmt: skip
        title = f"{what.capitalize()}, all steps; it is so in {100 * entry['base_rate']:.1f} %"
        tables.append(Table(title, ("", "Brier", "ECE", "false +", "false −"), tuple(rows)))
        counts = {"true_positive": "true +", "false_positive": "false +", "false_negative": "false −",
                  "true_negative": "true −"}  # fmt: skip
        tables.append(Table(
            f"{what.capitalize()}, decided at one half: steps", ("", *counts.values()),
            tuple(Row(named(n)[0], tuple(f"{errors[n][c]:,}" for c in counts), named(n)[1]) for n in errors),
        ))  # fmt: skip
        world, base = (Number.of(entry["brier"][n], 3).text for n in ("world", "base_rate"))
        if not 0 < entry["base_rate"] < 1:
            said.append(
                f"{what} is {'always' if entry['base_rate'] else 'never'} so in these windows and cannot be judged"
            )
            continue
        drawn.append(Chart(f"{what.capitalize()}: said and true", charts.reliability(
            [(*named(n), bins) for n, bins in entry["bins"].items()])))  # fmt: skip
        said.append(f"the Brier score of {what} is {world} ({base} for always saying how often it is true)")
    text = "; ".join(said)
    return Section(
        "calibration",
        "Can its reward and success be believed?",
        f"{text[0].upper()}{text[1:]}.",
        "Imagined open loop over the whole horizon, and read from true frames, against what the dataset recorded. "
        "Brier score and expected calibration error (ECE, ten bins) are 0 at best; false + and false − are the errors "
        "of deciding at one half. Repeating what was last true is the other baseline. Bins of fewer than ten steps are "
        "not drawn.",
        tuple(tables),
        tuple(drawn),
    )


def films_section(result: dict) -> Section:
    films = result["films"]
    captions = {
        "best": "The best window", "median": "The window in the middle", "worst": "The worst window",
    }  # fmt: skip
    return Section(
        "films",
        "See for yourself",
        "Real above imagined, from the same start and with the same actions: the best, the median and the worst of all "
        "held-out windows.",
        f"Ranked by {films['by']}, in the mean over the steps.",
        films=tuple(
            (name, f"{captions[name]}: {films['by']} {entry['error']:.1f} {films['unit']}")
            for name, entry in films["windows"].items()
        ),
    )
