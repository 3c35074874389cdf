"""Whatever is thrown at the environments: a clear error, and nothing has changed."""

import copy

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sana_wm.diffusion.flow import FlowConfig
from sana_wm.envs.env_state import EnvState
from sana_wm.envs.sana_wm_env import SanaWMEnv
from sana_wm.envs.sana_wm_vector_env import SanaWMVectorEnv
from tests.envs.fake_video_world import FakeVideoWorld
from tests.world.tiny import CONTEXT, HIGH, LOW, SIDE, tiny_actions, tiny_world

LANES = 3
EXPENSIVE = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CHOICES = [[0, 1], [1, 2], [-1, 7]]


@pytest.fixture(scope="module")
def worlds():
    one_step = FlowConfig(prediction="change", steps=1)
    return tiny_world(flow=one_step), tiny_world(flow=one_step, window=5), tiny_world(flow=one_step, width=16)


@pytest.fixture(scope="module", params=["single", "vector", "chosen", "vector chosen"])
def env(request, worlds):
    arguments = {"action_set": CHOICES} if "chosen" in request.param else {}
    if "vector" in request.param:
        env = SanaWMVectorEnv(LANES, worlds[0], autoreset_mode="disabled", max_episode_steps=-1, **arguments)
    else:
        env = SanaWMEnv(worlds[0], max_episode_steps=-1, **arguments)
    env.reset(seed=0)
    return env


def fingerprint(env):
    """All that decides the future: the state, the frames shown, and the generators."""
    generators = env.np_random if isinstance(env.np_random, tuple) else (env.np_random,)
    states = [generator.bit_generator.state for generator in generators]
    return env.get_state().to_bytes(), env.lanes.frames.tobytes(), copy.deepcopy(states), env.np_random_seed


def refused(env, call, *arguments, **options):
    """The call raises one of the errors that say got and expected, and the environment is as before."""
    before = fingerprint(env)
    with pytest.raises((ValueError, TypeError, ResetNeeded)) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert any(word in message for word in ("got", "expected", "unknown", "allowed", "belongs")), message
    assert len(message) > 15 and fingerprint(env) == before


def lead(env):
    return (LANES,) if hasattr(env, "num_envs") else ()


SCALARS = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.binary(max_size=4),
    st.complex_numbers(allow_nan=False, allow_infinity=False).filter(lambda z: z.imag),
    st.floats(allow_nan=True, allow_infinity=True).filter(lambda x: not -2 <= x <= 2),
    st.integers(min_value=9),
    st.integers(max_value=-3),
    st.just(object()),
)
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
NONSENSE = st.one_of(
    SCALARS,
    st.lists(SCALARS, min_size=1, max_size=4),
    st.dictionaries(st.text(max_size=2), SCALARS, max_size=2),
    SHAPES.map(lambda shape: np.full(shape, 1e9)),
    SHAPES.map(lambda shape: np.full(shape, np.nan, np.float32)),
    SHAPES.map(lambda shape: np.full(shape, "x")),
    st.lists(st.lists(st.floats(0, 1), max_size=3), min_size=2, max_size=4).filter(
        lambda rows: len({*map(len, rows)}) > 1
    ),
    st.just(torch.full((2,), torch.nan)),
    st.just(torch.zeros(7, requires_grad=True)),
)


@given(nonsense=NONSENSE)
@EXPENSIVE
def test_nonsense_is_no_action(env, nonsense):
    refused(env, env.step, nonsense)
    refused(env, env.step_chunk, nonsense)


@given(shape=SHAPES, data=st.data())
@EXPENSIVE
def test_actions_of_another_shape_are_refused(env, shape, data):
    inner = () if env.lanes.actions.table is not None else (2,)
    value = np.ones(shape, np.int64 if inner == () else np.float32)
    if shape != (*lead(env), *inner):
        refused(env, env.step, value)
    chunk = (*lead(env), shape[len(lead(env))] if len(shape) > len(lead(env)) else 0, *inner)
    if shape != chunk or not chunk[len(lead(env))]:
        refused(env, env.step_chunk, value)


@given(column=st.integers(0, 1), beyond=st.floats(1e-3, 1e30), below=st.booleans(), lane=st.integers(0, LANES - 1))
@EXPENSIVE
def test_one_number_out_of_bounds_is_enough(env, column, beyond, below, lane):
    if env.lanes.actions.table is not None:
        index = np.zeros(lead(env), np.int64)
        index[lane if lead(env) else ()] = -1 if below else len(CHOICES)
        refused(env, env.step, index)
        return
    action = np.ones((*lead(env), 2), np.float32)
    place = (lane, column) if lead(env) else (column,)
    action[place] = np.float32(LOW[column] - beyond if below else HIGH[column] + beyond)
    refused(env, env.step, action)
    refused(env, env.step_chunk, np.stack([np.ones_like(action), action], axis=len(lead(env))))


