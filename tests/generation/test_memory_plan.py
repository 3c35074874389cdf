"""What a plan expects: weights to the byte, what they work on near what is measured, and changes that make it fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sana_wm.generation import memory_plan
from sana_wm.generation.memory_formulas import (
    Asked,
    autoencoder_weights,
    autoencoder_working,
    gemma2_2b,
    text_weights,
    transformer_weights,
    transformer_working,
)
from sana_wm.generation.memory_plan import (
    MemoryPlan,
    Networks,
    Phase,
    available_memory,
    changes_that_help,
    plan_memory,
)
from sana_wm.models.dc_ae import DCAE, DCAE_PRESETS, DCAEConfig
from sana_wm.models.family import FAMILY
from sana_wm.models.presets import preset
from sana_wm.models.quantised import prepare
from sana_wm.models.transformer import SanaTransformer

HUGE = DCAE_PRESETS["f32c32-sana-1.1"]
PUBLISHED = Networks(preset("sana-1600m", depth=2), gemma2_2b(), HUGE)


def held(network):
    return sum(tensor.nbytes for tensor in network.state_dict().values())


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("member", ["sana-600m", "sana-sprint-1600m", "longsana-2b-480p"])
def test_weights_of_transformers_are_counted_to_the_byte(member, kind, dtype):
    config = preset(member, depth=2)
    with torch.device("meta"):
        network = SanaTransformer(config).to(dtype)
    if kind is not None:
        prepare(network, kind)
    assert transformer_weights(config, dtype, kind) == held(network)


@pytest.mark.parametrize("kind", [None, "int8", "int4"])
def test_weights_of_the_text_encoder_are_counted_to_the_byte(kind):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        network = transformers.Gemma2Model(transformers.Gemma2Config(num_hidden_layers=26)).to(torch.bfloat16)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert sorted(shapes.values()) == sorted(gemma2_2b().values())
    if kind is not None:
        prepare(network, kind, embeddings=True)
    for named in (shapes, {f"model.{name}": shape for name, shape in shapes.items()}):
        assert text_weights(named, torch.bfloat16, kind) == held(network)


def test_weights_of_the_autoencoder_are_counted_to_the_byte():
    config = DCAEConfig(3, 4, 8, (8, 16), (1, 1), (1, 1), ("res", "vit"), ((), (5,)))
    assert autoencoder_weights(config, torch.float32) == held(DCAE(config))
    assert autoencoder_weights(HUGE, torch.bfloat16) == 2 * 312_250_275


@pytest.mark.parametrize("member", FAMILY)
def test_every_member_has_a_plan(member):
    config = preset(member)
    frames = config.chunk_size if config.temporal == "chunk_causal" else 21 if config.positions == "rope" else 1
    plan = plan_memory(Networks(config, gemma2_2b()), Asked((30, 52), frames, quantise="int4"), "cpu")
    assert [phase.name for phase in plan.phases] == ["text encoder", "transformer"]
    assert all(phase.weights > 2e8 and phase.working > 0 for phase in plan.phases)


# --- what they work on -----------------------------------------------------------------------------------------------


def test_more_to_work_on_takes_more():
    config = PUBLISHED.transformer
    one = transformer_working(config, Asked((32, 32)))
    assert 0.3 * one < transformer_working(config, Asked((32, 32), guided=False)) < one / 2
    assert transformer_working(config, Asked((32, 32), batch=3)) == 3 * one
    assert transformer_working(config, Asked((32, 32), frames=2)) > 1.5 * one
    assert transformer_working(config, Asked((64, 64))) > 3 * one
    assert 1.5 * one < transformer_working(config, Asked((32, 32), dtype=torch.float32)) < 2 * one
    stream = preset("longsana-2b-480p", temporal="chunk_causal")
    assert transformer_working(stream, Asked((30, 52), 10)) > transformer_working(
        preset("sana-video-2b-480p"), Asked((30, 52), 10)
    )


def test_tiles_bound_decoding():
    whole, tiled = (autoencoder_working(HUGE, Asked((64, 64), tile=tile)) for tile in (None, 512))
    assert whole > 3e9 and tiled < 0.5e9  # 2048 pixels are decoded at once unless a tile is given
    large = autoencoder_working(HUGE, Asked((128, 128)))  # 4096 are not
    assert large < 1.5e9 and autoencoder_working(HUGE, Asked((128, 128), tile=4096)) > 12e9


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_what_is_expected_is_near_what_a_process_takes():
    kind = "int4"
    row = {"phase": "transformer", "model": "sana-600m", "depth": 2, "side": 1024, "dtype": "float32", "quantise": kind}
    command = [sys.executable, "-m", "benchmarks.memory_phase", json.dumps(row)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(told.splitlines()[-1])
    taken = found["peak"] - found["base"]
    asked = Asked((32, 32), dtype=torch.float32, quantise=kind)
    plan = plan_memory(Networks(preset("sana-600m", depth=2)), asked, "cpu")
    assert 0.9 < plan.phases[0].bytes / taken < 1.4, (plan, found)


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_is_its_largest_phase():
    plan = MemoryPlan((Phase("a", 3, 4), Phase("bb", 5, 1)), process=10, available=16)
    assert plan.peak == 17 and not plan.fits
    assert MemoryPlan(plan.phases, 10, 17).fits and MemoryPlan(plan.phases, 10).fits
    first, second, last = plan.lines()
    assert first.startswith("a   weights") and second.startswith("bb  weights") and "available on cpu" in last


def with_memory(monkeypatch, available):
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: int(available))


@pytest.mark.parametrize("gigabytes", [2.6, 3, 4, 6, 8])
def test_changes_lead_to_a_plan_that_fits(monkeypatch, gigabytes):
    with_memory(monkeypatch, gigabytes * 1e9)
    asked = Asked((32, 32), batch=2, dtype=torch.float32)
    plan = plan_memory(PUBLISHED, asked, "cpu")
    changes = changes_that_help(PUBLISHED, asked, "cpu", plan)
    peaks = [peak for _, peak in changes]
    assert peaks == sorted(peaks, reverse=True) and len({name for name, _ in changes}) == len(changes)
    assert peaks[-1] <= gigabytes * 1e9 < plan.peak
    assert all(peak > gigabytes * 1e9 for peak in peaks[:-1])  # no more than is needed
    if gigabytes == 6:  # of what makes it fit, what costs the picture least
        assert changes == [("dtype=bfloat16", peaks[0])]


def test_what_fits_needs_no_change_and_what_cannot_is_not_promised(monkeypatch):
    asked = Asked((32, 32))
    with_memory(monkeypatch, 1e12)
    assert changes_that_help(PUBLISHED, asked, "cpu", plan_memory(PUBLISHED, asked, "cpu")) == []
    with_memory(monkeypatch, 1e8)
    left = changes_that_help(PUBLISHED, asked, "cpu", plan_memory(PUBLISHED, asked, "cpu"))
    assert left[-1][1] > 1e8


def test_a_network_that_is_saved_in_8_bits_is_planned_as_such():
    saved = Networks(PUBLISHED.transformer, saved_as="int8")
    asked = Asked((32, 32))
    other = plan_memory(Networks(saved.transformer), Asked((32, 32), quantise="int8"))
    assert plan_memory(saved, asked).phases == other.phases


def test_memory_of_this_machine():
    there = available_memory(torch.device("cpu"))
    assert there is None or 1e8 < there < 1e14
    assert available_memory(torch.device("meta")) is None


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_limit_of_a_container_counts(monkeypatch, tmp_path, version):
    limit, used, forgotten = memory_plan._V1 if version == 1 else memory_plan._V2
    root = tmp_path / "memory" if version == 1 else tmp_path
    for group, most in (("", 2**63 - 4096 if version == 1 else "max"), ("a", 5_000), ("a/b", 9_000)):
        (root / group).mkdir(parents=True, exist_ok=True)
        for name, value in ((limit, most), (used, 3_000), ("memory.stat", f"cache 7\n{forgotten} 500")):
            (root / group / name).write_text(str(value))
    own = tmp_path / "own"
    own.write_text("3:cpu,memory:/a/b\n2:pids:/c\n" if version == 1 else "0::/a/b\n")
    monkeypatch.setattr(memory_plan, "OWN_GROUPS", own)
    monkeypatch.setattr(memory_plan, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory_plan, "_resident", lambda: 100)
    assert available_memory(torch.device("cpu")) == 5_000 - 3_000 + 500 + 100
    own.write_text("1:name=systemd:/\n")
    assert memory_plan._of_container() is None
