"""`data=` with a dataset in place of a configuration, and `init=`, as a user writes them."""

import subprocess
import sys

import pytest

from sana_wm.train import arguments


@pytest.fixture
def robot(tmp_path):
    (tmp_path / "my robot" / "meta").mkdir(parents=True)
    (tmp_path / "my robot" / "meta" / "info.json").write_text("{}")
    return tmp_path / "my robot"


def test_configurations_stay_what_they_are():
    for given in (["data=lerobot", "data.root=x", "stage=all"], ["data=pusht-64"], [], ["--help"], ["--cfg", "job"]):
        assert arguments(given) == given


def test_a_folder_is_a_dataset(robot):
    assert arguments([f"data={robot}", "seed=1"]) == [
        "data=lerobot", f"data.root='{robot}'", "data.name='my robot'", "seed=1"
    ]  # fmt: skip
    assert arguments([f"data={robot}", "data.name=r"]) == ["data=lerobot", f"data.root='{robot}'", "data.name=r"]


def test_a_hub_repository_is_a_dataset():
    assert arguments(["data=lerobot/pusht"]) == ["data=lerobot", "data.root='lerobot/pusht'", "data.name='pusht'"]


def test_init_chooses_the_fine_tuning(robot):
    assert arguments(["init=ckpt", f"data={robot}"]) == [
        "--config-name=finetune", "init=ckpt", "data=robot", f"data.root='{robot}'", "data.name='my robot'"
    ]  # fmt: skip
    assert arguments(["init=ckpt", "data=lerobot", "data.root=x"])[2:] == ["data=robot", "data.root=x"]
    assert arguments(["init=ckpt", "data.root=x"]) == ["--config-name=finetune", "init=ckpt", "data.root=x"]


@pytest.mark.parametrize("place", ["nowhere", "./nowhere/at/all", "a/b/c", "/nowhere"])
def test_what_is_no_dataset_is_said(place):
    with pytest.raises(ValueError, match="no such folder; expected the folder of a LeRobot .*lerobot, pusht-64"):
        arguments([f"data={place}"])


def test_a_folder_of_something_else_is_said(tmp_path):
    with pytest.raises(ValueError, match="a folder without meta/info.json"):
        arguments([f"data={tmp_path}"])
    with pytest.raises(ValueError, match="init= fine-tunes a checkpoint to a dataset: add data="):
        arguments(["init=ckpt"])
    with pytest.raises(ValueError, match="init= is empty"):
        arguments(["init=", "data=robot"])


def test_the_command_line_takes_it(robot):
    command = [sys.executable, "-m", "sana_wm.train", "init=ckpt", f"data={robot}", "finetune=full", "--cfg", "job"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    printed = " ".join(said.stdout.split())  # long paths with a space are wrapped
    assert "method: full" in printed and f"root: {robot}" in printed and "name: my robot" in printed
    failed = subprocess.run([*command[:3], "init=ckpt"], capture_output=True, text=True, timeout=60)
    assert (
        failed.returncode == 1 and failed.stderr.startswith("error: init= fine-tunes") and "Trace" not in failed.stderr
    )
