"""The environments on a SANA-WM release, at tiny size with random weights; their rules are tested beside this."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

import sana_wm  # noqa: F401  registers SanaWM-v0
from sana_wm.envs.env_state import EnvState
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from sana_wm.world import VideoWorld
from sana_wm.world.camera_image import crop_picture
from tests.models.tiny_sana_wm import tiny_release

pytest.importorskip("diffusers")
SIZE = (64, 96)
PROMPT = "A long hall."
ACTIONS = ("delta", "keys")
BOTH = pytest.mark.parametrize("actions", ACTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A release that runs at 64 x 96 pixels."""
    folder = tiny_release(tmp_path_factory.mktemp("release"), streaming=True)
    (folder / "sana_wm.json").write_text('{"preset": "sana-wm-streaming", "resolution": [64, 96]}')
    return folder


@pytest.fixture(scope="module")
def worlds(folder):
    return {actions: VideoWorld.from_pretrained(folder, actions=actions) for actions in ACTIONS}


def picture(seed=0):
    """Smooth, since the autoencoder of random weights sees little of noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((133, 90), Image.Resampling.BICUBIC))


def begun(world, seed=0, **arguments):
    env = SanaWMEnv(world, image=picture(), prompt=PROMPT, **arguments)
    env.reset(seed=seed)
    return env


def sampled(env, count, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def play(env, actions):
    """The raw frames of each step, exactly."""
    return [env.step(action)[-1]["frames"].tobytes() for action in actions]


def close(ours, theirs):
    """Equal frames but for the rounding of float32 in batches of another size."""
    return np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1


@BOTH
def test_a_folder_becomes_an_environment(folder, actions):
    env = gym.make("SanaWM-v0", world=folder, actions=actions)
    assert env.observation_space == gym.spaces.Box(0, 255, (*SIZE, 3), np.uint8)
    assert env.action_space.shape == {"delta": (6,), "keys": (8,)}[actions] and env.metadata["render_fps"] == 2
    obs, info = env.reset(seed=1, options={"image": picture(), "prompt": PROMPT})
    cut, _ = crop_picture(picture(), [1, 1, 0, 0], size=SIZE)
    assert obs.shape == cut.shape and info["frames"].shape == (8, *SIZE, 3)
    for step, action in enumerate(sampled(env, 3)):
        obs, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(obs) and info["frame"] == step + 2
        assert info["frames"].shape == (8, *SIZE, 3) and info["frames"].dtype == np.uint8
        np.testing.assert_array_equal(info["frames"][-1], obs)
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert (info["frames"][0] != obs).any()


@BOTH
def test_check_env_is_clean(folder, actions):
    units = {"action_units": "normalized"} if actions == "delta" else {}
    env = gym.make(
        "SanaWM-v0", world=folder, actions=actions, image=picture(), prompt=PROMPT, render_mode="rgb_array", **units
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@BOTH
def test_a_state_replays_exactly_as_a_value_and_as_bytes(worlds, actions):
    env, other = begun(worlds[actions]), SanaWMEnv(worlds[actions])
    moves = sampled(env, 5)
    play(env, moves[:2])
    saved = env.get_state()
    future = play(env, moves[2:])
    env.set_state(saved)
    assert play(env, moves[2:]) == future
    observation = other.set_state(EnvState.from_bytes(saved.to_bytes()))
    assert other.observation_space.contains(observation) and play(other, moves[2:]) == future
    other.reset(options={"state": saved})
    assert play(other, moves[2:]) == future and len(set(future)) == 3


@BOTH
def test_memory_does_not_grow(worlds, actions):
    env = begun(worlds[actions])
    sizes = {env.get_state().nbytes}
    for action in sampled(env, 12):
        env.step(action)
        sizes.add(env.get_state().nbytes)
    assert len(sizes) == 1


@BOTH
def test_forks_go_on_as_the_original_and_then_their_own_way(worlds, actions):
    env = begun(worlds[actions])
    play(env, sampled(env, 2))
    one, two = env.fork(2)
    ahead = play(one, sampled(env, 2, seed=1))
    assert play(two, sampled(env, 2, seed=2)) != ahead
    assert play(env, sampled(env, 2, seed=1)) == ahead


def test_the_same_seed_gives_the_same_frames_and_another_others(worlds):
    def run(seed):
        env = begun(worlds["keys"], seed)
        return play(env, sampled(env, 2))

    assert run(3) == run(3) and run(3) != run(4)


@BOTH
def test_what_is_told_matters(worlds, actions):
    env = begun(worlds[actions])
    moves = sampled(env, 2)

    def run(**options):
        env.reset(seed=0, options=options)
        return play(env, moves)

    assert run() == run(image=picture(), prompt=PROMPT)
    changed = [run(prompt="A street."), run(image=picture(1)), run(fov=30.0), run(fov=100.0)]
    assert len({repr(seen) for seen in [run(), *changed]}) == 5
    env.reset(seed=0)
    assert play(env, [np.zeros_like(moves[0])] * 2) != run()


@BOTH
def test_a_vector_env_is_its_single_envs(worlds, actions):
    images, prompts = [picture(k) for k in range(3)], [PROMPT, "A street.", PROMPT]
    vector = SanaWMVectorEnv(3, worlds[actions], image=images, prompt=prompts, fov=[50, 60, 70])
    observations, _ = vector.reset(seed=7)
    singles = [
        SanaWMEnv(worlds[actions], image=image, prompt=prompt, fov=fov)
        for image, prompt, fov in zip(images, prompts, [50, 60, 70], strict=True)
    ]
    for lane, env in enumerate(singles):
        assert close(env.reset(seed=7 + lane)[0], observations[lane])
    for moves in sampled(vector, 3):
        observations, *_, infos = vector.step(moves)
        assert infos["frames"].shape == (3, 8, *SIZE, 3)
        for lane, env in enumerate(singles):
            obs, *_, info = env.step(moves[lane])
            assert close(obs, observations[lane]) and close(info["frames"], infos["frames"][lane])
    lane = SanaWMEnv(worlds[actions])
    lane.set_state(vector.get_state().select([1]))
    assert close(lane.step(moves[1])[0], singles[1].step(moves[1])[0])


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_every_autoreset_mode_runs_over_ends(worlds, mode):
    env = gym.make_vec(
        "SanaWM-v0", num_envs=2, world=worlds["keys"], max_episode_steps=2, autoreset_mode=mode, image=picture()
    )
    first, _ = env.reset(seed=0)
    ends, again = 0, []
    for moves in sampled(env, 5):
        observations, _, terminated, truncated, infos = env.step(moves)
        ended = terminated | truncated
        ends += int(ended.sum())
        assert infos["frames"].shape == (2, 8, *SIZE, 3)
        if mode == "disabled" and ended.any():
            observations, infos = env.reset(options={"reset_mask": ended})
        if infos["frame"].tolist() == [1, 1]:
            again.append(observations)
    assert ends >= 2 and again and all((observations == first).all() for observations in again)


def test_a_state_of_other_actions_or_another_world_is_refused(worlds, tmp_path):
    deeper = VideoWorld.from_pretrained(tiny_release(tmp_path, streaming=True, depth=8), resolution=SIZE)
    for own, stranger in (
        (worlds["keys"], worlds["delta"]),
        (worlds["delta"], worlds["keys"]),
        (worlds["keys"], deeper),
    ):
        env = begun(own)
        before = env.get_state()
        with pytest.raises(ValueError, match="another world"):
            env.set_state(begun(stranger).get_state())
        with pytest.raises(ValueError, match="another world"):
            env.reset(options={"state": begun(stranger).get_state()})
        assert env.get_state() is before


def test_prompts_that_cannot_be_encoded_change_nothing(worlds):
    world = worlds["delta"]
    mute = VideoWorld(world.config, world.transformer, world.vae, world.codec, prompts=world.prompts)
    if PROMPT not in world.prompts:
        begun(world)
        mute.prompts |= world.prompts
    env, twin = begun(mute), begun(mute)
    with pytest.raises(ValueError, match="no text encoder"):
        env.reset(seed=99, options={"prompt": "Something new."})
    assert play(env, sampled(env, 1)) == play(twin, sampled(env, 1))
    env.reset(), twin.reset()
    assert play(env, sampled(env, 1)) == play(twin, sampled(env, 1))
