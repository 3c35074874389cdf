"""Feature columns between numpy and arrow, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sana_wm.data.errors import DatasetError
from sana_wm.data.layout import AUTOMATIC_FEATURES
from sana_wm.data.video import decode_image, encode_png

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def check_features(features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """User features with tuple shapes and the automatic columns appended.

    Raises:
        ValueError: a name that the format takes, a dtype that cannot be stored, or a bad shape.
    """
    if not features:
        raise ValueError("features is empty, expected at least one name -> {'dtype', 'shape'}")
    checked = {}
    for key, feature in features.items():
        if key in AUTOMATIC_FEATURES:
            raise ValueError(f"feature {key!r} is written automatically, leave it out")
        if "/" in key:
            raise ValueError(f"feature {key!r} has a slash, which the format uses in its own column names")
        shape, dtype = tuple(feature.get("shape", ())), feature.get("dtype")
        if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"feature {key!r} has shape {shape}, expected positive whole numbers, (1,) for a scalar")
        if dtype in ("video", "image"):
            if len(shape) != 3 or shape[2] != 3:
                raise ValueError(f"camera {key!r} has shape {shape}, expected (height, width, 3)")
            names = ["height", "width", "channels"]
        elif dtype == "string":
            if shape != (1,):
                raise ValueError(f"feature {key!r} is a string with shape {shape}, expected (1,)")
            names = None
        else:
            _arrow_scalar(key, dtype)
            names = None
        checked[key] = {"dtype": dtype, "shape": shape, "names": feature.get("names", names)}
    return checked | {key: dict(value) for key, value in AUTOMATIC_FEATURES.items()}


def check_episode(
    episode: Mapping[str, Any], features: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, np.ndarray], int]:
    """The user's columns of one episode, checked, and their common length.

    Raises:
        ValueError: a key too many or too few, unequal lengths, or what `check_column` finds.
    """
    expected = [key for key in features if key not in AUTOMATIC_FEATURES]
    if set(episode) != set(expected):
        missing, unknown = sorted(set(expected) - set(episode)), sorted(set(episode) - set(expected))
        raise ValueError(f"episode keys: missing {missing}, unknown {unknown}; expected exactly {expected}")
    columns = {key: check_column(key, episode[key], features[key]) for key in expected}
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"columns have lengths {lengths}, expected one common length of at least 1")
    return columns, lengths[expected[0]]


def check_column(key: str, values: Any, feature: Mapping[str, Any]) -> np.ndarray:
    """``values`` as an array (T, *shape) of the feature's dtype; shape (1,) comes back as (T,).

    Raises:
        ValueError: wrong shape, a dtype that does not fit without loss of kind, NaN or infinity.
    """
    shape, dtype = feature["shape"], feature["dtype"]
    column = np.asarray(values)
    if shape == (1,) and column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    expected = () if shape == (1,) else shape
    if column.ndim == 0 or column.shape[1:] != expected:
        raise ValueError(f"{key}: got an array of shape {column.shape}, expected (T, {', '.join(map(str, shape))})")
    if dtype in ("video", "image"):
        if column.dtype != np.uint8:
            raise ValueError(f"{key}: got frames of dtype {column.dtype}, expected uint8 in [0, 255]")
        return column
    if dtype == "string":
        if column.dtype.kind not in "UO" or not all(isinstance(text, str) for text in column.tolist()):
            raise ValueError(f"{key}: got dtype {column.dtype}, expected strings")
        return column
    if not np.can_cast(column.dtype, np.dtype(dtype), casting="same_kind"):
        raise ValueError(f"{key}: got dtype {column.dtype}, expected {dtype}")
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        bad = int(np.flatnonzero(~np.isfinite(column).reshape(len(column), -1).all(axis=1))[0])
        raise ValueError(f"{key}: frame {bad} is {column[bad].tolist()}, expected finite numbers")
    cast = column.astype(dtype, copy=False)
    if cast.dtype.kind in "iu" and not np.array_equal(cast, column):
        raise ValueError(f"{key}: values do not fit into {dtype}")
    return cast


def to_arrow(column: np.ndarray, feature: Mapping[str, Any]) -> pa.Array:
    """A checked column in its stored form: plain scalars, (nested) fixed-size lists, or embedded PNG images."""
    dtype = feature["dtype"]
    if dtype == "image":
        return pa.array([{"bytes": encode_png(frame), "path": None} for frame in column], IMAGE_TYPE)
    if dtype == "string":
        return pa.array(column.tolist(), pa.string())
    array = pa.array(np.ascontiguousarray(column).reshape(-1))
    for size in reversed(column.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def from_arrow(column: pa.ChunkedArray, feature: Mapping[str, Any], where: str) -> np.ndarray:
    """A stored column as an array (T, *shape); shape (1,) becomes (T, 1). What is not a number is an object array (T,).

    ``where`` names the place in errors.
    """
    shape, dtype = feature["shape"], feature["dtype"]
    if column.null_count:
        raise DatasetError(f"{where}: {column.null_count} empty cells")
    if dtype == "image":
        frames = [decode_image(cell["bytes"], f"{where}, frame {t}") for t, cell in enumerate(column.to_pylist())]
        wrong = next((frame.shape for frame in frames if frame.shape != shape), None)
        if wrong is not None:
            raise DatasetError(f"{where}: image of shape {wrong}, info.json says {shape}")
        return np.stack(frames) if frames else np.empty((0, *shape), np.uint8)
    if not _is_number(dtype):
        return np.fromiter(column.to_pylist(), dtype=object, count=len(column))
    flat = column.combine_chunks()
    while isinstance(flat, pa.ExtensionArray):
        flat = flat.storage
    while pa.types.is_nested(flat.type):
        flat = flat.flatten()
        if isinstance(flat, pa.ExtensionArray):
            flat = flat.storage
    if flat.null_count:
        raise DatasetError(f"{where}: {flat.null_count} empty values")
    values = flat.to_numpy(zero_copy_only=False)
    expected = len(column) * int(np.prod(shape, dtype=np.int64))
    if values.size != expected or values.dtype.kind not in "biuf":
        raise DatasetError(
            f"{where}: {values.size} values of {flat.type}, expected {len(column)} rows of shape {shape}"
        )
    return values.astype(dtype).reshape(len(column), *shape)


def _is_number(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


def _arrow_scalar(key: str, dtype: Any) -> pa.DataType:
    try:
        return pa.from_numpy_dtype(np.dtype(dtype))
    except (TypeError, pa.ArrowException) as error:
        raise ValueError(
            f"feature {key!r} has dtype {dtype!r}, expected video, image, string or a numpy name"
        ) from error