BAD_FRAMES = st.one_of(
    st.tuples(SHAPES, st.sampled_from([np.uint8, np.float32, bool])).map(lambda pair: np.zeros(*pair)),
    st.just(np.zeros((CONTEXT - 1, SIDE, SIDE, 3), np.uint8)),
    st.just(np.zeros((CONTEXT, SIDE, SIDE + 1, 3), np.uint8)),
    st.just(np.zeros((CONTEXT, SIDE, SIDE, 3), np.float32)),
    st.just(np.zeros((CONTEXT, SIDE, SIDE, 3), np.uint8)),  # without the actions between
    SCALARS.filter(lambda value: value is not None),
)
BAD_OPTIONS = st.one_of(
    st.fixed_dictionaries({"start": NONSENSE.filter(lambda value: value is not None)}),
    st.fixed_dictionaries({"frames": BAD_FRAMES}),
    st.fixed_dictionaries(
        {
            "frames": st.just(np.zeros((CONTEXT, SIDE, SIDE, 3), np.uint8)),
            "actions": NONSENSE.filter(lambda value: not isinstance(value, np.ndarray) or value.shape != (2, 2)),
        }
    ),
    st.fixed_dictionaries({"state": NONSENSE.filter(lambda value: value is not None)}),
    st.dictionaries(st.text(min_size=1, max_size=6), st.integers(), min_size=1, max_size=2),
    st.sampled_from([{"prompt": "A."}, {"image": np.zeros((9, 9, 3), np.uint8)}, {"fov": 60}, {"intrinsics": [1] * 4}]),
    st.just({"start": 1, "state": b""}),
    st.just({"actions": np.zeros((2, 2), np.float32)}),
    st.sampled_from([[], [1], "start", 3, b"x", ("start", 1)]),
)  # fmt: skip


@given(options=BAD_OPTIONS, seed=st.none() | st.integers(0, 9))
@EXPENSIVE
def test_nonsense_is_no_place_to_begin(env, options, seed):
    refused(env, env.reset, seed=seed, options=options)


@given(mask=NONSENSE.filter(lambda value: value is not None) | st.just(np.zeros(LANES, bool)) | st.just([True] * LANES))
@EXPENSIVE
def test_nonsense_is_no_mask(env, mask):
    refused(env, env.reset, options={"reset_mask": mask})


BAD_SEEDS = st.one_of(
    st.integers(max_value=-1), st.floats(), st.text(max_size=2), st.binary(max_size=2), st.booleans(),
    st.just(object()), st.complex_numbers(), st.dictionaries(st.text(max_size=1), st.integers(), max_size=1),
    st.lists(st.integers(0, 5), max_size=5).filter(lambda seeds: len(seeds) != LANES),
    st.lists(st.floats() | st.integers(max_value=-1) | st.text(max_size=1), min_size=LANES, max_size=LANES),
    st.just(np.zeros((), np.int64)[None, None]),
)  # fmt: skip


@given(seed=BAD_SEEDS)
@EXPENSIVE
def test_nonsense_is_no_seed(env, seed):
    refused(env, env.reset, seed=seed)


@given(data=st.data())
@EXPENSIVE
def test_damaged_bytes_are_no_state(env, data):
    whole = env.get_state().to_bytes()
    damage = data.draw(st.sampled_from(["cut", "flip", "grow", "head"]))
    if damage == "cut":
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif damage == "grow":
        broken = whole + data.draw(st.binary(min_size=1, max_size=9))
    else:
        place = data.draw(st.integers(0, 300 if damage == "head" else len(whole) - 1))
        broken = bytearray(whole)
        broken[place] ^= data.draw(st.integers(1, 255))
        if same_state(broken, whole):  # white space of the header, say
            return
    refused(env, env.set_state, bytes(broken))
    refused(env, env.reset, options={"state": bytes(broken)})


def same_state(broken, whole):
    try:
        return EnvState.from_bytes(bytes(broken)).to_bytes() == whole
    except ValueError:
        return False


@given(nonsense=NONSENSE.filter(lambda value: value is not None))
@EXPENSIVE
def test_nonsense_is_no_state(env, nonsense):
    refused(env, env.set_state, nonsense)


