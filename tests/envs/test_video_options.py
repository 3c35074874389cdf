"""The rules of the environments on a video world, tested on a fake one whose frames say what went into them."""

import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image

from sana_wm.envs.env_state import EnvState
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from sana_wm.world.camera_image import crop_picture
from tests.envs.compare import assert_same
from tests.envs.fake_video_world import CODECS, FRAMES, PROMPTS, SIZE, FakeVideoWorld
from tests.envs.fake_world import FakeWorld

ALL_CODECS = pytest.mark.parametrize("codec", CODECS)
BOTH_SIZES = pytest.mark.parametrize("vector", [False, True], ids=["single", "vector"])
PINHOLE = [31.0, 29.0, 20.0, 11.0]


def picture(seed=0, height=23, width=41):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def sampled(env, count, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def started(codec="delta", **arguments):
    env = SanaWMEnv(FakeVideoWorld(codec), image=picture(), prompt="a room", **arguments)
    env.reset(seed=0)
    return env


def play(env, actions):
    return [(obs.tobytes(), info["frames"].tobytes(), *rest) for obs, *rest, info in map(env.step, actions)]


def carried(env, name):
    return env.get_state().world.carried[name].numpy()


def camera(env):
    return carried(env, "intrinsics")


# steps


@ALL_CODECS
def test_check_env_is_clean(codec):
    units = {} if codec == "keys" else {"action_units": "normalized"}
    env = gym.make("SanaWM-v0", world=FakeVideoWorld(codec), image=picture(), render_mode="rgb_array", **units)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@ALL_CODECS
def test_a_step_is_all_raw_frames_and_the_last_is_observed(codec):
    env = SanaWMEnv(FakeVideoWorld(codec), render_mode="rgb_array")
    assert env.action_space == CODECS[codec].action_space and env.metadata["render_fps"] == 5  # steps; 15 raw frames
    obs, info = env.reset(options={"image": picture()})
    cut, _ = crop_picture(picture(), PINHOLE, size=SIZE)
    np.testing.assert_array_equal(obs, cut)
    np.testing.assert_array_equal(info["frames"], np.stack([cut] * FRAMES))
    for step, action in enumerate(sampled(env, 3)):
        obs, reward, terminated, truncated, info = env.step(action)
        assert info["frames"].shape == (FRAMES, *SIZE, 3) and info["frames"].dtype == np.uint8
        assert info["frames"][:, 0, 0, 2].tolist() == [step * FRAMES + k + 1 for k in range(FRAMES)]
        np.testing.assert_array_equal(info["frames"][-1], obs)
        np.testing.assert_array_equal(env.render()[::43, ::43], obs)
        assert (reward, terminated, truncated, info["frame"]) == (0.0, False, False, step + 2)


def test_worlds_of_single_frames_have_no_frames_in_their_info():
    env = SanaWMEnv(FakeWorld())
    assert "frames" not in env.reset(seed=0)[1] and "frames" not in env.step([0.5, 0.5])[-1]


def test_returned_frames_are_the_callers():
    env = started()
    for seen in (env.reset()[1], env.step(np.zeros(6))[-1]):
        before = env.get_state().world.carried["frames"].clone()
        seen["frames"][:] = 7
        assert (env.get_state().world.carried["frames"] == before).all() and (env._observation() != 7).any()


def test_normalized_actions_of_any_shape():
    plain, normalized = started("robot"), started("robot", action_units="normalized")
    assert normalized.action_space == gym.spaces.Box(-1, 1, (FRAMES, 2), np.float32)
    space = plain.action_space
    for action in sampled(normalized, 3):
        dataset = space.low + (action + 1) / 2 * (space.high - space.low)
        assert play(normalized, [action]) == play(plain, [dataset.astype(np.float32)])
    action[1, 1] = 1.5
    with pytest.raises(ValueError, match="down=1.5"):
        normalized.step(action)


@pytest.mark.parametrize(
    ("codec", "bad", "message"),
    [
        ("delta", [0] * 5, r"shape \(5,\), expected \(6,\): right, down, forward"),
        ("delta", [0, 0, 9, 0, 0, 0], "forward is 9"),
        ("delta", [0, 0, np.nan, 0, 0, 0], "NaN"),
        ("keys", [1, 0], r"expected \(8,\): w, a, s"),
        ("keys", [0, 0.5] + [0] * 6, "key a is 0.5"),
        ("keys", "w", "no array of numbers"),
        ("robot", np.zeros(2), r"expected \(3, 2\): right, down"),
        ("robot", np.full((3, 2), 9.0), "in bounds"),
    ],
)
def test_bad_actions_raise_and_change_nothing(codec, bad, message):
    env, twin = started(codec), started(codec)
    with pytest.raises(ValueError, match=message):
        env.step(bad)
    action = sampled(env, 1)
    assert play(env, action) == play(twin, action)


def test_keys_have_no_normalized_form():
    with pytest.raises(ValueError, match=r"MultiBinary\(8\).*actions=.delta"):
        SanaWMEnv(FakeVideoWorld("keys"), action_units="normalized")


# states


@ALL_CODECS
def test_a_state_replays_exactly_and_as_bytes_and_does_not_grow(codec):
    env, other = started(codec), SanaWMEnv(FakeVideoWorld(codec))
    actions = sampled(env, 6)
    play(env, actions[:2])
    saved = env.get_state()
    future = play(env, actions[2:])
    assert env.get_state().nbytes == saved.nbytes
    env.set_state(saved)
    assert play(env, actions[2:]) == future
    for copy in (saved.to_bytes(), EnvState.from_bytes(saved.to_bytes())):
        observation = other.set_state(copy)
        assert other.observation_space.contains(observation) and play(other, actions[2:]) == future
    env.reset(seed=5, options={"state": saved})  # a state brings its own prompt and camera, whatever the defaults
    assert play(env, actions[2:]) == future


def test_states_of_another_kind_of_world_are_refused():
    env, pusht = started(), SanaWMEnv(FakeWorld())
    pusht.reset(seed=0)
    before = env.get_state()
    for change in (env.set_state, lambda state: env.reset(options={"state": state})):
        with pytest.raises(ValueError, match="another world"):
            change(pusht.get_state())
    assert env.get_state() is before


def test_forks_go_on_alike_then_their_own_way_and_keep_the_defaults():
    env = started("keys")
    play(env, sampled(env, 2))
    one, two = env.fork(2)
    ahead = play(one, sampled(env, 3, seed=1))
    play(two, sampled(env, 3, seed=2))
    assert play(env, sampled(env, 3, seed=1)) == ahead
    np.testing.assert_array_equal(one.reset()[0], env.reset()[0])
    assert play(one, sampled(env, 2)) == play(env, sampled(env, 2))


# seeds


def test_a_seed_fixes_the_noise_whatever_the_options():
    def noise(seed, options=None):
        env = started()
        env.reset(seed=seed, options=options)
        first = int(env.get_state().world.seeds[0])
        env.reset()
        return first, int(env.get_state().world.seeds[0])

    assert noise(3) == noise(3, {"image": picture(1), "prompt": "a hall"}) != noise(4)
    assert len(set(noise(3))) == 2


@BOTH_SIZES
def test_a_reset_that_fails_changes_nothing_not_even_the_generator(vector):
    def make():
        env = SanaWMVectorEnv(2, FakeVideoWorld(), image=picture()) if vector else started()
        env.reset(seed=0)
        return env

    env, twin = make(), make()
    for bad in ({"prompt": "never heard of"}, {"image": "no/such.png"}, {"fov": 999}):
        for seed in (None, 17):
            with pytest.raises(ValueError):
                env.reset(seed=seed, options=bad)
    assert env.np_random_seed == twin.np_random_seed
    action = sampled(env, 1)[0]
    assert_same(env.step(action), twin.step(action))
    env.reset(), twin.reset()
    assert env.get_state().world.seeds.tolist() == twin.get_state().world.seeds.tolist()


# where to begin


def test_an_image_may_be_a_path_a_pil_image_or_an_array(tmp_path):
    path = tmp_path / "room.png"
    Image.fromarray(picture()).save(path)
    env = SanaWMEnv(FakeVideoWorld())
    expected = crop_picture(picture(), PINHOLE, size=SIZE)[0]
    for image in (path, str(path), Image.open(path), Image.fromarray(picture()).convert("RGBA"), picture()):
        np.testing.assert_array_equal(env.reset(options={"image": image})[0], expected)


def test_a_photograph_is_shown_upright(tmp_path):
    path, exif = tmp_path / "phone.png", Image.Exif()
    exif[0x0112] = 6  # stored on its side: turn clockwise to see it
    Image.fromarray(np.rot90(picture())).save(path, exif=exif)
    env = SanaWMEnv(FakeVideoWorld())
    np.testing.assert_array_equal(env.reset(options={"image": path})[0], crop_picture(picture(), PINHOLE, size=SIZE)[0])


@pytest.mark.parametrize(
    "intrinsics", [PINHOLE, np.array([PINHOLE]), [[31.0, 0, 20], [0, 29, 11], [0, 0, 1]], np.array([PINHOLE, [1] * 4])]
)
def test_intrinsics_are_in_pixels_of_the_image(intrinsics):
    env = SanaWMEnv(FakeVideoWorld())
    env.reset(options={"image": picture(), "intrinsics": intrinsics})
    np.testing.assert_array_equal(camera(env), crop_picture(picture(), PINHOLE, size=SIZE)[1])
    frame = picture(0, *SIZE)[None]
    env.reset(options={"frames": frame, "intrinsics": intrinsics})
    np.testing.assert_array_equal(camera(env)[0], np.array(PINHOLE, np.float32))
    env.reset(options={"frames": frame})
    assert not camera(env).any(), "the world decides where nothing is given"


def test_a_field_of_view_is_that_of_the_image():
    env = SanaWMEnv(FakeVideoWorld())
    env.reset(options={"image": picture(), "fov": 90})
    focal = 41 / 2  # of the image, 41 pixels wide
    expected = crop_picture(picture(), [focal, focal, 20, 11], size=SIZE)[1]
    np.testing.assert_allclose(camera(env), expected, rtol=1e-6)


def test_frames_bring_the_actions_of_the_steps_between_them():
    env = SanaWMEnv(FakeVideoWorld("keys"))
    frames = np.random.default_rng(0).integers(0, 256, (2 * FRAMES + 1, *SIZE, 3), np.uint8)
    actions = np.eye(8)[:2]
    obs, info = env.reset(options={"frames": frames, "actions": actions, "prompt": "a hall"})
    np.testing.assert_array_equal(obs, frames[-1])
    assert (
        info["frame"] == 3 and carried(env, "prompt") == PROMPTS.index("a hall") and carried(env, "pose")[0, 2, 3] > 0
    )
    for bad, message in (
        ({"frames": frames[:-1], "actions": actions}, "1 more than a multiple of 3"),
        ({"frames": frames}, r"without the actions between them; pass actions of shape \(2, 8\)"),
        ({"frames": frames, "actions": actions[:1]}, "expected .2, 8."),
        ({"frames": frames, "actions": actions / 2}, "key w is 0.5"),
        ({"frames": picture()[None]}, "'image'"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options=bad)


def test_a_world_of_video_with_starts_draws_them_under_the_default_prompt():
    world = FakeVideoWorld(num_starts=4)
    env = SanaWMEnv(world, prompt="a hall")
    seen = {env.reset(seed=seed)[0].tobytes() for seed in range(20)}
    assert seen == {frames[0].tobytes() for frames in world.starts.frames}
    np.testing.assert_array_equal(env.reset(options={"start": 2})[0], world.starts.frames[2, 0])
    assert carried(env, "prompt") == PROMPTS.index("a hall")
    shown = SanaWMEnv(world, image=picture())
    np.testing.assert_array_equal(shown.reset()[0], crop_picture(picture(), PINHOLE, size=SIZE)[0])
    np.testing.assert_array_equal(shown.reset(options={"start": 2})[0], world.starts.frames[2, 0])


def test_nowhere_to_begin_tells_both_ways():
    env = SanaWMEnv(FakeVideoWorld())
    for options in (None, {}, {"prompt": "a room"}, {"start": 0}):
        with pytest.raises(
            ValueError, match=r"no starts of its own.*reset\(options=.*image=picture and prompt=text when"
        ):
            env.reset(options=options)


def test_options_override_the_defaults_one_by_one():
    env = SanaWMEnv(FakeVideoWorld(), image=picture(), prompt="a room", intrinsics=PINHOLE)
    here = crop_picture(picture(), PINHOLE, size=SIZE)
    there = crop_picture(picture(1, 50, 30), [9.0, 9, 9, 9], size=SIZE)

    def begun(**options):
        obs, _ = env.reset(options=options)
        return obs, camera(env), PROMPTS[carried(env, "prompt")[0]]

    assert_same(begun(), (here[0], here[1], "a room"))
    assert_same(begun(prompt="a hall"), (here[0], here[1], "a hall"))
    assert_same(begun(image=picture(1, 50, 30), intrinsics=[9.0, 9, 9, 9]), (there[0], there[1], "a room"))
    assert not begun(image=picture(1, 50, 30))[1].any(), "intrinsics belong to their image"
    assert begun(fov=90.0)[1][0, 0] != here[1][0, 0]
    wide = SanaWMEnv(FakeVideoWorld(), fov=90.0)
    wide.reset(options={"image": picture()})
    np.testing.assert_allclose(camera(wide), crop_picture(picture(), [20.5, 20.5, 20, 11], size=SIZE)[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": picture(), "start": 0}, "one of them"),
        ({"image": picture(), "frames": picture(0, *SIZE)[None]}, "one of them"),
        ({"image": picture(), "actions": np.zeros((1, 6))}, "without 'frames'"),
        ({"image": picture(), "intrinsics": PINHOLE, "fov": 60}, "both intrinsics and fov"),
        ({"image": picture().astype(float)}, "uint8"),
        ({"image": picture()[..., 0]}, "uint8"),
        ({"image": 3}, "a path, a PIL image"),
        ({"image": "nowhere.png"}, "nowhere.png.*cannot be read"),
        ({"image": __file__}, "cannot be read"),
        ({"image": [picture()] * 2}, "2 images"),
        ({"image": picture(), "prompt": 3}, "expected a text"),
        ({"image": picture(), "prompt": ["a room", "a hall"]}, "2 prompts"),
        ({"image": picture(), "prompt": "a cave"}, "'a cave' is new"),
        ({"image": picture(), "intrinsics": [1, 2, 3]}, "intrinsics of shape"),
        ({"image": picture(), "intrinsics": [0, 1, 2, 3]}, "focal"),
        ({"image": picture(), "fov": "wide"}, "expected a number"),
        ({"image": picture(), "fov": 180}, "degrees"),
        ({"images": picture()}, "unknown reset options"),
    ],
)
def test_bad_options_say_what_to_do(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        SanaWMEnv(FakeVideoWorld()).reset(options=options)


@pytest.mark.parametrize("extra", [{"prompt": "a room"}, {"intrinsics": PINHOLE}, {"fov": 60}])
def test_a_state_takes_nothing_beside_it(extra):
    env = started()
    with pytest.raises(ValueError, match="has its own prompt and camera"):
        env.reset(options={"state": env.get_state()} | extra)


@pytest.mark.parametrize("option", [{"image": picture()}, {"prompt": "a room"}, {"intrinsics": PINHOLE}, {"fov": 60}])
def test_other_worlds_refuse_what_is_for_video(option):
    message = "only video worlds .* take: this one was trained without text"
    with pytest.raises(ValueError, match=message):
        SanaWMEnv(FakeWorld()).reset(options=option)
    for make in (SanaWMEnv, lambda world, **start: SanaWMVectorEnv(2, world, **start)):
        with pytest.raises(ValueError, match=message):
            make(FakeWorld(), **option)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"intrinsics": PINHOLE}, "without image"),
        ({"image": picture(), "intrinsics": PINHOLE, "fov": 60}, "both"),
        ({"image": "nowhere.png"}, "cannot be read"),
        ({"fov": 200}, "degrees"),
        ({"actions": "keys"}, "beside a loaded world"),
    ],
)
def test_bad_arguments_say_what_to_pass(arguments, message):
    with pytest.raises(ValueError, match=message):
        SanaWMEnv(FakeVideoWorld(), **arguments)


