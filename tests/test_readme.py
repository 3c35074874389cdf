"""The README promises what exists: its Python compiles, its commands and settings compose, its files are there."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

import sana_wm
from sana_wm.generation.command_line import quoted_arguments
from sana_wm.generation.which_job import job_of
from sana_wm.train import arguments

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def commands():
    """(job, overrides) of every `python -m sana_wm.<job> ...` in a bash block, continued lines joined."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line) for line in lines if line.startswith("python -m sana_wm.")]
    return [(line[2].removeprefix("sana_wm."), line[3:]) for line in words]


def settings_of_the_table():
    """Dotted names in the first column of the table of train's settings."""
    rows = re.findall(r"^\| (`[^|]+) \|", README, flags=re.M)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    return [name for name in names if re.match(r"(data|recipe|model|wandb)\.", name)]


def test_python_blocks_compile_and_import_what_exists():
    assert len(blocks("python")) >= 3
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                assert all(importlib.util.find_spec(alias.name) for alias in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sana_wm":
                assert hasattr(sana_wm, node.attr)


@pytest.mark.parametrize(("job", "overrides"), commands(), ids=lambda part: part if isinstance(part, str) else "")
def test_commands_compose(job, overrides):
    assert importlib.util.find_spec(f"sana_wm.{job}")
    module, name = ("sana_wm.configs.generate" if job == "generate" else "sana_wm.configs"), job
    if job == "generate":
        model = next(given.partition("=")[2] for given in overrides if given.startswith("model="))
        overrides, name = quoted_arguments(overrides), job_of(model) if model else name
    if job == "train":  # data= may be a dataset, and init= chooses another configuration
        overrides = arguments(overrides)
        name = next((given.partition("=")[2] for given in overrides if given.startswith("--config-name=")), name)
        overrides = [override for override in overrides if not override.startswith("--")]
    with initialize_config_module(module, version_base="1.3"):
        config = compose(config_name=name, overrides=overrides)  # raises for a group, option or key that is not there
    for override in overrides:
        key = override.partition("=")[0]
        assert key in config or key.split(".")[0] in config


def test_every_job_is_shown():
    assert {job for job, _ in commands()} == {"train", "collect", "plan", "evaluate", "generate"}


def test_settings_of_the_table_exist():
    assert len(settings_of_the_table()) > 10
    with initialize_config_module("sana_wm.configs", version_base="1.3"):
        config = compose(config_name="train", overrides=["data=lerobot", "data.root=somewhere"])
    for name in settings_of_the_table():
        for each in [name.replace("*", stage) for stage in ("tokenizer", "dynamics")]:
            *path, last = each.split(".")
            section = config
            for part in path:
                section = section[part]
            assert last in section, each


def test_links_into_the_repository_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert "examples/step_world.py" in links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
