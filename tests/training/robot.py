"""A LeRobot set of a bright square that the actions push about, large enough for the video autoencoder."""

from pathlib import Path

import numpy as np

from sana_wm.data import LeRobotWriter

SIZE = (64, 96)
TASK = "push the square"


def square_episode(episode: int, length: int, size: tuple[int, int] = SIZE) -> dict[str, np.ndarray]:
    """Row t's action (right, down in px) leads from frame t to t + 1."""
    rng = np.random.default_rng(episode)
    actions = np.repeat(rng.integers(-2, 3, (length // 8 + 1, 2)), 8, axis=0)[:length].astype(np.float32)
    frames = np.full((length, *size, 3), 40, np.uint8)
    place = np.array([size[1] / 2, size[0] / 2])
    for t in range(length):
        x, y = place.round().astype(int)
        frames[t, max(0, y - 12) : y + 12, max(0, x - 12) : x + 12] = (230, 180, 60)
        place = np.clip(place + actions[t], 12, [size[1] - 12, size[0] - 12])
    return {"observation.images.side": frames, "action": actions}


def write_squares(
    root: Path, lengths: tuple[int, ...] = (40, 40, 33, 33), size: tuple[int, int] = SIZE, fps: int = 10
) -> Path:
    features = {
        "observation.images.side": {"dtype": "video", "shape": (*size, 3)},
        "action": {"dtype": "float32", "shape": (2,), "names": ["right", "down"]},
    }
    with LeRobotWriter(root, fps, features) as writer:
        for episode, length in enumerate(lengths):
            writer.add_episode(square_episode(episode, length, size), TASK)
    return root
