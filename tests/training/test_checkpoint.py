import os

import pytest
import torch

from sana_wm.training.checkpoint import load_checkpoint, prefixed, read_meta, save_checkpoint, under


def test_round_trip_is_exact(tmp_path):
    tensors = {"a.b": torch.randn(3, 4).t(), "n": torch.tensor(7), "empty": torch.zeros(0)}
    tensors["half"] = torch.ones(2).bfloat16()
    save_checkpoint(tmp_path / "new" / "x.safetensors", tensors, {"step": 3, "seconds": 0.1 + 0.2})
    found, meta = load_checkpoint(tmp_path / "new" / "x.safetensors")
    assert meta == {"step": 3, "seconds": 0.1 + 0.2} == read_meta(tmp_path / "new" / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in found)


def test_a_kill_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"w": torch.ones(1)}, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, {"w": torch.zeros(1)}, {"step": 2})
    assert load_checkpoint(path) == ({"w": torch.ones(1)}, {"step": 1})
    save_checkpoint(path, {"w": torch.zeros(1)}, {"step": 2})
    assert read_meta(path) == {"step": 2} and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_prefixes_nest():
    tensors = {"w": torch.ones(1), "b.c": torch.zeros(1)}
    assert under("model", prefixed("model", tensors) | prefixed("model2", {"w": torch.zeros(1)})) == tensors
