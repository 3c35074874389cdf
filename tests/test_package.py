"""The package as a user meets it: names, registration, the wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import gymnasium as gym
import pytest

import sana_wm

ROOT = Path(__file__).parents[1]
ROOMS = {"sana_wm": ROOT / "sana_wm"} | {f"sana_wm/{room}": ROOT / room for room in ("envs", "agents", "configs")}


def shipped_files():
    """Every file of the checkout that must be in a wheel, as its path there."""
    for prefix, folder in ROOMS.items():
        for path in folder.rglob("*"):
            is_world = "worlds" in path.relative_to(folder).parts
            if path.is_file() and "__pycache__" not in path.parts and (is_world or path.suffix in {".py", ".yaml"}):
                yield f"{prefix}/{path.relative_to(folder).as_posix()}"


def run(code, *flags, **kwargs):
    result = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_import_is_light_and_registers():
    heavy, *registered = run(
        "import sys, sana_wm, gymnasium; print(bool({'torch', 'pygame', 'wandb'} & sys.modules.keys()));"
        "print(*[i for i in ('SanaWM-v0', 'sana_wm/PushT-v0') if i in gymnasium.registry])"
    )
    assert heavy == "False"
    assert registered == ["SanaWM-v0", "sana_wm/PushT-v0"]


def test_import_is_fast():
    def seconds():
        return float(run("import time; t = time.perf_counter(); import sana_wm; print(time.perf_counter() - t)")[0])

    # The promise is 0.5 s on an idle machine; twice that still tells a light import from one that loads torch.
    assert min(seconds() for _ in range(3)) < 1.0


def test_gym_make_imports_the_package_by_itself(tmp_path):
    code = (
        "import sys, gymnasium; from tests.envs.fake_world import FakeWorld; assert 'sana_wm' not in sys.modules;"
        "env = gymnasium.make('sana_wm:SanaWM-v0', world=FakeWorld()); print(env.reset(seed=0)[0].shape)"
    )
    assert "".join(run(code, cwd=ROOT)) == "(16,16,3)"


def test_specs_are_serialisable():
    for name in ("SanaWM-v0", "sana_wm/PushT-v0"):
        assert gym.envs.registration.EnvSpec.from_json(gym.spec(name).to_json()) == gym.spec(name)


@pytest.mark.parametrize("name", sorted(set(sana_wm.__all__) - {"__version__"}))
def test_public_names_resolve(name):
    assert name in dir(sana_wm)
    assert getattr(sana_wm, name).__name__ == name


def test_unknown_public_name_lists_the_known():
    with pytest.raises(AttributeError, match="WorldModel"):
        sana_wm.WordModel  # noqa: B018


def test_every_folder_with_code_is_a_listed_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {str(Path(path).parent).replace("/", ".") for path in shipped_files() if path.endswith(".py")}
    assert folders == set(project["tool"]["setuptools"]["packages"])
    assert sana_wm.__version__ == project["project"]["version"]


def test_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    names = {requirement.split(">")[0].split("<")[0] for requirement in wanted}
    lines = [line for line in (ROOT / "constraints.txt").read_text().split() if "==" in line]
    pins = dict(line.split("==") for line in lines)
    assert names <= pins.keys()
    assert pins["torch"] == "2.13.0"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Built from a copy, because setuptools leaves its build folder beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("sana_wm", "envs", "agents", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    arguments = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(source)]
    subprocess.run([*pip, *arguments], check=True, capture_output=True)
    [path] = out.glob("sana_wm-*.whl")
    return path


def test_wheel_contains_all_rooms_and_worlds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = set(shipped_files())
    assert {"sana_wm/envs/lanes.py", "sana_wm/agents/__init__.py", "sana_wm/configs/__init__.py"} <= expected
    assert expected <= names, expected - names
    extra = {name for name in names - expected if ".dist-info/" not in name}
    assert not extra
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_works_outside_the_checkout(wheel, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    install = ["install", "--no-deps", "--no-index", "--no-compile", "--target", str(target), str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    # -S skips the .pth file of an editable install, which would lend missing modules to the wheel.
    paths = os.pathsep.join([str(target), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    worlds = sorted(path.name for path in (ROOT / "sana_wm" / "worlds").glob("*/") if (path / "config.json").exists())
    code = f"""
import gymnasium, sana_wm, sana_wm.envs, sana_wm.agents, sana_wm.configs
print(sana_wm.__file__, sana_wm.envs.__file__, sana_wm.agents.__file__, sana_wm.configs.__file__)
from sana_wm.envs.sana_wm_env import SanaWMEnv
for world in {worlds}:
    env = gymnasium.make("SanaWM-v0", world=world)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[0].any()
"""
    files = run(code, "-S", cwd=elsewhere, env={**os.environ, "PYTHONPATH": paths})
    assert len(files) == 4
    assert all(Path(file).is_relative_to(target) for file in files), files
