import gymnasium as gym
import numpy as np
import pytest

from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from sana_wm.world.trust_calibration import Clips, calibrate
from tests.envs.fake_world import FakeWorld
from tests.world.tiny import CONTEXT, tiny_actions, tiny_frames, tiny_world

SIGNALS = {"model_uncertainty", "ood_action", "ood_state", "drift"}
ACTION = np.array([0.5, 3.0], np.float32)


@pytest.fixture(scope="module")
def world():
    world = tiny_world()
    clips = Clips(tiny_frames(12, CONTEXT + 4, seed=1), tiny_actions(12, CONTEXT + 3, seed=1), CONTEXT)
    world.trust = calibrate(world, clips, clips)
    return world


def trust_of(info):
    return {name for name in info if name in SIGNALS | {"trusted"}}


def endless(cls, *arguments, **options):
    """Heads of random weights end episodes at random: here nothing but time and trust does."""
    return cls(*arguments, threshold=1 - 1e-12, max_episode_steps=options.pop("max_episode_steps", -1), **options)


def test_every_step_says_how_far_to_trust_it(world):
    env = endless(SanaWMEnv, world)
    _, info = env.reset(seed=0)
    assert trust_of(info) == {"ood_state", "drift", "trusted"}, "no step was taken yet"
    for _ in range(3):
        info = env.step(ACTION)[-1]
        assert trust_of(info) == SIGNALS | {"trusted"} and "uncertainty" not in info
        assert all(type(info[name]) is float and np.isfinite(info[name]) for name in SIGNALS)
        assert info["trusted"] is all(info[name] <= 1 for name in SIGNALS)
    *_, info = env.step_chunk(np.stack([ACTION] * 2))
    assert trust_of(info) == SIGNALS | {"trusted"}


def test_lanes_say_what_a_single_environment_says(world):
    single, many = endless(SanaWMEnv, world), endless(SanaWMVectorEnv, 3, world)
    single.reset(seed=1), many.reset(seed=0)
    for k in range(4):
        actions = tiny_actions(3, seed=k)
        alone, infos = single.step(actions[1])[-1], many.step(actions)[-1]
        for name in SIGNALS:
            assert infos[name].shape == (3,) and infos[name][1] == pytest.approx(alone[name], rel=2e-3, abs=1e-4)


def test_what_is_watched_can_be_chosen(world):
    for trust, expected in ((False, set()), (["drift"], {"drift", "trusted"}), (True, SIGNALS | {"trusted"})):
        env = endless(SanaWMEnv, world, trust=trust)
        env.reset(seed=0)
        assert trust_of(env.step(ACTION)[-1]) == expected
        assert bool(env.get_state().world.carried) == ("model_uncertainty" in expected), "only who asks pays"
    latents = endless(SanaWMEnv, world, obs="latents")
    latents.reset(seed=0)
    assert trust_of(latents.step(ACTION)[-1]) == SIGNALS - {"drift"} | {"trusted"}, "nothing is decoded"
    named = endless(SanaWMEnv, world, obs="latents", trust=["drift"])
    named.reset(seed=0)
    assert trust_of(named.step(ACTION)[-1]) == {"drift", "trusted"}


def test_watching_changes_no_observation(world):
    watched, plain = endless(SanaWMEnv, world), endless(SanaWMEnv, world, trust=False)
    np.testing.assert_array_equal(watched.reset(seed=3)[0], plain.reset(seed=3)[0])
    for k in range(3):
        a, b = (env.step(tiny_actions(seed=k)) for env in (watched, plain))
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]


def test_frames_are_decoded_once_a_step(world, monkeypatch):
    decoded, frames = [], world.frames
    monkeypatch.setattr(world, "frames", lambda state: decoded.append(state.num_lanes) or frames(state))
    env = endless(SanaWMVectorEnv, 2, world)
    env.reset(seed=0)
    env.step(tiny_actions(2))
    env.step_chunk(tiny_actions(2, 3))
    assert decoded == [2, 2, 2]


def test_doubts_are_part_of_the_state(world):
    env = endless(SanaWMEnv, world)
    env.reset(seed=0)
    env.step(ACTION)
    state, (fork,) = env.get_state(), env.fork(1)
    expected = env.step(ACTION)[-1]["model_uncertainty"]
    assert fork.step(ACTION)[-1]["model_uncertainty"] == expected
    other = endless(SanaWMEnv, world)
    other.set_state(state.to_bytes())
    assert other.step(ACTION)[-1]["model_uncertainty"] == pytest.approx(expected, rel=1e-6)
    unwatched = endless(SanaWMEnv, world, trust=False)
    unwatched.set_state(state)
    unwatched.step(ACTION)
    other.set_state(unwatched.get_state())  # begins to count there
    assert 0 < other.step(ACTION)[-1]["model_uncertainty"] < expected


