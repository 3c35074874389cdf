"""Exact comparison of what environments return."""

import numpy as np


def assert_same(ours, theirs):
    """Equal values of nested tuples, dicts and arrays, with equal types and dtypes."""
    assert type(ours) is type(theirs)
    if isinstance(ours, tuple | list):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            assert_same(*pair)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, np.ndarray) and ours.dtype == object:
        assert_same(list(ours), list(theirs))
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs
