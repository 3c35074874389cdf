"""A state knows its world."""

import pickle

import pytest
import torch

from sana_wm.world import WorldModel, WorldState
from tests.world.tiny import begun, identical, tiny_actions, tiny_world


def other_world():
    """The same architecture, trained otherwise."""
    world = tiny_world()
    with torch.no_grad():
        for weight in world.heads.parameters():
            weight.add_(0.01)
    return world


def test_a_state_of_other_weights_is_refused_in_every_form():
    world, other = tiny_world(), other_world()
    state, actions = begun(world, lanes=2), tiny_actions(2, 1)[:, 0]
    later, _ = world.step(state, actions)
    for foreign in (state, later, state.select([1]), state.repeat(2), WorldState.from_bytes(later.to_bytes())):
        with pytest.raises(ValueError, match="another world, of the same shape"):
            other.adopt(foreign)
        world.adopt(foreign)
    with pytest.raises(ValueError, match="another world"):
        other.rollout(pickle.loads(pickle.dumps(state)), tiny_actions(2, 3))
    with pytest.raises(ValueError, match="2 worlds"):
        WorldState.cat([state, begun(other, lanes=1)])


def test_a_saved_world_takes_its_own_states_back(tmp_path):
    world = tiny_world()
    state = begun(world, lanes=2)
    world.save_pretrained(tmp_path / "w")
    again = WorldModel.from_pretrained(tmp_path / "w")
    assert again.fingerprint == world.fingerprint
    actions = tiny_actions(2, 1)[:, 0]
    identical(world.step(state, actions)[0], again.step(WorldState.from_bytes(state.to_bytes()), actions)[0])


def test_a_state_made_by_hand_fits_where_its_shapes_do():
    world = tiny_world()
    state = begun(world, lanes=2)
    world.adopt(WorldState(state.stream, state.latent, state.seeds))
    assert begun(world, lanes=2).to_bytes() == state.to_bytes()