def first_end(world, limit):
    """After how many steps uncertainty passes a limit: it never falls."""
    env = endless(SanaWMEnv, world)
    env.reset(seed=0)
    values = [env.step(ACTION)[-1]["model_uncertainty"] for _ in range(12)]
    assert np.diff(values).min() > 0
    return int(np.argmax(np.array(values) > limit)), values


def test_untrusted_steps_end_the_episode(world):
    _, values = first_end(world, 0)
    limit = (values[4] + values[5]) / 2
    env = endless(SanaWMEnv, world, truncate_untrusted={"model_uncertainty": limit})
    env.reset(seed=0)
    for k in range(6):
        *_, terminated, truncated, info = env.step(ACTION)
        assert not terminated and truncated == (k == 5)
        assert info.get("truncated_by") == ("model_uncertainty" if k == 5 else None)
    env.reset(seed=0)
    *_, truncated, info = env.step_chunk(np.stack([ACTION] * 9))
    assert truncated and info["steps"] == 6 and info["truncated_by"] == "model_uncertainty"
    for everything in (1e-6, True):
        env = endless(SanaWMEnv, world, truncate_untrusted=everything)
        env.reset(seed=0)
        *_, truncated, info = env.step(ACTION)
        worst = max(SIGNALS, key=info.__getitem__)
        assert truncated == (info[worst] > (everything if everything is not True else 1))
        assert info.get("truncated_by") == (worst if truncated else None)


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_lanes_end_one_by_one(world, mode):
    """The lanes whose uncertainty is above the limit end, the others go on, in every autoreset mode."""
    probe = endless(SanaWMVectorEnv, 3, world)
    probe.reset(seed=0)
    values = probe.step(np.stack([ACTION] * 3))[-1]["model_uncertainty"]
    limit = float(np.sort(values)[1:].mean())  # between the two largest: one lane ends
    worst = int(values.argmax())
    limits = {"model_uncertainty": limit}
    env = endless(SanaWMVectorEnv, 3, world, truncate_untrusted=limits, autoreset_mode=mode)
    env.reset(seed=0)
    _, _, terminations, truncations, infos = env.step(np.stack([ACTION] * 3))
    assert not terminations.any() and truncations.tolist() == [lane == worst for lane in range(3)]
    said = infos["final_info"] if mode == "same_step" else infos
    assert said["truncated_by"][worst] == "model_uncertainty"
    assert said["model_uncertainty"][worst] == pytest.approx(values[worst], rel=1e-6)
    elapsed = env.get_state().elapsed
    assert elapsed[worst] == (0 if mode == "same_step" else 1) and elapsed.sum() == (2 if mode == "same_step" else 3)
    if mode == "same_step":
        assert not infos["_model_uncertainty"][worst] and infos["_ood_state"][worst], "of the state it begins in"
        assert env.get_state().world.carried["doubt"][worst] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trust": "drift"}, TypeError, "list of names"),
        ({"trust": 3}, TypeError, "list of names"),
        ({"trust": ["doubt"]}, ValueError, r"\['doubt'\], expected some of \['model_uncertainty'"),
        ({"truncate_untrusted": {"doubt": 1.0}}, ValueError, "doubt"),
        ({"truncate_untrusted": "drift"}, TypeError, "expected True, a number, or a dict"),
        ({"truncate_untrusted": {"drift": "high"}}, TypeError, "expected True, a number, or a dict"),
        ({"truncate_untrusted": 0.0}, ValueError, "positive"),
        ({"truncate_untrusted": {"drift": float("nan")}}, ValueError, "positive"),
        ({"truncate_untrusted": {}}, ValueError, "at least one signal"),
        ({"truncate_untrusted": 2.0, "trust": False}, ValueError, "nothing would be watched"),
    ],
)
def test_bad_options_say_what_to_pass(world, arguments, error, message):
    for make in (lambda: SanaWMEnv(world, **arguments), lambda: SanaWMVectorEnv(2, world, **arguments)):
        with pytest.raises(error, match=message):
            make()


@pytest.mark.parametrize("arguments", [{"trust": True}, {"trust": ["drift"]}, {"truncate_untrusted": True}])
def test_worlds_that_were_never_calibrated(arguments):
    for world in (tiny_world(), FakeWorld()):
        with pytest.raises(ValueError, match="no trust data; calibrate it"):
            SanaWMEnv(world, **arguments)
        env = SanaWMEnv(world)
        assert not trust_of(env.reset(seed=0)[1])
        assert not trust_of(env.step(env.action_space.sample())[-1])


def test_gym_make_takes_the_options(world):
    env = gym.make("SanaWM-v0", world=world, truncate_untrusted=1e-9, disable_env_checker=True)
    env.reset(seed=0)
    assert env.step(ACTION)[3]
    many = gym.make_vec("SanaWM-v0", num_envs=2, world=world, trust=["ood_action"], truncate_untrusted=None)
    many.reset(seed=0)
    assert trust_of(many.step(np.stack([ACTION] * 2))[-1]) == {"ood_action", "trusted"}