def test_a_name_is_opened_with_the_device_and_the_actions(monkeypatch):
    asked = []

    def open_world(name, device=None, **settings):
        asked.append((name, device, settings))
        return FakeVideoWorld("keys")

    monkeypatch.setattr(sys.modules["sana_wm.world"], "open_world", open_world)
    SanaWMEnv("a/folder", actions="keys")
    SanaWMVectorEnv(2, "a/folder", device="cuda", actions="ad-strafe")
    assert asked == [("a/folder", "cpu", {"actions": "keys"}), ("a/folder", "cuda", {"actions": "ad-strafe"})]


# many lanes


@ALL_CODECS
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_equals_gymnasiums_own_vector_env_over_single_envs(codec, mode):
    start = {"image": picture(), "prompt": "a street", "fov": 70.0, "render_mode": "rgb_array"}
    world = FakeVideoWorld(codec, max_episode_steps=3)
    ours = SanaWMVectorEnv(3, world, autoreset_mode=mode, **start)
    theirs = SyncVectorEnv(
        [lambda: SanaWMEnv(FakeVideoWorld(codec, max_episode_steps=3), **start)] * 3, autoreset_mode=mode
    )
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.metadata == theirs.metadata
    assert_same(ours.reset(seed=5), theirs.reset(seed=5))
    ends = 0
    for actions in sampled(ours, 8):
        mine = ours.step(actions)
        assert_same(mine, theirs.step(actions))
        assert mine[4]["frames"].shape == (3, FRAMES, *SIZE, 3)
        ended = mine[2] | mine[3]
        ends += ended.sum()
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended}))
    assert ends >= 4 and set(world.batches) == {3}


