"""What the rows of tables are called, and whom they stand for."""

import re

from sana_wm.evaluation.tables import BASELINE, LIMIT, READOUT, WORLD

NAMES = {
    "world": ("world", WORLD),
    "world_readout": ("world's readout", READOUT),
    "copy_last_frame": ("copy last frame", BASELINE),
    "tokenizer": ("tokenizer alone", LIMIT),
    "decoder_floor": ("decoder's own", LIMIT),
    "readout": ("from true frames", LIMIT),
    "readout_floor": ("readout's own", LIMIT),
    "base_rate": ("always the mean", BASELINE),
    "ignores_actions": ("ignores actions", BASELINE),
    "constant": ("same for all", BASELINE),
    "real_again": ("real, other dice", LIMIT),
    "zero_action": ("stay", BASELINE),
    "random": ("random", BASELINE),
    "replay": ("replay", LIMIT),
}


PLANNERS = {"cem": "CEM", "icem": "iCEM", "mppi": "MPPI", "random": "random shooting"}


def named(name: str) -> tuple[str, str]:
    """Words and kind of a row, also of planning rows such as "cem_simulator" and "mppi_world_reward"."""
    if name in NAMES:
        return NAMES[name]
    planned = re.fullmatch(r"([a-z]+)_(simulator|world)(?:_(\w+))?", name)
    if planned is None:
        return name.replace("_", " "), BASELINE
    planner, where, want = planned.groups()
    words = f"{PLANNERS.get(planner, planner)}, {'true ' * (where == 'simulator' and want is None)}{where}"
    return words + (f", {want}" if want else ""), LIMIT if where == "simulator" else WORLD
