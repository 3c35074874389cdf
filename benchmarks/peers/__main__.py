"""Train both peers for as long as the shipped world was trained, measure all three, print one table.

OMP_NUM_THREADS=1 python -m benchmarks.peers --minutes 20 --out runs/peers
"""

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.peers.data import load_data
from benchmarks.peers.fitted import train_peer
from benchmarks.peers.measure import measure_all, own_memory
from benchmarks.peers.peer import load_peer
from benchmarks.peers.report import markdown, print_table
from sana_wm.world import WorldModel

KINDS = ("unet", "jepa")
# planning takes one Euler step, which is where a window of a deterministic world has it cheapest
UNET, UNET_QUICK, JEPA = "U-Net, 3 steps", "U-Net, 1 step", "JEPA"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--world", default="tworoom-64", help="a shipped TwoRoom world, or a bundle folder")
    parser.add_argument("--dataset", default="data/tworoom-64", help="what it was trained on")
    parser.add_argument("--minutes", type=float, default=20.0, help="processor time of training, of each peer")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="checkpoints, peers, results.json")
    parser.add_argument("--only", choices=KINDS, nargs="*", default=KINDS, help="these peers")
    parser.add_argument("--train-only", action="store_true", help="measure nothing")
    parser.add_argument("--windows", type=int, default=200, help="held-out windows of prediction")
    parser.add_argument("--pairs", type=int, default=200, help="held-out pairs of planning")
    parser.add_argument("--planned", type=int, default=None, help="plan only so many of these, the first ones")
    parser.add_argument("--slow-pairs", type=int, default=20, help="of these, for a world far slower than the first")
    return parser


def main() -> None:
    args = arguments().parse_args()
    torch.set_num_threads(1)
    console = Console(width=160)
    args.out.mkdir(parents=True, exist_ok=True)
    world = WorldModel.from_pretrained(args.world)
    data = load_data(world, args.dataset, args.out / "frames")
    trained = {kind: train_peer(kind, world, data, args.minutes, args.out, console) for kind in args.only}
    if args.train_only:
        return
    worlds, origin = {"SanaWM": world}, {}
    for kind in args.only:
        peer, path = load_peer(args.out / f"{kind}.safetensors"), str(args.out / f"{kind}.safetensors")
        if kind == "unet":
            worlds |= {UNET: peer, UNET_QUICK: peer.with_steps(1)}
            load = f"from benchmarks.peers.peer import load_peer\nworld = load_peer({path!r})"
            origin |= {UNET: (kind, load), UNET_QUICK: (kind, load + ".with_steps(1)")}
        else:
            worlds[JEPA] = peer
            origin[JEPA] = (kind, f"from benchmarks.peers.peer import load_peer\nworld = load_peer({path!r})")
    result = measure_all(
        worlds, set(worlds) - {UNET}, args.dataset, args.out, console,
        windows=args.windows, pairs=args.pairs, planned=args.planned,
        slow_pairs=args.slow_pairs,
    )  # fmt: skip
    systems = result["systems"]
    load = f"from sana_wm.world import WorldModel\nworld = WorldModel.from_pretrained({args.world!r})"
    systems["SanaWM"] |= described(world) | {"rss_mb": own_memory(load)}
    for name, (kind, load) in origin.items():
        systems[name] |= {
            "parameters": trained[kind]["parameters"],
            "updates": ", ".join(f"{stage} {cost['updates']:,}" for stage, cost in trained[kind]["stages"].items()),
            "minutes": sum(cost["cpu_seconds"] for cost in trained[kind]["stages"].values()) / 60,
            "stages": trained[kind]["stages"],
            "rss_mb": own_memory(load),
        }
    (args.out / "results.json").write_text(json.dumps(result, indent=1))
    (args.out / "table.md").write_text(markdown(result) + "\n")
    print_table(result, console)
    console.print(f"{args.out / 'results.json'}  {args.out / 'table.md'}", highlight=False)


def described(world: WorldModel) -> dict:
    """The training that a bundle remembers; its minutes are of wall time, in which it had a core to itself or less."""
    stages = world.config.extra["training"]
    return {
        "parameters": sum(p.numel() for part in world.parts.values() for p in part.parameters()),
        "updates": ", ".join(f"{name} {stage['steps']:,}" for name, stage in stages.items()),
        "minutes": sum(stage["minutes"] for stage in stages.values()),
    }


if __name__ == "__main__":
    main()
