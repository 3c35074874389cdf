"""What an evaluation was made of and on: enough to repeat it, and to know what its times mean."""

import datetime
import platform
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from sana_wm.evaluation.study import Study


def about(study: "Study") -> dict[str, Any]:
    """World, data, seeds, settings, date and machine as plain values."""
    world, dataset = study.world, study.dataset
    made_of = world.config.extra.get("data", {})
    device = getattr(world, "device", torch.device("cpu"))
    root = getattr(dataset, "root", None)
    return {
        "world": made_of.get("name", "a world"),
        "task": getattr(world.config, "task", ""),
        "parameters": sum(p.numel() for part in getattr(world, "parts", {}).values() for p in part.parameters()),
        "dataset": root.name if root is not None else type(dataset).__name__,
        "fingerprint": getattr(dataset, "fingerprint", None),
        "held_out_episodes": len(study.episodes),
        "simulator": study.task.name if study.task is not None else None,
        "fps": float(world.config.fps),
        "settings": {
            "windows": study.windows_wanted,
            "horizon": study.horizon,
            "pairs": study.pairs,
            "policy_starts": study.policy_starts,
            "policy_horizon": study.policy_horizon,
            "lanes": study.lanes,
            "workers": study.workers,
            "seed": study.seed,
            "quick": study.quick,
            "camera": study.camera,
            "action": study.action,
        },
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