def test_every_lane_has_its_own_image_prompt_and_camera():
    images, prompts = [picture(0), picture(1, 30, 30), picture(2, 9, 70)], ["a room", "a hall", "a street"]
    cameras = np.arange(12, dtype=np.float64).reshape(3, 4) + 20
    options = {"image": images, "prompt": prompts, "intrinsics": cameras}
    given, default = SanaWMVectorEnv(3, FakeVideoWorld()), SanaWMVectorEnv(3, FakeVideoWorld(), **options)
    assert_same(given.reset(seed=1, options=options), default.reset(seed=1))
    for lane in range(3):
        frame, intrinsics = crop_picture(images[lane], cameras[lane], size=SIZE)
        np.testing.assert_array_equal(given.lanes.observe()[lane], frame)
        np.testing.assert_array_equal(camera(given)[lane], intrinsics[0])
        single = SanaWMEnv(FakeVideoWorld(), image=images[lane], prompt=prompts[lane], intrinsics=cameras[lane])
        single.reset(seed=1 + lane)
        action = sampled(single, 1)[0]
        ours = default.fork(1).step(np.stack([action] * 3))
        np.testing.assert_array_equal(ours[4]["frames"][lane], single.step(action)[4]["frames"])
    same = {"image": np.stack([picture()] * 3), "fov": [60, 61.5, 62], "prompt": "a hall"}
    given.reset(options=same)
    assert len(set(camera(given)[:, 0].tolist())) == 3 and carried(given, "prompt").tolist() == [3, 3, 3]
    for bad in ({"image": images[:2]}, {"image": images, "prompt": prompts[:2]}):
        with pytest.raises(ValueError, match="one for each of 3 lanes"):
            given.reset(options=bad)
    for bad in ({"intrinsics": cameras[:2]}, {"intrinsics": np.concatenate([cameras] * 2)}):
        with pytest.raises(ValueError, match="for all lanes, or 3 of them"):
            given.reset(options={"image": images} | bad)


