"""Metadata files as plain values; whatever is wrong with a file is one error that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sana_wm.data.errors import DatasetError


def read_json(path: Path) -> Any:
    """Parsed contents of a JSON file; a missing or unreadable one is a `DatasetError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable JSON ({error})") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Parsed lines of a .jsonl file (v2.1 metadata)."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable ({error})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{path}: line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{path}: line {number} is a {type(row).__name__}, expected an object")
        rows.append(row)
    return rows


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A parquet file as a table; a missing, truncated or foreign one is a `DatasetError` that names it."""
    return _with_parquet(path, lambda: pq.ParquetFile(path).read(columns=columns))


def read_parquet_columns(path: Path) -> list[str]:
    """Names of the columns of a parquet file."""
    return _with_parquet(path, lambda: pq.read_schema(path).names)


def _with_parquet(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing") from None
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: not readable parquet, cut off while being written? ({error})") from error
