"""``python -m sana_wm.generate`` at a published size, from files to PNG, with no more memory than it is allowed.

    python -m benchmarks.whole_image --limit 3 dtype=bfloat16 quantise=int4 quantise_text=int4 tile=512

The release has the published shapes and random weights (bfloat16, kept in ``--out``: 7 GB of disk and more), so that
the picture is noise and everything else is real. With ``--limit`` the command runs in a control group that may not have
more (Linux, version 1 or 2, as root): what it takes beyond that gets it killed. Pages of mapped weight files count too,
but the system takes those back when it needs them, which is why the limit says more than the resident memory does.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.memory_phase import filled
from sana_wm.generation.memory import GB
from sana_wm.models.dc_ae import DCAE, dcae_preset
from sana_wm.models.presets import preset
from sana_wm.models.transformer import SanaTransformer

PROMPT = "a street at dusk, wet cobblestones, a lamp in every window"
CGROUPS = Path("/sys/fs/cgroup")


def release(member: str, folder: Path, console: Console) -> Path:
    """A folder as diffusers saves it; parts that are there are kept."""
    parts = {
        "transformer": lambda: SanaTransformer(preset(member)),
        "vae": lambda: DCAE(dcae_preset("f32c32-sana-1.1")),
        "text_encoder": _gemma,
    }
    for name, network in parts.items():
        if not (folder / name).is_dir():
            console.print(f"random weights of {name}", highlight=False)
            with torch.device("meta"):
                made = network()
            shutil.rmtree(partial := folder / f"{name}.partial", ignore_errors=True)
            layout = {} if name == "text_encoder" else {"layout": "diffusers"}
            filled(made, torch.bfloat16, None).save_pretrained(partial, **layout)
            partial.rename(folder / name)
    if not (folder / "tokenizer").is_dir():
        _tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir(exist_ok=True)
    scheduler = {"_class_name": "DPMSolverMultistepScheduler", "flow_shift": 3.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SanaPipeline"}))
    return folder


def _gemma():
    from transformers import AutoModel, Gemma2Config

    return AutoModel.from_config(Gemma2Config(), dtype=torch.bfloat16)


def _tokenizer():
    """Of Gemma's kind, which reads letter by letter: so prompts are longer than with the published one."""
    from transformers import GemmaTokenizer

    letters = [chr(code) for code in range(32, 127)] + ["▁"]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(special + letters))}
    return GemmaTokenizer(vocab=vocab, merges=[])


class Limit:
    """A control group in which a process may have so many bytes. Use as a context, and :meth:`enter` in the child."""

    def __init__(self, size: int):
        v1 = (CGROUPS / "memory" / "memory.limit_in_bytes").exists()
        self.folder = (CGROUPS / "memory" if v1 else CGROUPS) / f"sana-wm-{os.getpid()}"
        self.file, self.size = "memory.limit_in_bytes" if v1 else "memory.max", size

    def __enter__(self) -> "Limit":
        self.folder.mkdir()
        (self.folder / self.file).write_text(str(self.size))
        return self

    def enter(self) -> None:
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def __exit__(self, *_) -> None:
        self.folder.rmdir()


def run(folder: Path, out: Path, limit: int | None, settings: list[str]) -> dict:
    """The command in a process of its own: its exit code, seconds, most resident bytes, what it printed."""
    command = [sys.executable, "-m", "sana_wm.generate", f"model={folder}", f"prompt={PROMPT}", f"out={out}",
               "overwrite=true", *settings]  # fmt: skip
    began = time.monotonic()
    if limit is None:
        told = subprocess.run(command, capture_output=True, text=True)
    else:
        with Limit(limit) as group:
            told = subprocess.run(command, capture_output=True, text=True, preexec_fn=group.enter)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    said = (told.stderr + told.stdout).strip()
    return {"ended": told.returncode, "seconds": time.monotonic() - began, "resident": peak, "said": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sana-600m", help="an image member with published sizes")
    parser.add_argument("--out", type=Path, default=Path("runs/whole"), help="the release and the picture")
    parser.add_argument("--limit", type=float, help="GB (1e9 bytes) that the command may have")
    parser.add_argument("settings", nargs="*", help="of the command, such as size=1024 dtype=bfloat16 quantise=int4")
    options, console = parser.parse_args(), Console(stderr=True)
    folder = options.out / options.model
    folder.mkdir(parents=True, exist_ok=True)
    release(options.model, folder, console)
    limit = None if options.limit is None else int(options.limit * GB)
    found = run(folder, options.out / "picture.png", limit, options.settings)
    print(found["said"])
    allowed = "" if limit is None else f", {options.limit:g} GB allowed"
    print(
        f"ended with {found['ended']} after {found['seconds']:.0f} s{allowed}; resident at most "
        f"{found['resident'] / GB:.2f} GB, mapped files included"
    )
    sys.exit(found["ended"] != 0)


if __name__ == "__main__":
    main()
