"""Results of a long benchmark, kept as they come, with the settings that they belong to."""

import json
from pathlib import Path

from rich.console import Console


class Kept:
    """Results as they come, in a JSON file: what is there is not measured again.

    Raises:
        ValueError: the file holds what was measured in another way.
    """

    def __init__(self, path: Path, settings: dict, console: Console):
        self.path, self.console = path, console
        self.values = json.loads(path.read_text()) if path.exists() else {}
        settings = json.loads(json.dumps(settings))  # as the file gives them back
        if self.values.setdefault("settings", settings) != settings:
            raise ValueError(
                f"{path} was measured with {self.values['settings']}, asked for is {settings}: choose another --out"
            )
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, key: str, measure):
        if key not in self.values:
            self.values[key] = measure()
            self.write()
            self.console.print(f"measured: {key.split(', Search')[0]}", highlight=False)
        return self.values[key]

    def write(self) -> None:
        """A killed run leaves no half of a file."""
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.values, indent=1))
        partial.replace(self.path)
