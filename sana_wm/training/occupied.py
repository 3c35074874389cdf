"""A run's folder belongs to one training at a time: two would write the same checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def occupied(folder: str | Path) -> Iterator[None]:
    """Hold a run's folder, which is made if need be. The lock goes with the process, however it ends.

    Raises:
        ValueError: another training holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"another training is at work in {folder}: wait for it, stop it, or give this one a folder of its own "
            "(out=...)"
        ) from None
    try:
        yield
    finally:
        lock.release()
