"""Robots of different bodies in one vector: the unified 80 dimensions, with a mask per dimension (spec section 14).

The layout is data: which of 80 dimensions mean what, and which of them each kind of robot has. A robot's columns are
placed among them by name; what it lacks is masked, and the network is told the mask, so that robots with different
bodies share one network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

UNIFIED = "unified_robot80"
WIDTH = 80

_AXES = ("x", "y", "z")


def _arm(side: str) -> list[str]:
    """17 dimensions of one arm: joints, position and rotation of its hand in the camera's frame, gripper."""
    return [
        *(f"{side}_joint_{i}" for i in range(7)),
        *(f"{side}_position_{axis}" for axis in _AXES),
        *(f"{side}_rot6d_{i}" for i in range(6)),
        f"{side}_gripper",  # 0 open, 1 closed
    ]


# Dimension -> name.
DIMS: tuple[str, ...] = (
    *_arm("left"),  # 0-16
    *(f"left_hand_{i}" for i in range(12)),  # 17-28, of a dexterous hand
    *_arm("right"),  # 29-45
    *(f"right_hand_{i}" for i in range(12)),  # 46-57
    *(f"camera_{i}" for i in range(9)),  # 58-66, for audit: the network never sees them
    *(f"reserved_{i}" for i in range(13)),  # 67-79
)
HIDDEN = range(58, 67)
RESERVED = range(67, 80)

# Kinds of robots: the dimensions that each has. Two hands that are seen but have no joints (people's, EgoDex and the
# like) are taken as position, rotation and closedness of each: the source gives only their number, 20.
PROFILES: dict[str, tuple[int, ...]] = {
    "dual_arm34": (*range(0, 17), *range(29, 46)),
    "right_arm17": tuple(range(29, 46)),
    "dual_hand20": (*range(7, 17), *range(36, 46)),
}


def place_columns(
    names: Sequence[str], mapping: Mapping[str, str | int] | None = None, profile: str | None = None
) -> tuple[int, ...]:
    """The dimension of every column of a dataset.

    Args:
        names: the dataset's columns, in its order.
        mapping: column -> name or number of a dimension, for columns that are not called as in the layout.
        profile: one of :data:`PROFILES`. Columns must lie inside it (or be the camera's); a dataset with as many
            columns as the profile, none of them called as in the layout, takes the profile's dimensions in order.

    Raises:
        ValueError: an unknown profile or dimension, a column of no place or one outside the profile, two columns in
            one place, or a mapping of columns that are not there.
    """
    names, mapping = list(names), dict(mapping or {})
    if profile is not None and profile not in PROFILES:
        raise ValueError(f"profile={profile!r}: expected one of {', '.join(PROFILES)}")
    if absent := sorted(set(mapping) - set(names)):
        raise ValueError(f"the mapping names columns {absent} that are not there; the columns are {names}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"columns {twice} are there more than once; every column needs a name of its own")
    if not mapping and profile is not None and not set(names) & set(DIMS) and len(names) == len(PROFILES[profile]):
        return PROFILES[profile]
    placed = {name: _dimension(name, mapping.get(name, name)) for name in names}
    if lost := [name for name, dim in placed.items() if dim is None]:
        raise ValueError(
            f"columns {lost} have no place in the {WIDTH} dimensions: map each to one of them, such as "
            f"{lost[0]}: right_joint_0. They are {', '.join(_summary())}"
        )
    for name, dim in placed.items():
        if same := [other for other, place in placed.items() if place == dim and other != name]:
            raise ValueError(f"columns {name!r} and {same[0]!r} are both {DIMS[dim]}: map one of them elsewhere")
        if dim in RESERVED:
            raise ValueError(f"column {name!r} is mapped to {DIMS[dim]}: dimensions 67 to 79 are reserved")
        if profile is not None and dim not in PROFILES[profile] and dim not in HIDDEN:
            raise ValueError(
                f"column {name!r} is {DIMS[dim]}, which the profile {profile!r} does not have: it has "
                f"{', '.join(DIMS[i] for i in PROFILES[profile])}"
            )
    if all(dim in HIDDEN for dim in placed.values()):
        raise ValueError(f"columns {names}: the network would see none of them, as the camera's are hidden from it")
    return tuple(placed.values())


def visible(dims: Sequence[int]) -> np.ndarray:
    """The mask (80,) float32 of a robot that has these dimensions: 1 where the network sees one."""
    mask = np.zeros(WIDTH, np.float32)
    mask[[dim for dim in dims if dim not in HIDDEN]] = 1
    return mask


def _dimension(column: str, place: str | int) -> int | None:
    """Number of a dimension given by name or number; None: a column that is called like none and was not mapped."""
    if isinstance(place, str) and place in DIMS:
        return DIMS.index(place)
    if isinstance(place, int) and not isinstance(place, bool) and 0 <= place < WIDTH:
        return place
    if place == column:
        return None
    raise ValueError(f"column {column!r} is mapped to {place!r}: expected {', '.join(_summary())}, or 0 to 79")


def _summary() -> list[str]:
    sides = [
        f"{side}_{part}"
        for side in ("left", "right")
        for part in ("joint_0...6", "position_x...z", "rot6d_0...5", "gripper", "hand_0...11")
    ]
    return [*sides, "camera_0...8 (hidden)"]
