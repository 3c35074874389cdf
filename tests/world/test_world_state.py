import pickle

import pytest
import torch
from safetensors.torch import load, save

from sana_wm.diffusion.flow import FlowConfig
from sana_wm.world import WorldState
from sana_wm.world.world_state import FORMAT
from tests.world.tiny import begun, identical, tensors_of, tiny_actions, tiny_world

OWN = {"format": FORMAT}


@pytest.fixture(scope="module")
def world():
    return tiny_world(flow=FlowConfig(steps=1))


@pytest.fixture(scope="module")
def state(world):
    return world.step(begun(world), tiny_actions(3))[0]


def test_select_repeat_and_cat_agree(state):
    assert not identical(state.select([0]), state.select([1]))  # lanes differ, so the comparisons below mean something
    assert identical(WorldState.cat([state.select([0]), state.select([1, 2])]), state)
    assert identical(state.repeat(2), state.select([0, 0, 1, 1, 2, 2]))
    assert identical(state.select([2, 0, 0]).select([1]), state.select([0]))
    assert state.repeat(2).num_lanes == 6 and state.select(torch.tensor([2])).seeds.tolist() == [102]
    assert identical(WorldState.cat([state]), state)


def test_bytes_and_pickle_are_exact(state):
    for copy in (WorldState.from_bytes(state.to_bytes()), pickle.loads(pickle.dumps(state))):
        assert identical(copy, state) and copy.nbytes == state.nbytes
        assert all(a.data_ptr() != b.data_ptr() for a, b in zip(tensors_of(copy), tensors_of(state), strict=True))


def test_a_copy_goes_on_exactly_as_the_original(world, state):
    action = tiny_actions(3, seed=4)
    original, _ = world.step(state, action)
    restored, _ = world.step(WorldState.from_bytes(state.to_bytes()), action)
    assert identical(original, restored)


def test_size_does_not_grow(world):
    state, sizes = begun(world, lanes=1), {}
    for step in range(1, 61):
        state, _ = world.step(state, tiny_actions(1, seed=step))
        if step in (5, 60):
            sizes[step] = state.nbytes, len(state.to_bytes())
    assert sizes[5] == sizes[60] and state.frame.tolist() == [63]
    assert torch.isfinite(state.latent).all()


def test_a_state_is_immutable(state):
    with pytest.raises(AttributeError):
        state.latent = state.latent
    with pytest.raises(AttributeError):
        state.stream.frame = state.frame


def test_other_bytes_are_refused(state):
    good = state.to_bytes()
    for data in (b"", b"garbage", b"\0" * 64, good[: len(good) // 2], good[:-1], good[1:]):
        with pytest.raises(ValueError, match="not a saved WorldState"):
            WorldState.from_bytes(data)


def test_bytes_with_other_contents_are_refused(state):
    tensors = load(state.to_bytes())
    del tensors["seeds"]
    with pytest.raises(ValueError, match="not a saved WorldState"):
        WorldState.from_bytes(save(tensors, OWN))
    with pytest.raises(ValueError, match="not a saved WorldState"):
        WorldState.from_bytes(save(load(state.to_bytes()) | {"odd": torch.zeros(1)}, OWN))
    short = load(state.to_bytes())
    short["latent"] = short["latent"][:1]
    with pytest.raises(ValueError, match="not a saved WorldState"):
        WorldState.from_bytes(save(short, OWN))


def test_bytes_of_another_version_are_refused(state):
    tensors = load(state.to_bytes())
    WorldState.from_bytes(save(tensors, OWN))
    with pytest.raises(ValueError, match="format 'sana_wm.WorldState.0'"):
        WorldState.from_bytes(save(tensors, {"format": "sana_wm.WorldState.0"}))