def test_states_of_other_worlds_versions_and_sizes_are_refused(env, worlds):
    state = env.get_state()
    for world in worlds[1:]:
        stranger = SanaWMVectorEnv(state.num_lanes, world)
        stranger.reset(seed=0)
        for other in (stranger.get_state(), stranger.get_state().to_bytes(), stranger.get_state().world):
            refused(env, env.set_state, other)
            refused(env, env.reset, options={"state": other})
    refused(env, env.set_state, state.repeat(2))
    refused(env, env.reset, options={"state": state.repeat(2)})
    older = state.to_bytes().replace(b"sana_wm.EnvState.1", b"sana_wm.EnvState.0")
    refused(env, env.set_state, older)
    refused(env, env.set_state, state.world.to_bytes())
    sick = copy.copy(state.world)
    object.__setattr__(sick, "latent", torch.full_like(sick.latent, torch.nan))
    for other in (sick, EnvState(sick, state.elapsed, state.ended)):
        refused(env, env.set_state, other)
        refused(env, env.reset, options={"state": other})


def test_a_state_must_fit_itself(worlds):
    env = SanaWMEnv(worlds[0])
    env.reset(seed=0)
    world = env.get_state().world
    for elapsed, ended in (([0, 0], [False]), ([0], [False, False]), ([0.5], [False]), ([0], [0]), (0, False)):
        with pytest.raises(ValueError, match="got e.* expected"):
            EnvState(world, np.array(elapsed), np.array(ended))


@pytest.mark.parametrize("n", [0, -3])
def test_forks_are_counted_from_one(env, n):
    refused(env, env.fork, n)


def test_after_all_of_it_the_environment_goes_on(env, worlds):
    arguments = {"action_set": CHOICES} if env.lanes.actions.table is not None else {}
    count = env.lanes.num_lanes
    twin = SanaWMVectorEnv(count, worlds[0], autoreset_mode="disabled", max_episode_steps=-1, **arguments)
    twin.reset(seed=0)
    action = np.zeros(count, np.int64) if arguments else tiny_actions(count)
    expected = twin.step(action)[0]
    got = env.step(action if lead(env) else action[0])[0]
    np.testing.assert_array_equal(got if lead(env) else got[None], expected)


PICTURES = st.one_of(
    SCALARS.filter(lambda value: value is not None),
    SHAPES.map(lambda shape: np.zeros(shape, np.uint8)).filter(
        lambda image: not (image.ndim in (3, 4) and image.size and image.shape[-1] == 3)
    ),
    st.just(np.zeros((5, 5, 3), np.float32)),
    st.just([np.zeros((5, 5, 3), np.uint8)] * 2),
    st.sampled_from(["no such picture.png", "\0", "\ud800", "."]),
)


def is_camera(value):
    """A strange one, but one."""
    return isinstance(value, np.ndarray) and value.dtype == float and (value > 0).all() and value.shape[-1:] == (4,)


SIGHTS = st.one_of(
    st.fixed_dictionaries({"image": PICTURES}),
    st.fixed_dictionaries({"prompt": st.integers() | st.binary() | st.just("never encoded") | st.just(["a"] * 2)}),
    st.fixed_dictionaries({"fov": st.sampled_from([0, 180.0, -1, np.nan, "wide", [6, 6], [[6], [60, 70]], True, 1j])}),
    st.fixed_dictionaries({"intrinsics": NONSENSE.filter(lambda value: value is not None and not is_camera(value))}),
    st.just({"fov": 60, "intrinsics": [1, 1, 0, 0]}),
    st.just({"start": 0}),
)  # fmt: skip


@given(options=SIGHTS, vector=st.booleans())
@EXPENSIVE
def test_nonsense_is_no_sight_of_a_video_world(video_envs, options, vector):
    env = video_envs[vector]
    before = env.get_state(), env.render()
    with pytest.raises((ValueError, TypeError)) as caught:
        env.reset(seed=9, options=options)
    assert "got" in str(caught.value) or "expected" in str(caught.value) or "no text encoder" in str(caught.value)
    assert env.get_state() is before[0]
    for now, then in zip(env.render(), before[1], strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.fixture(scope="module")
def video_envs():
    picture = np.full((9, 12, 3), 40, np.uint8)
    single = SanaWMEnv(FakeVideoWorld("keys"), image=picture, render_mode="rgb_array")
    vector = SanaWMVectorEnv(LANES, FakeVideoWorld("keys"), image=picture, render_mode="rgb_array")
    single.reset(seed=0), vector.reset(seed=0)
    return single, vector
