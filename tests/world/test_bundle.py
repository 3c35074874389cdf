import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_wm.world import WorldModel, bundle
from tests.world.tiny import begun, identical, tiny_actions, tiny_world

PARTS = ["transformer", "tokenizer", "heads", "refiner", "starts"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    tiny_world().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def future(world):
    state = begun(world)
    for k in range(3):
        state, _ = world.step(state, tiny_actions(3, seed=k))
    return state


def test_a_loaded_world_has_the_same_future(saved):
    original, loaded = tiny_world(), WorldModel.from_pretrained(saved)
    assert identical(future(original), future(loaded))
    a, b = (world.rollout(begun(world), tiny_actions(3, 2)) for world in (original, loaded))
    for name in ("latents", "reward", "terminated", "success", "proprio"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(original.decode(a.latents), loaded.decode(b.latents))
    assert loaded.config == original.config and loaded.codec == original.codec and loaded.card == "# tiny\n"
    for name in ("frames", "actions"):
        np.testing.assert_array_equal(getattr(loaded.starts, name), getattr(original.starts, name))


def test_a_bundle_is_safetensors_and_json(saved):
    assert sorted(path.name for path in saved.iterdir()) == [
        "card.md", "config.json", "heads.safetensors", "refiner.safetensors", "starts.safetensors",
        "tokenizer.safetensors", "transformer.safetensors",
    ]  # fmt: skip
    assert list(saved.parent.iterdir()) == [saved]  # nothing temporary is left


def test_every_tensor_that_does_not_fit_is_named(copy):
    path = copy / "heads.safetensors"
    tensors = load_file(path)
    del tensors["trunk.0.weight"], tensors["proprio_mean"]
    tensors |= {"trunk.9.weight": torch.zeros(1), "trunk.2.bias": torch.zeros(3)}
    save_file(tensors, path)
    with pytest.raises(ValueError) as error:
        WorldModel.from_pretrained(copy)
    for part in ("heads.safetensors", "missing trunk.0.weight", "missing proprio_mean", "unexpected trunk.9.weight"):
        assert part in str(error.value)
    assert "trunk.2.bias is (3,), expected (16,)" in str(error.value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["truncated", "missing", "text"])
def test_damaged_files_are_named(copy, part, damage):
    path = copy / f"{part}.safetensors"
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"not a tensor in sight")
    problem = "missing" if damage == "missing" else "not a readable"
    with pytest.raises(ValueError, match=f"{part}.safetensors: {problem}"):
        WorldModel.from_pretrained(copy)


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json"),
        ("[1]", "config.json"),
        ("null", "config.json"),
        ("{}", "format None"),
        ('{"format": "sana_wm.world.99"}', "format 'sana_wm.world.99', this version reads"),
        ('{"format": "sana_wm.world.2"}', "tokenizer"),
        ('{"format": "sana_wm.world.1"}', "train the world anew"),
    ],
)
def test_an_unreadable_config_says_so(copy, text, message):
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        WorldModel.from_pretrained(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 3}, "speed"),
        ({"transformer": {"widht": 3}}, "widht"),
        ({"tokenizer": {"deep": 3}}, "deep"),
        ({"heads": {"hat": 1}}, "hat"),
        ({"codec": {"names": ["x"]}}, "ActionCodec|codec|argument"),
        ({"proprio_names": ["x"]}, "1 proprio names for 2"),
    ],
)
def test_settings_that_do_not_fit_are_named(copy, changes, message):
    change_config(copy, **changes)
    with pytest.raises(ValueError, match=message):
        WorldModel.from_pretrained(copy)


def test_unknown_worlds_list_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "SHIPPED", tmp_path)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("no-such-world", str(tmp_path / "gone"), "./gone"):
        with pytest.raises(ValueError, match="unknown world.*shipped worlds: first, second"):
            WorldModel.from_pretrained(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no config.json"):
        WorldModel.from_pretrained(tmp_path / "empty")


def test_a_shipped_world_loads_by_name(saved, monkeypatch, tmp_path):
    monkeypatch.setattr(bundle, "SHIPPED", saved.parent)
    monkeypatch.chdir(tmp_path)
    assert bundle.shipped_worlds() == ["tiny"]
    assert identical(future(WorldModel.from_pretrained("tiny")), future(tiny_world()))


@pytest.mark.parametrize("crash", ["save_file", "replace 1", "replace 2"])
def test_a_crash_while_saving_leaves_the_old_world(copy, monkeypatch, crash):
    calls = []

    def crash_in(kind, function):
        def wrapped(*args, **kwargs):
            calls.append(kind)
            if f"{kind} {calls.count(kind)}" in (crash, f"{crash} 3"):  # the third file; the first or second rename
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "save_file", crash_in("save_file", bundle.save_file))
        patch.setattr(os, "replace", crash_in("replace", os.replace))
        with pytest.raises(KeyboardInterrupt):
            tiny_world(seed=3).save_pretrained(copy)
    assert identical(future(WorldModel.from_pretrained(copy)), future(tiny_world()))
    tiny_world(seed=3).save_pretrained(copy)  # the leftovers are in nobody's way
    assert identical(future(WorldModel.from_pretrained(copy)), future(tiny_world(seed=3)))
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="thesis.tex|no world|not a bundle"):
        tiny_world().save_pretrained(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_half_precision_weights_keep_the_statistics(tmp_path):
    world = tiny_world()
    world.heads.proprio_mean.copy_(torch.tensor([100_001.0, 300.123]))  # neither fits a half
    world.save_pretrained(tmp_path / "full")
    world.save_pretrained(tmp_path / "half", dtype=torch.float16)
    loaded = WorldModel.from_pretrained(tmp_path / "half")
    assert torch.equal(loaded.heads.proprio_mean, world.heads.proprio_mean)
    assert loaded.transformer.dtype == torch.float32
    a, b = (w.rollout(begun(w), tiny_actions(3, 1)).latents for w in (world, loaded))
    assert 0 < (a - b).abs().max() < 0.05
    size = {name: (tmp_path / name / "transformer.safetensors").stat().st_size for name in ("full", "half")}
    assert size["half"] < 0.7 * size["full"]