def test_a_masked_reset_begins_only_its_lanes():
    env = SanaWMVectorEnv(3, FakeVideoWorld(), image=picture(), autoreset_mode="disabled")
    env.reset(seed=0)
    before, *_ = env.step(sampled(env, 1)[0])
    prompts = ["a room", "a hall", "a street"]
    mask = np.array([False, True, False])
    own = {"prompt": prompts, "image": [picture(k) for k in range(3)], "fov": [50, 60, 70]}
    after, infos = env.reset(options={"reset_mask": mask} | own)
    np.testing.assert_array_equal(after[~mask], before[~mask])
    np.testing.assert_array_equal(after[1], crop_picture(picture(1), PINHOLE, size=SIZE)[0])
    single = SanaWMEnv(FakeVideoWorld(), image=picture(1), fov=60)
    single.reset()
    np.testing.assert_array_equal(camera(env)[1], camera(single)[0])
    assert infos["_frames"].tolist() == mask.tolist() and carried(env, "prompt").tolist() == [0, 3, 0]


def test_forks_of_many_lanes_repeat_the_defaults():
    env = SanaWMVectorEnv(
        2, FakeVideoWorld(), image=[picture(0), picture(1)], prompt=["a room", "a hall"], fov=[50, 70]
    )
    env.reset(seed=0)
    forked = env.fork(3)
    actions = sampled(env, 1)[0]
    np.testing.assert_array_equal(
        forked.step(actions.repeat(3, axis=0))[4]["frames"], env.step(actions)[4]["frames"].repeat(3, axis=0)
    )
    np.testing.assert_array_equal(forked.reset()[0], env.reset()[0].repeat(3, axis=0))
    np.testing.assert_array_equal(camera(forked), camera(env).repeat(3, axis=0))


def test_lanes_that_begin_anew_by_themselves_need_somewhere_to_begin():
    world = FakeVideoWorld(max_episode_steps=3)
    with pytest.raises(ValueError, match='pass image= and prompt= to begin in, autoreset_mode="disabled"'):
        SanaWMVectorEnv(2, world)
    for arguments in ({"autoreset_mode": "disabled"}, {"max_episode_steps": -1}, {"image": picture()}):
        SanaWMVectorEnv(2, world, **arguments)
