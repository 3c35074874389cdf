"""Results of a benchmark are measured once, and only taken for what they are."""

import pytest
from rich.console import Console

from benchmarks.kept import Kept


def test_what_is_measured_is_kept_for_the_same_settings_alone(tmp_path):
    path, calls = tmp_path / "new" / "rows.json", []

    def measure():
        calls.append(1)
        return {"rate": 0.5}

    for _ in range(2):
        keep = Kept(path, {"pairs": 3, "size": (1, 2)}, Console(quiet=True))
        assert keep("row", measure) == {"rate": 0.5}
    assert len(calls) == 1
    with pytest.raises(ValueError, match="choose another --out"):
        Kept(path, {"pairs": 4, "size": (1, 2)}, Console(quiet=True))
    assert [file.name for file in path.parent.iterdir()] == ["rows.json"]
