"""One training per folder."""

import subprocess
import sys

import pytest

from sana_wm.training.occupied import occupied

HOLD = """
import sys
from sana_wm.training.occupied import occupied
with occupied(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_in_the_folder_is_told_so(tmp_path):
    folder = tmp_path / "runs" / "one"
    with occupied(folder), pytest.raises(ValueError, match="another training is at work in .*out="):
        with occupied(folder):
            raise AssertionError("both are in")
    with occupied(folder), occupied(tmp_path / "runs" / "two"):
        pass  # free again, and folders do not mind each other


def test_a_killed_training_leaves_its_folder_free(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="another training"), occupied(tmp_path):
        raise AssertionError("both are in")
    other.kill()
    other.communicate()
    with occupied(tmp_path):
        pass
