"""An exported world is an EnvHub folder: its env.py works without what wrote it, as LeRobot calls it."""

import importlib.util
import shutil

import gymnasium as gym
import numpy as np
import pytest

import sana_wm
from sana_wm.world import VideoWorld
from tests.world.tiny import SIDE, tiny_world


def load(path):
    """As LeRobot loads the file."""
    spec = importlib.util.spec_from_file_location("hub_env_user_repo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world():
    return tiny_world()


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    return sana_wm.export_env(world, tmp_path_factory.mktemp("hub") / "env", agent_pos=["x"])


def only(made):
    [(suite, tasks)] = made.items()
    assert suite == "sana_wm" and list(tasks) == [0]
    return tasks[0]


def evaluate(env, policy, steps=200):
    """The calls that lerobot-eval makes: (steps, successes)."""
    observation, _ = env.reset(seed=list(range(env.num_envs)), options={"lerobot_new_rollout": True})
    assert env.call("_max_episode_steps")[0] == 6
    done, succeeded = np.zeros(env.num_envs, bool), np.zeros(env.num_envs, bool)
    for step in range(1, steps):
        assert list(env.call("task_description")) == list(env.get_attr("task")) == ["follow the dot"] * env.num_envs
        assert observation["pixels"].dtype == np.uint8 and observation["pixels"].shape == (env.num_envs, SIDE, SIDE, 3)
        assert observation["agent_pos"].shape == observation["environment_state"].shape == (env.num_envs, 1)
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        told = info["final_info"]["is_success"] if "final_info" in info else info["is_success"]
        succeeded |= np.array(told.tolist()) & ~done
        done |= terminated | truncated
        if done.all():
            return step, succeeded
    raise AssertionError("episodes do not end")


def test_the_file_makes_what_lerobot_evaluates(folder):
    env = only(load(folder / "env.py").make_env(n_envs=3, use_async_envs=False))
    assert isinstance(env, gym.vector.VectorEnv) and env.num_envs == 3 and env.unwrapped.metadata["render_fps"] == 5
    steps, _ = evaluate(env, lambda seen: np.full((3, 2), 1e9))  # a policy that leaves the bounds
    assert 1 <= steps <= 6
    assert np.stack(env.call("render")).shape[0] == 3
    assert env.observation_space.contains(env.reset(seed=0)[0])
    env.close()


def test_it_is_the_world_that_was_exported(folder, world):
    env = only(load(folder / "env.py").make_env(n_envs=2, use_async_envs=True, cfg=None))
    own = gym.make_vec("SanaWM-v0", num_envs=2, world=world, obs="dict", autoreset_mode="same_step")
    theirs, ours = env.reset(seed=4)[0], own.reset(seed=4)[0]
    for action in np.random.default_rng(0).uniform([-2, 0], [2, 8], (9, 2, 2)).astype(np.float32):
        np.testing.assert_array_equal(theirs["pixels"], ours["pixels"])
        np.testing.assert_array_equal(theirs["agent_pos"], ours["proprio"][:, :1])
        np.testing.assert_array_equal(theirs["environment_state"], ours["proprio"][:, 1:])
        theirs, *rest, infos = env.step(action)
        ours, *expected, own_infos = own.step(action)
        np.testing.assert_array_equal(rest, expected)
        for lane in np.flatnonzero(infos.get("_final_obs", [])):
            final, own_final = infos["final_obs"][lane], own_infos["final_obs"][lane]
            assert set(final) == set(env.single_observation_space)
            np.testing.assert_array_equal(final["agent_pos"], own_final["proprio"][:1])


def test_the_file_alone_fetches_its_world(folder, tmp_path, monkeypatch):
    """LeRobot downloads env.py and nothing else."""
    cache = tmp_path / "cache"
    snapshot = cache / "models--user--my-world" / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    shutil.copy(folder / "env.py", snapshot / "env.py")
    asked = []

    def snapshot_download(repo, **arguments):
        asked.append((repo, arguments))
        shutil.copytree(folder / "world", snapshot / "world")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    env = only(load(snapshot / "env.py").make_env(n_envs=1))
    env.reset(seed=0)
    [(repo, arguments)] = asked
    assert repo == "user/my-world" and arguments["revision"] == "abc123" and arguments["cache_dir"] == cache
    assert "world/*" in arguments["allow_patterns"]


def test_a_folder_explains_itself(folder, world):
    text = (folder / "README.md").read_text()
    assert "follow the dot" in text and "dx, dy" in text and "6 steps" in text
    assert (folder / "requirements.txt").read_text().startswith("sana-wm>=")
    assert {path.name for path in folder.iterdir()} >= {"env.py", "world", "README.md", "requirements.txt"}
    assert (folder / "world" / "card.md").read_text() == world.card


def test_an_export_replaces_an_export_and_nothing_else(world, tmp_path):
    folder = sana_wm.export_env(world, tmp_path / "env", task='say "hi"\nand {go}')
    assert only(load(folder / "env.py").make_env()).task == 'say "hi"\nand {go}'
    sana_wm.export_env(world, folder, max_episode_steps=9)
    env = only(load(folder / "env.py").make_env())
    assert env.call("_max_episode_steps") == (9,) and set(env.single_observation_space) == {"pixels", "agent_pos"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="choose a new folder"):
        sana_wm.export_env(world, tmp_path / "mine")
    with pytest.raises(ValueError, match="agent_pos"):
        sana_wm.export_env(world, tmp_path / "other", agent_pos=["z"])
    with pytest.raises(ValueError, match="max_episode_steps"):
        sana_wm.export_env(world, tmp_path / "other", max_episode_steps=-1)
    assert not (tmp_path / "other").exists()


def test_a_shipped_world_is_exported_by_its_name(tmp_path):
    folder = sana_wm.export_env("pusht-64", tmp_path / "env", agent_pos=["agent_x", "agent_y"])
    env = only(load(folder / "env.py").make_env(n_envs=2))
    observation, _ = env.reset(seed=0)
    assert observation["agent_pos"].shape == (2, 2) and observation["environment_state"].shape == (2, 16)


def test_a_release_is_exported_with_the_picture_it_begins_in(tmp_path):
    pytest.importorskip("diffusers")
    from tests.models.tiny_sana_wm import tiny_release

    release = tiny_release(tmp_path / "release", streaming=True)
    world = VideoWorld.from_pretrained(release, actions="keys", resolution=(64, 96), preset="sana-wm-streaming")
    picture = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
    with pytest.raises(ValueError, match="image"):
        sana_wm.export_env(world, tmp_path / "env", max_episode_steps=3)
    folder = sana_wm.export_env(world, tmp_path / "env", max_episode_steps=3, image=picture, prompt="A long hall.")
    env = only(load(folder / "env.py").make_env(n_envs=2))
    own = gym.make_vec("SanaWM-v0", num_envs=2, world=world, image=picture, prompt="A long hall.")
    theirs, ours = env.reset(seed=0)[0], own.reset(seed=0)[0]
    np.testing.assert_array_equal(theirs["pixels"], ours)
    held = np.zeros((2, 8), np.float32)
    held[:, 0] = 0.9
    theirs, ours = env.step(held)[0], own.step(np.round(held).astype(np.int8))[0]
    assert np.abs(theirs["pixels"].astype(int) - ours).max() <= 1
    assert not env.step(held)[-1]["is_success"].any()
