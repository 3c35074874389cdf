"""Windows and keys; the windows open in memory (`SDL_VIDEODRIVER=dummy`, see conftest)."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

import sana_wm  # noqa: F401  registers SanaWM-v0
from sana_wm.envs.keyboard import MOVES, DirectionKeys, held_keys
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from sana_wm.envs.window import tiled
from tests.envs.fake_video_world import FakeVideoWorld
from tests.envs.fake_world import FakeWorld

RIGHT = np.array([3.0, 0.5], np.float32)
pygame = pytest.importorskip("pygame")


@pytest.fixture
def fast(monkeypatch):
    """Nobody waits for the next frame."""
    monkeypatch.setattr(pygame.time, "Clock", lambda: type("Clock", (), {"tick": lambda self, fps: None})())


def shown():
    return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)


@pytest.mark.parametrize("obs", ["pixels", "latents"])
def test_a_window_shows_each_step(fast, obs):
    env, still = SanaWMEnv(FakeWorld(), render_mode="human", obs=obs), SanaWMEnv(FakeWorld(), render_mode="rgb_array")
    for each in (env, still):
        each.reset(seed=0)
    np.testing.assert_array_equal(shown(), still.render())
    for _ in range(2):
        env.step(RIGHT), still.step(RIGHT)
        np.testing.assert_array_equal(shown(), still.render())
    assert env.render() is None
    state = env.get_state()
    env.step_chunk([RIGHT, RIGHT])
    env.set_state(state)
    np.testing.assert_array_equal(shown(), still.render())
    env.close(), env.close()
    assert not pygame.display.get_init()


def test_a_window_shows_all_lanes(fast):
    env, still = (SanaWMVectorEnv(3, FakeWorld(), render_mode=mode) for mode in ("human", "rgb_array"))
    env.reset(seed=0), still.reset(seed=0)
    np.testing.assert_array_equal(shown(), tiled(still.render()))
    env.close()
    assert not pygame.display.get_init()


def test_a_window_keeps_the_pace_of_the_world(monkeypatch):
    paces = []
    monkeypatch.setattr(
        pygame.time, "Clock", lambda: type("Clock", (), {"tick": lambda self, fps: paces.append(fps)})()
    )
    env = gym.make("SanaWM-v0", world=FakeWorld(), render_mode="human")
    env.reset(seed=0)
    env.step(RIGHT)
    env.close()
    assert paces == [5, 5]


def test_pictures_are_tiled_like_a_page():
    pictures = [np.full((2, 3, 3), value, np.uint8) for value in range(1, 6)]
    np.testing.assert_array_equal(tiled(pictures)[::2, ::3, 0], [[1, 2, 3], [4, 5, 0]])


def test_forks_of_a_window_have_none(fast):
    env = SanaWMEnv(FakeWorld(), render_mode="human")
    env.reset(seed=0)
    [fork] = env.fork(1)
    before = shown()
    fork.step(RIGHT)
    np.testing.assert_array_equal(shown(), before)
    assert fork.render_mode == "rgb_array" and fork.render().shape == (256, 256, 3)
    fork.close()
    assert pygame.display.get_init()
    env.close()


def test_without_pygame_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    for make in (SanaWMEnv, SanaWMVectorEnv):
        with pytest.raises(DependencyNotInstalled, match="pip install pygame"):
            make(world=FakeWorld(), render_mode="human")
    SanaWMEnv(FakeWorld(), render_mode="rgb_array")


def press(*keys, down=True):
    for key in keys:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN if down else pygame.KEYUP, key=ord(key)))


@pytest.mark.parametrize("name", ["SanaWM-v0", "sana_wm/PushT-v0"])
def test_a_point_is_steered_with_gymnasiums_play(fast, name):
    from gymnasium.utils.play import play

    world = {"world": FakeWorld(goal_row=99, max_episode_steps=50)} if name == "SanaWM-v0" else {}
    env = gym.make(name, render_mode="rgb_array", **world)
    space, targets = env.action_space, []
    env = DirectionKeys(env, position=lambda info: space.low + (space.high - space.low) / 4)
    env.env = Spy(env.env, targets)
    moves = []

    def callback(before, after, move, *_):
        moves.append(move)
        if len(moves) == 2:
            press("s", "d")
        if len(moves) == 4:
            press("s", down=False)
        if len(moves) == 6:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    play(env, callback=callback, seed=0)
    names = list(MOVES)
    assert [names[move] for move in moves] == ["", "", "sd", "sd", "d", "d"]
    shifts = np.diff(targets, axis=0) / (space.high - space.low) * 16
    np.testing.assert_allclose(shifts, [[0, 0], [1, 1], [1, 1], [1, 0], [1, 0]], atol=1e-4)


class Spy(gym.Wrapper):
    """Notes the actions that pass."""

    def __init__(self, env, seen):
        super().__init__(env)
        self._seen = seen

    def step(self, action):
        self._seen.append(np.array(action))
        return self.env.step(action)


def test_the_point_begins_where_the_agent_is_and_stays_on_the_table():
    env = DirectionKeys(gym.make("sana_wm/PushT-v0"), reach=0.5)
    targets = []
    env.env = Spy(env.env, targets)
    _, info = env.reset(seed=3)
    env.step(0)
    np.testing.assert_allclose(targets[-1], info["pos_agent"], rtol=1e-6)
    for _ in range(4):
        env.step(MOVES_UP_LEFT)
    np.testing.assert_array_equal(targets[-1], [0, 0])
    with pytest.raises(ValueError, match="got move 9"):
        env.step(9)
    with pytest.raises(ValueError, match="points"):
        DirectionKeys(SanaWMEnv(FakeVideoWorld()))


MOVES_UP_LEFT = list(MOVES).index("wa")


def test_keys_of_a_camera_are_held_with_gymnasiums_play(fast):
    from gymnasium.utils.play import play

    env = gym.make("SanaWM-v0", world=FakeVideoWorld("keys", num_starts=2), render_mode="rgb_array")
    held = held_keys(env)
    assert len(held) == 8 + 28 and all(action in env.action_space for action in held.values())
    seen = []

    def callback(before, after, action, *_):
        seen.append("".join(name for name, on in zip(env.unwrapped.world.codec.names, action, strict=True) if on))
        if len(seen) == 1:
            press("w", "l")
        if len(seen) == 3:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    play(env, keys_to_action=held, noop=np.zeros(8, np.int8), callback=callback, seed=0)
    assert seen == ["", "wl", "wl"]
    with pytest.raises(ValueError, match="DirectionKeys"):
        held_keys(SanaWMEnv(FakeWorld()))
