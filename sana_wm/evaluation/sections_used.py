"""Sections about what a world is good for: ranking policies, planning, knowing its errors, and what it costs."""

from sana_wm.evaluation import charts
from sana_wm.evaluation.row_names import named
from sana_wm.evaluation.tables import BASELINE, WORLD, Chart, Number, Row, Section, Table


def policy_ranking_section(result: dict) -> Section:
    measured = result["policy_ranking"]
    whats = [what for what in ("return", "success") if what in measured["rows"]["world"]]
    names = {"pearson": "Pearson", "spearman": "Spearman", "mmrv": "MMRV", "mae": "MAE"}
    digits = {"pearson": 2, "spearman": 2, "mmrv": 3, "mae": 3}
    tables, drawn = [], []
    for what in whats:
        tables.append(Table(
            f"Ranking {len(measured['policies'])} policies by {what}", ("", *names.values()),
            tuple(Row(named(row)[0], tuple(Number.of(entry[what][m], digits[m]) for m in names), named(row)[1])
                  for row, entry in measured["rows"].items()),
        ))  # fmt: skip
    if "success" in whats:
        kinds = {"false_success": "false success", "missed_success": "missed success"}
        tables.append(Table("Of single episodes", ("", *kinds.values()), tuple(
            Row(named(row)[0], tuple(Number.of(entry[kind], percent=True, digits=3) for kind in kinds), named(row)[1])
            for row, entry in measured["rows"].items())))  # fmt: skip
    cells = {
        name: tuple(Number(sources[s][what], percent=what == "success", digits=3) for what in whats
                    for s in ("real", "world"))
        for name, sources in measured["policies"].items()
    }  # fmt: skip
    tables.append(Table("Every policy", ("", *(words for what in whats for words in (f"real {what}", "imagined"))),
                        tuple(Row(name, row) for name, row in cells.items())))  # fmt: skip
    for what in whats:
        drawn.append(Chart(f"{what.capitalize()} of policies, imagined against real", charts.scatter(
            [(name, *(Number(sources[s][what], digits=3) for s in ("real", "world")))
             for name, sources in measured["policies"].items()], "real", "imagined")))  # fmt: skip
    first = whats[0]
    world, again = (measured["rows"][row][first] for row in ("world", "real_again"))
    return Section(
        "policy_ranking",
        "Would it choose the right policy?",
        f"Imagined and real {first} of {len(measured['policies'])} policies correlate at "
        f"{Number.of(world['pearson']).text} (ranks: {Number.of(world['spearman']).text}); with other dice for the "
        f"policies the real simulator agrees with itself at {Number.of(again['pearson']).text}.",
        f"Policies from aimless to skilled, {measured['starts']} fresh starts each, {measured['horizon']} steps, the "
        "same in the real simulator and in imagination. There they see only what the world reads from its own dream, "
        "and its own reward and success heads keep the score. MMRV, the mean maximum rank violation, is 0 at best; a "
        "false success is one that was imagined where the real episode failed.",
        tuple(tables),
        tuple(drawn),
    )


def planning_section(result: dict) -> Section:
    rows = result["planning"]["rows"]
    kinds = planning_kinds(rows)
    most = max(row[kinds[0]]["trials"] for row in rows.values())

    def words(name: str, row: dict) -> str:
        tried = row[kinds[0]]["trials"]
        return named(name)[0] + ("" if tried == most else f" ({tried} pairs)")

    table = Table(
        f"Success in the real simulator, {most} held-out pairs",
        ("", *(kind.replace("_", " ") for kind in kinds), "s/plan"),
        tuple(
            Row(words(name, row), (*(Number.of(row[kind], percent=True, digits=3) for kind in kinds),
                                   Number(row.get("seconds_per_plan"))), named(name)[1])
            for name, row in rows.items()
        ),
    )  # fmt: skip
    best, floor, ceiling = planning_extremes(result)
    ceiling_words = f", and with the true simulator to plan in {ceiling.text}" if ceiling else ""
    sentence = f"Acting at random reaches the goal in {floor.text} of the pairs{ceiling_words}."
    if best is not None:
        sentence = f"Plans made in the world reach the goal in {best.text}. {sentence}"
    return Section(
        "planning",
        "Can one plan in it?",
        sentence,
        "Starts are held out and unsolved. Every row acts in the real simulator from exactly the recorded state; a "
        "pair counts as solved when its goal is reached within the budget of steps. Wilson intervals.",
        (table,),
        tuple(
            Chart(f"Success: {kind.replace('_', ' ')}", charts.bars(
                [(words(name, row), named(name)[1], Number.of(row[kind], percent=True, digits=3))
                 for name, row in rows.items()], 1.0, marks=(0.5,)))
            for kind in kinds
        ),
    )  # fmt: skip


def planning_kinds(rows: dict[str, dict]) -> list[str]:
    """The measures of success in a planning table."""
    return [kind for kind, entry in next(iter(rows.values())).items() if isinstance(entry, dict) and "rate" in entry]


