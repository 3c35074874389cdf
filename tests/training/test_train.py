"""The whole recipe, as a user runs it: robot data on disk -> `python -m sana_wm.train` -> an environment."""

import json
import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from sana_wm.training.checkpoint import read_meta
from sana_wm.training.run import run
from sana_wm.world import WorldModel
from tests.world.tiny import SIDE, write_dots

SMALL_WORLD = [
    "data=lerobot",
    f"data.resolution=[{SIDE},{SIDE}]",
    "data.columns.reward=next.reward",
    "data.columns.success=next.success",
    "data.starts=4",
    "data.context=2",
    "tokenizer.latent_channels=4",
    "tokenizer.widths=[8,8,16]",
    "tokenizer.encoder_layers=[0,1,1]",
    "tokenizer.decoder_layers=[0,1,1]",
    "tokenizer.block_types=[res,res,vit]",
    "tokenizer.multiscales=[[],[],[]]",
    "+tokenizer.head_dim=8",
    "model.width=24",
    "model.heads=2",
    "model.depth=2",
    "model.window=4",
    "recipe=pusht-demo",
    "recipe.tokenizer.loop.steps=4",
    "recipe.heads.hidden=16",
    "recipe.heads.loop.steps=4",
    "recipe.heads.loss.batch_size=16",
    "recipe.dynamics.loop.steps=4",
    "recipe.refiner.model.hidden=16",
    "recipe.refiner.loop.steps=4",
    "recipe.refiner.loss.batch_size=16",
    "recipe.decoder.loop.steps=4",
    "recipe.decoder.loss.batch_size=4",
    "recipe.dynamics.loss.batch_size=2",
    "recipe.dynamics.loss.frames=5",
    "recipe.trust.train_clips=5",
    "recipe.trust.held_out_clips=5",
    "device=cpu",
    "stage=bundle",
]


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    return write_dots(tmp_path_factory.mktemp("dots") / "data")


def configuration(*overrides):
    with initialize_config_module("sana_wm.configs", version_base="1.3"):
        config = compose("train", [*SMALL_WORLD, "wandb.mode=disabled", *overrides])
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def lines_of(folder):
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_interrupted_and_run_again_the_command_makes_a_world(dots, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "sana_wm.train", *SMALL_WORLD, f"data.root={dots}", f"out={out}",
               "recipe.dynamics.loop.steps=150", "wandb.mode=offline"]  # fmt: skip
    unreachable = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    place = {"cwd": tmp_path, "env": os.environ | unreachable, "text": True, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **place) as process:
        deadline = time.monotonic() + 120
        while not any("dynamics/loss" in line for line in lines_of(out)) and time.monotonic() < deadline:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "stage dynamics stopped at step" in said and "same command" in said and "Traceback" not in said
    reached = read_meta(out / "dynamics.safetensors")
    assert 50 <= reached["step"] < 150 and not reached["done"] and not (out / "world").exists()

    again = subprocess.run(command, stdout=subprocess.PIPE, timeout=180, **place)
    assert again.returncode == 0, again.stdout
    assert read_meta(out / "dynamics.safetensors") | {"seconds": 0, "updates": 0} == {
        "step": 150, "done": True, "seconds": 0, "updates": 0,
    }  # fmt: skip
    steps = [line["step"] for line in lines_of(out) if "dynamics/loss" in line]
    assert len(steps) == len(set(steps)) == 3  # every 50 steps once: nothing was done twice
    assert len(list(out.glob("wandb/offline-run-*"))) == 2  # beside the run's other files, without a network
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]

    world = WorldModel.from_pretrained(out / "world")
    assert world.config.proprio_names == ("x", "y") and world.codec.names == ("dx", "dy")
    assert world.config.has_reward and world.config.has_success and not world.config.has_terminated
    assert world.signal_names == ("model_uncertainty", "ood_action", "ood_state", "drift")
    assert len(world.starts) == 4 and world.config.context == 2 and world.config.fps == 5
    env = gym.make("SanaWM-v0", world=out / "world")
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        observation, reward, *_ = env.step(env.action_space.sample())
    assert observation.shape == (SIDE, SIDE, 3) and isinstance(reward, float)


def test_a_dataset_of_frames_and_actions_alone_is_enough(dots, tmp_path):
    overrides = [f"data.root={dots}", f"out={tmp_path}", "data.columns.proprio=[]"]
    overrides += ["data.columns.reward=null", "data.columns.success=null", "weights=float32"]
    overrides += ["recipe.refiner=null", "recipe.decoder=null", "recipe.trust=null"]
    run(configuration(*overrides))
    world = WorldModel.from_pretrained(tmp_path / "world")
    assert world.signal_names == ()
    assert world.config.proprio_names == () and not world.config.has_reward and world.refiner is None
    before = {path.name: path.read_bytes() for path in (tmp_path / "world").glob("*.safetensors")}
    run(configuration(*overrides))  # finished stages are only loaded
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "world").glob("*.safetensors")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.widht=3", "widht"),
        ("+tokenizer.deep=3", "deep"),
        ("+recipe.tokenizer.loop.step=3", "LoopConfig: unknown settings .'step'.; known:.*steps"),
        ("+recipe.tokenizer.loss.batchsize=3", "TokenizerLoss: unknown settings"),
        ("+recipe.dynamics.loss.frame=3", "DynamicsLoss: unknown settings .'frame'."),
        ("+recipe.heads.loss.size=3", "HeadsLoss: unknown settings"),
        ("+recipe.dynamics.loop.optimizer.rate=3", "OptimizerConfig: unknown settings .'rate'."),
        ("recipe.refiner=null", "recipe.decoder fits the decoder to the refiner"),
        ("+recipe.refiner.model.with=3", "RefinerConfig: unknown settings .'with'."),
        ("+recipe.dynamics.loop.compile=maybe", "compile='maybe': expected 'auto', 'on' or 'off'"),
        ("+recipe.heads.loop.compile=on", "recipe.heads.loop.compile=on: only dynamics"),
        ("recipe.flow.steps=2", "start_share below 1"),
        ("+recipe.flow.speed=3", "FlowConfig: unknown settings"),
        ("+data.bounds.middle=3", "Bounds: unknown settings"),
        ("stage=tokeniser", "stage='tokeniser': expected one of all, collect, tokenizer"),
        ("weights=float8", "weights='float8': expected one of float16"),
        ("data.resolution=[30,30]", "multiples of"),
        ("data.columns.action=torque", r"has no \['torque'\]"),
        ("+data.columns.force=f", "Columns: unknown settings .'force'."),
        ("data.context=20", "frames"),
    ],
)
def test_mistakes_in_the_settings_surface_before_training(dots, tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        run(configuration(f"data.root={dots}", f"out={tmp_path}", override))
    assert not list(tmp_path.glob("*.safetensors"))
