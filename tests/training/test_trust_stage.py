import shutil

import numpy as np
import pytest
import torch

from sana_wm.calibrate import calibrate_bundle
from sana_wm.data import LeRobotDataset
from sana_wm.training.recipe import settings
from sana_wm.training.trust_stage import TrustSettings, calibrated
from sana_wm.world import WorldModel
from sana_wm.world.trust import SIGNALS
from tests.world.tiny import tiny_world, write_dots

FEW = TrustSettings(train_clips=9, held_out_clips=7, horizon=4)


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    return write_dots(tmp_path_factory.mktemp("dots") / "data", length=11)


@pytest.fixture(scope="module")
def wide():
    """A world that takes the dots' actions, [-3, 3] x [-3, 3]."""
    world = tiny_world()
    codec = type(world.codec)(("dx", "dy"), (-3.0, -3.0), (3.0, 3.0), (0.0, 0.0), (2.0, 2.0), "cells")
    object.__setattr__(world.config, "codec", codec)
    world.codec = codec
    return world


def test_a_dataset_calibrates_a_world(wide, dots):
    done = []
    dataset = LeRobotDataset(dots)
    trust = calibrated(wide, dataset, FEW, camera="observation.image", progress=lambda *at: done.append(at))
    assert set(trust.thresholds) == set(SIGNALS) and all(value > 1e-6 for value in trust.thresholds.values())
    assert done[-1] == (FEW.batches, FEW.batches)
    again = calibrated(wide, dataset, FEW, camera="observation.image").tensors()
    assert all(torch.equal(tensor, again[name]) for name, tensor in trust.tensors().items())
    longer = TrustSettings(train_clips=3, held_out_clips=3, horizon=999)  # as far as the episodes go
    assert np.isfinite(list(calibrated(wide, dataset, longer, camera="observation.image").thresholds.values())).all()


def test_episodes_shorter_than_the_context_are_refused(wide, tmp_path):
    dataset = LeRobotDataset(write_dots(tmp_path / "short", length=3))
    with pytest.raises(ValueError, match="longest train episode has 3 frames, trust needs more than the 3"):
        calibrated(wide, dataset, FEW, camera="observation.image")


def test_a_finished_bundle_is_calibrated_in_place(wide, dots, tmp_path, capsys):
    folder = tmp_path / "world"
    wide.save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    thresholds = calibrate_bundle(
        str(folder), str(dots), train_clips=9, held_out_clips=7, horizon=4, device="cpu", measure=True, windows=6
    )
    assert WorldModel.from_pretrained(folder).trust.thresholds == thresholds
    assert {path.name for path in folder.iterdir()} == {*before, "trust.safetensors"}
    assert all((folder / name).read_bytes() == data for name, data in before.items())
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*SIGNALS, "elapsed_steps", "moved"))
    shutil.rmtree(folder)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="at least 1"):
        TrustSettings(horizon=0)
    with pytest.raises(ValueError, match="unknown settings"):
        settings(TrustSettings, {"clips": 3})