def planning_extremes(result: dict) -> tuple[Number | None, Number, Number | None]:
    """Success, by the first measure of the table, of the best row of the world, of acting at random, and of the best
    row that plans in the true simulator."""
    rows = result["planning"]["rows"]
    kind = next(
        kind for kind, entry in next(iter(rows.values())).items() if isinstance(entry, dict) and "rate" in entry
    )

    def best(word: str) -> Number | None:
        fitting = [row[kind] for name, row in rows.items() if word in name]
        chosen = max(fitting, key=lambda entry: entry["rate"], default=None)
        return None if chosen is None else Number.of(chosen, percent=True, digits=3)

    return best("world"), Number.of(rows["random"][kind], percent=True, digits=3), best("simulator")


def trust_section(result: dict) -> Section:
    trust = result["trust"]
    measures = {"spearman": "Spearman", "spearman_within_step": "at the same step", "auroc": "AUROC"}
    told = [(name.replace("_", " "), WORLD, row) for name, row in trust["rows"].items()]
    told += [(name.replace("_", " "), BASELINE, row) for name, row in trust["baseline"].items()]
    table = Table(
        "Trust signals against the true error", ("", *measures.values()),
        tuple(Row(words, tuple(Number.of(row.get(m)) for m in measures), kind) for words, kind, row in told),
    )  # fmt: skip
    sets = {name: part for name, part in trust.get("sets", {}).items() if name != "mixed"}
    by_set = Table(
        "AUROC by kind of actions and error", ("", *(name.replace("_", " ") for name in sets)),
        tuple(
            Row(name.replace("_", " "), tuple(Number.of({**p["rows"], **p["baseline"]}[name].get("auroc"))
                                              for p in sets.values()), kind)
            for kind, rows in ((WORLD, trust["rows"]), (BASELINE, trust["baseline"])) for name in rows
        ),
    )  # fmt: skip
    best, row = best_signal(trust)
    error = trust.get("error", {})
    bad = f"{Number(error['above']).text} {error['unit']}" if "above" in error else "a bound"
    counted = Number.of(trust["baseline"].get("elapsed_steps", {}).get("auroc")).text
    return Section(
        "trust",
        "Does it know when it is wrong?",
        f"Of its own signals {best.replace('_', ' ')} tells bad steps best, those with an error above {bad}: AUROC "
        f"{Number.of(row.get('auroc')).text} (0.5 is chance; counting the steps gives {counted}).",
        "How the signals that the world gives beside every step go with the true error of that step: rank correlation "
        "over all steps, the same among windows at the same step (where counting steps says nothing), and the chance "
        "that a bad step gets more of the signal than a good one.",
        (table, by_set) if len(sets) > 1 else (table,),
        (
            Chart("AUROC of finding bad steps", charts.bars(
                [(words, kind, Number.of(row.get("auroc"))) for words, kind, row in told], 1.0, marks=(0.5,))),
        ),
    )  # fmt: skip


def best_signal(trust: dict) -> tuple[str, dict]:
    """The signal of a world that finds bad steps best, and its row."""
    return max(trust["rows"].items(), key=lambda item: (item[1].get("auroc") or {}).get("mean") or 0.0)


def speed_section(result: dict) -> Section:
    speed = result["speed"]
    rates, sizes = speed["env_steps_per_second"], speed["state_bytes"]
    simulator = speed.get("simulator_steps_per_second")
    lanes = list(next(iter(rates.values())))
    rows = [Row(f"world, {asked}", tuple(f"{rate:,.0f}" for rate in of.values()), WORLD) for asked, of in rates.items()]
    most = {asked: max(of.values()) for asked, of in rates.items()}
    drawn = [(f"world, {asked}", WORLD, Number(rate, digits=0)) for asked, rate in most.items()]
    if simulator is not None:
        rows.append(Row("true simulator, one process", (f"{simulator:,.0f}", *[""] * (len(lanes) - 1)), BASELINE))
        drawn.append(("true simulator", BASELINE, Number(simulator, digits=0)))
    memory = [Row(f"state of a lane at step {t}", (f"{size:,}",), WORLD) for t, size in sizes.items()]
    if "frame_bytes" in speed:
        memory.append(Row("one frame, as the world sees it", (f"{speed['frame_bytes']:,}",), BASELINE))
    against = "" if simulator is None else f"; the true simulator makes {simulator:,.0f} in one process"
    grows = "does not grow" if len(set(sizes.values())) == 1 else "grows"
    return Section(
        "speed",
        "What it costs",
        f"Up to {max(most.values()):,.0f} environment steps per second, all lanes together{against}. The memory of a "
        f"lane {grows} with the number of steps.",
        "Random actions in SanaWM-v0, warm-up excluded, on the machine named below.",
        (
            Table(
                "Environment steps per second, all lanes together",
                ("", *(f"{n} lane{'s' * (n != '1')}" for n in lanes)),
                tuple(rows),
            ),
            Table("Memory", ("", "bytes"), tuple(memory)),
        ),
        (Chart("Environment steps per second", charts.bars(drawn)),),
    )  # fmt: skip
