"""Where agent, goal and door are in a TwoRoom frame: a decoder without any training.

Frames of a world model carry no state; this reads it back, so that imagined motion can be compared with the simulator.
The colours are chosen for it: floor and walls are grey and the goal has as much blue as red, so blue minus red says how
much of a pixel the agent covers; green minus red then says how much the goal covers; and how dark the middle of the
inner wall is, where it is open. Discs are found by matching and placed at the centre of mass of what is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sana_wm.envs.tworoom import AGENT, FLOOR, GOAL, WALLS
from sana_wm.envs.tworoom_physics import AGENT_RADIUS, GOAL_RADIUS, SIDE, WALL

_NOISE = 0.06  # coverage below this counts as none: 8-bit colours and an autoencoder are not exact


@dataclass(frozen=True)
class TwoRoomPose:
    """Decoded places in N frames; units of 1/64 of the side."""

    agent: np.ndarray  # (N, 2) x, y
    goal: np.ndarray  # (N, 2) x, y; where the agent stands on the goal, of what is left to see of it
    door: np.ndarray  # (N,) y of the door's middle
    agent_match: np.ndarray  # (N,) share of the agent's disc that is there, about 1 in a clean frame
    goal_match: np.ndarray  # (N,) the same of the goal's; less where the agent covers it


def decode_pose(frames: np.ndarray) -> TwoRoomPose:
    """Decode uint8 RGB frames (N, size, size, 3) of any size.

    Raises:
        ValueError: for another shape or dtype.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[1] != frames.shape[2] or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 (N, size, size, 3), got {frames.dtype} {frames.shape}")
    red, green, blue = np.moveaxis(frames.astype(np.float64), -1, 0)
    agent_NHW = np.clip((blue - red) / (AGENT[2] - AGENT[0]), 0, 1)
    goal_NHW = np.clip((green - red - agent_NHW * (AGENT[1] - AGENT[0])) / (GOAL[1] - GOAL[0]), 0, 1)
    dark = FLOOR[2] - blue - agent_NHW * (FLOOR[2] - AGENT[2]) - goal_NHW * (FLOOR[2] - GOAL[2])
    agent, agent_match = _disc(agent_NHW, AGENT_RADIUS)
    goal, goal_match = _disc(goal_NHW, GOAL_RADIUS)
    bare_NHW = (1 - agent_NHW) * (1 - goal_NHW)
    return TwoRoomPose(agent, goal, _door(dark / (FLOOR[2] - WALLS[2]), bare_NHW), agent_match, goal_match)


def _disc(cover_NHW: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres (N, 2) of the largest patches of about the given radius (units), and their share of a disc's area."""
    cover = np.where(cover_NHW < _NOISE, 0.0, cover_NHW)
    count, size = len(cover), cover.shape[-1]
    pixel = SIDE / size
    reach = int(np.ceil((radius + 1.5 * pixel) / pixel))
    padded = np.pad(cover, ((0, 0), (reach, reach), (reach, reach)))
    offsets = np.arange(-reach, reach + 1)
    window = np.add.outer(offsets**2, offsets**2) * pixel**2 <= (radius + 1.5 * pixel) ** 2
    # mass around every pixel, by sums over the window's rows
    along = np.pad(padded.cumsum(2), ((0, 0), (0, 0), (1, 0)))
    mass = np.zeros_like(cover)
    for row, inside in zip(range(2 * reach + 1), window, strict=True):
        half = int(inside.sum()) // 2
        strip = along[:, row : row + size]
        mass += (
            strip[:, :, reach + half + 1 : reach + half + 1 + size] - strip[:, :, reach - half : reach - half + size]
        )
    best = mass.reshape(count, -1).argmax(1)
    top, left = best // size, best % size  # of the window, in the padded frame
    lanes = np.arange(count)[:, None, None]
    side = np.arange(2 * reach + 1)
    rows, columns = top[:, None, None] + side[:, None], left[:, None, None] + side
    seen = padded[lanes, rows, columns] * window
    total = np.maximum(seen.sum((1, 2)), 1e-9)
    x = (seen * (columns - reach + 0.5)).sum((1, 2)) / total
    y = (seen * (rows - reach + 0.5)).sum((1, 2)) / total
    return np.stack([x, y], -1) * pixel, seen.sum((1, 2)) * pixel**2 / (np.pi * radius**2)


def _door(wall_NHW: np.ndarray, bare_NHW: np.ndarray) -> np.ndarray:
    """The middle (N,) of the open part of the inner wall, units; what discs cover says nothing."""
    size = wall_NHW.shape[-1]
    pixel = SIDE / size
    first = int(np.ceil(WALL[0] / pixel))
    across = np.s_[:, :, first : max(int(WALL[1] / pixel), first + 1)]
    bare_NH = bare_NHW[across].sum(2)
    # only in the door does a disc cover the wall's whole thickness
    open_NH = np.clip(1.0 - wall_NHW[across].sum(2) / np.maximum(bare_NH, 0.2), 0, 1)
    open_NH = np.where(open_NH < _NOISE, 0.0, open_NH)
    y = (np.arange(size) + 0.5) * pixel
    return (open_NH * y).sum(1) / np.maximum(open_NH.sum(1), 1e-9)
