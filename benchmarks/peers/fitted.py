"""Both peers trained within the same budget, resumable, from the data of a shipped world."""

import json
from pathlib import Path

import torch
from filelock import FileLock
from rich.console import Console

from benchmarks.peers.data import PeerData
from benchmarks.peers.jepa import JEPAConfig
from benchmarks.peers.peer import About, JEPAPeer, UNetPeer, load_peer
from benchmarks.peers.train import Budget, train_denoiser, train_frame_readout, train_jepa, train_probe
from benchmarks.peers.unet import SIGMA_DATA, DenoiserConfig
from sana_wm.world import WorldModel

READOUT_SHARE = 0.15  # of a budget, for what reads places, reward and outcomes

# Noise levels reach higher than DIAMOND's (20 in place of 5): less the background, frames are all about two small
# discs, which the scaling makes so bright that noise of 5 hides neither.
UNET = DenoiserConfig(widths=(48, 64), fold=4, log_sigma_mean=1.0, log_sigma_std=1.5, sigma_max=20.0)
JEPA = JEPAConfig()


def about(world: WorldModel) -> About:
    config = world.config
    return About(world.codec, tuple(config.proprio_names), tuple(config.resolution), config.context)


def train_peer(kind: str, world: WorldModel, data: PeerData, minutes: float, folder: Path, console: Console) -> dict:
    """Train "unet" or "jepa", or take what is there; leaves ``<kind>.safetensors`` and ``<kind>.json`` in ``folder``.

    Returns:
        {"parameters", "stages": {name: see `fit`}}
    """
    bundle, report = folder / f"{kind}.safetensors", folder / f"{kind}.json"
    with FileLock(folder / f"{kind}.lock"):  # whoever else trains it here: wait, and take theirs
        if not (bundle.exists() and report.exists()):
            report.write_text(json.dumps(_train(kind, world, data, minutes, folder / "training", bundle, console)))
        return json.loads(report.read_text())


def _train(
    kind: str, world: WorldModel, data: PeerData, minutes: float, parts: Path, bundle: Path, console: Console
) -> dict:
    torch.manual_seed(0)
    reading = READOUT_SHARE * minutes
    learning = minutes - reading
    if kind == "unet":
        peer = UNetPeer(about(world), UNET)
        peer.scale.fit(data, SIGMA_DATA)
        stages = {
            "readout": train_frame_readout(peer.readout, peer.scale, data, Budget(reading, 2e-3, 128), parts, console),
            "denoiser": train_denoiser(
                peer.denoiser, peer.readout, peer.scale, data, Budget(learning, 1e-3, 12), parts, console
            ),
        }
    else:
        peer = JEPAPeer(about(world), JEPA)
        peer.scale.fit(data, SIGMA_DATA)
        stages = {
            "jepa": train_jepa(peer.jepa, peer.scale, data, Budget(learning, 1e-3, 32), parts, console),
            "probe": train_probe(peer.probe, peer.jepa, peer.scale, data, Budget(reading, 2e-3, 256), parts, console),
        }
    peer.save(bundle)
    load_peer(bundle)  # what is on disk is what is measured
    return {"parameters": sum(p.numel() for p in peer.parameters()), "stages": stages}
