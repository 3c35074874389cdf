"""The few numbers that say how far a world can be trusted, each beside what it is held against."""

from dataclasses import dataclass
from typing import Any

from sana_wm.evaluation.sections_imagined import horizons
from sana_wm.evaluation.sections_used import best_signal, planning_extremes
from sana_wm.evaluation.tables import Number


@dataclass(frozen=True)
class Headline:
    """`number` of `unit`; `what` it is, and `against` what it is held."""

    number: Number
    unit: str
    what: str
    against: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        unit = f" {self.unit}" if self.unit else ""
        interval = f" ({self.number.interval})" if self.number.interval else ""
        return f"{self.what}: {self.number.text}{unit}{interval}; {self.against}"


def headlines(result: dict[str, Any]) -> list[Headline]:
    """Of what was measured, the most telling first."""
    found = []
    if "physics" in result:
        physics = result["physics"]
        main, rows = physics["main"], physics["rows"]
        last, what = horizons(rows["world"])[-1], physics["things"][main]
        copied, own = (Number.of(rows[name][last][main], 1).text for name in ("copy_last_frame", "decoder_floor"))
        found.append(Headline(Number.of(rows["world"][last][main], 1), what["unit"],
                              f"error of the {what['words']} after {last} steps",
                              f"copying the last frame {copied}, measuring itself {own}"))  # fmt: skip
    if "fidelity" in result:
        rows = result["fidelity"]
        last = horizons(rows["world"])[-1]
        copied, own = (Number.of(rows[name][last], 1).text for name in ("copy_last_frame", "tokenizer"))
        found.append(Headline(Number.of(rows["world"][last], 1), "dB", f"likeness of frames after {last} steps (PSNR)",
                              f"copying the last frame {copied}, tokenizer alone {own}"))  # fmt: skip
    if "counterfactual" in result:
        measured = result["counterfactual"]
        main = result["physics"]["main"] if "physics" in result else next(iter(measured["things"]))
        floor = next((Number.of(measured["rows"][name][main]).text for name in ("readout_floor", "decoder_floor")
                      if name in measured["rows"]), "–")  # fmt: skip
        found.append(Headline(Number.of(measured["rows"]["world"][main]), "",
                              f"R² of what other actions would do to the {measured['things'][main]}",
                              f"ignoring actions 0, true frames {floor}"))  # fmt: skip
    elif "action_shuffle" in result:
        found.append(Headline(Number.of(result["action_shuffle"]["pixels"]), "times",
                              "the error when given another episode's actions", "ignoring actions 1"))  # fmt: skip
    if "planning" in result:
        best, floor, ceiling = planning_extremes(result)
        if best is not None:
            limit = ceiling.text if ceiling else "–"
            found.append(Headline(best, "", "of held-out goals reached by planning in it",
                                  f"random {floor.text}, planning in the simulator {limit}"))  # fmt: skip
    if "policy_ranking" in result:
        rows = result["policy_ranking"]["rows"]
        what = "return" if "return" in rows["world"] else "success"
        again = Number.of(rows["real_again"][what]["pearson"]).text
        found.append(Headline(Number.of(rows["world"][what]["pearson"]), "",
                              f"correlation of imagined with real {what}, {len(result['policy_ranking']['policies'])} "
                              "policies", f"chance 0, the simulator with other dice {again}"))  # fmt: skip
        false = rows["world"].get("false_success")
        if false is not None and false["value"] is not None:
            chance = Number.of(rows["constant"]["false_success"], percent=True, digits=3).text
            found.append(Headline(Number.of(false, percent=True, digits=3), "",
                                  "of real failures are successes in imagination", f"a coin {chance}"))  # fmt: skip
    if "calibration" in result:
        judged = {name: entry for name, entry in result["calibration"].items() if 0 < entry.get("base_rate", 0) < 1}
        what = next((name for name in ("success", "terminated") if name in judged), None)
        if what is not None:
            brier = result["calibration"][what]["brier"]
            found.append(Headline(Number.of(brier["world"], 3), "", f"Brier score of imagined {what}",
                                  f"base rate {Number.of(brier['base_rate'], 3).text}, true frames "
                                  f"{Number.of(brier['readout'], 3).text}"))  # fmt: skip
        elif "reward" in result["calibration"]:
            r2 = result["calibration"]["reward"]["r2"]
            found.append(Headline(Number.of(r2["world"]), "", "R² of imagined reward",
                                  f"the mean 0, true frames {Number.of(r2['readout']).text}"))  # fmt: skip
    if "trust" in result:
        name, row = best_signal(result["trust"])
        counted = Number.of(result["trust"]["baseline"].get("elapsed_steps", {}).get("auroc")).text
        found.append(Headline(Number.of(row.get("auroc")), "", f"AUROC of finding its bad steps, by "
                              f"{name.replace('_', ' ')}", f"chance 0.5, counting steps {counted}"))  # fmt: skip
    if "speed" in result and len(found) < 8:
        speed = result["speed"]
        simulator = speed.get("simulator_steps_per_second")
        lanes, rate = max(speed["env_steps_per_second"]["pixels"].items(), key=lambda item: item[1])
        against = f"{lanes} lanes at once" if simulator is None else f"the simulator {simulator:,.0f} in one process"
        found.append(Headline(Number(rate, digits=0), "steps/s", "environment steps, frames decoded", against))
    return found


def verdict(result: dict[str, Any]) -> str:
    """One sentence about how far, in steps, the world stays ahead of knowing nothing."""
    if "physics" in result:
        rows, main = result["physics"]["rows"], result["physics"]["main"]
        errors = {name: {t: of[main]["mean"] for t, of in rows[name].items()} for name in ("world", "copy_last_frame")}
        thing = f"its error of the {result['physics']['things'][main]['words']}"
    elif "fidelity" in result:
        rows = result["fidelity"]
        errors = {name: {t: 10 ** (-of["mean"] / 20) for t, of in rows[name].items()}
                  for name in ("world", "copy_last_frame")}  # fmt: skip
        thing = "the error of its pixels"
    else:
        return ""
    pairs = {int(t): (errors["world"][t], errors["copy_last_frame"][t]) for t in errors["world"]}
    if any(None in pair for pair in pairs.values()):
        return ""
    last = max(pairs)
    world, copied = pairs[last]
    behind = sorted(t for t, (w, c) in pairs.items() if w >= c)
    share = 100 * world / copied if copied else float("inf")
    if not behind:
        return (f"At every step up to {last} it knows more than someone who repeats the last frame; after {last} steps "
                f"{thing} is {share:.0f} % of theirs.")  # fmt: skip
    ahead = sorted(t for t, (w, c) in pairs.items() if w < c)
    if not ahead:
        return f"At no step up to {last} is it better than repeating the last frame."
    return (f"It is no better than repeating the last frame at step{'s' * (len(behind) > 1)} "
            f"{', '.join(map(str, behind))} of {last}; then {thing} is {share:.0f} % of that.")  # fmt: skip
