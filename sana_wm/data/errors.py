"""The one exception that every damaged or unreadable dataset raises."""

from __future__ import annotations

from collections.abc import Sequence


class DatasetError(ValueError):
    """A dataset on disk is damaged, incomplete or not in a known format.

    ``problems`` holds one line per finding, each naming its file and, where there is one, its episode.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()):
        self.problems = list(problems) or [message]
        listing = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(message + listing)

    def __reduce__(self):
        return _rebuild, (self.args[0], self.problems)


def _rebuild(message: str, problems: list[str]) -> DatasetError:
    """Unpickle with the finished message (loader processes send errors to their parent by pickle)."""
    error = DatasetError(message)
    error.problems = problems
    return error
