import numpy as np
import pytest

from sana_wm.world import Starts
from tests.world.tiny import tiny_actions, tiny_frames, tiny_world


def test_starts_count_and_reset_a_world():
    world = tiny_world()
    assert len(world.starts) == 5
    state = world.begin(world.starts.frames[:2], world.starts.actions[:2])
    assert state.frame.tolist() == [world.config.context] * 2


@pytest.mark.parametrize(
    ("frames", "actions"),
    [
        (tiny_frames(2, 3), tiny_actions(2, 3)),
        (tiny_frames(2, 3), tiny_actions(3, 2)),
        (tiny_frames(2, 3)[0], tiny_actions(2, 2)),
        (tiny_frames(2, 3), tiny_actions(2)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(frames, actions):
    with pytest.raises(ValueError, match="starts: frames"):
        Starts(frames, actions)


def test_a_single_frame_start_needs_no_actions():
    assert len(Starts(tiny_frames(4, 1), np.zeros((4, 0, 2), np.float32))) == 4
