"""Action strings: what they say, what is wrong with them, and the paths they make."""

from dataclasses import replace

import numpy as np
import pytest

from sana_wm.world.camera_actions import KEY_MAPPINGS, KEYS, KeyMapping, action_path, parse_actions

TURN, STRAFE = KEY_MAPPINGS["ad-turn"], KEY_MAPPINGS["ad-strafe"]
ABRUPT = replace(TURN, smoothing=None)
DT = 1 / 16


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("diffusers.pipelines.sana_wm.cam_utils")


def random_actions(seed, segments=12):
    rng = np.random.default_rng(seed)
    keys = ["".join(rng.choice(list(KEYS), rng.integers(1, 4))) for _ in range(segments)]
    keys[segments // 2] = "none"
    return ",".join(f"{key}-{rng.integers(1, 30)}" for key in keys)


def yaw_of(c2w):
    return np.unwrap(np.arctan2(c2w[:, 0, 2], c2w[:, 2, 2]).astype(np.float64))


def pitch_of(c2w):
    return np.arcsin(-c2w[:, 1, 2].astype(np.float64))


# the language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w-2,dw-1", ["w", "w", "dw"]),
        ("none-1,ijkl-1", ["", "ijkl"]),
        (" W - 1 0,\n\tNone-1 ", ["w"] * 10 + [""]),
        ("w-1，s-1", ["w", "s"]),
        ("www-01", ["w"]),
    ],
)
def test_segments_become_held_keys(text, expected):
    assert parse_actions(text) == tuple(map(frozenset, expected))


@pytest.mark.parametrize("seed", range(5))
def test_parsing_equals_the_reference(reference, seed):
    text = random_actions(seed)
    assert [sorted(keys) for keys in parse_actions(text)] == reference._parse_action_string(text)


@pytest.mark.parametrize(
    ("text", "number", "shown", "marked", "problem"),
    [
        ("w-100,dx-60", 2, "'dx-60'", "dx-60", "unknown keys 'x'"),
        ("w-100, d w60 ,s-1", 2, "'dw60'", "d w60", "expected <keys>-<frames>"),
        ("w-0", 1, "'w-0'", "w-0", "'0' as the number of frames"),
        ("w-1,s-1.5", 2, "'s-1.5'", "s-1.5", "'1.5' as the number of frames"),
        ("w-1,s-²", 2, "'s-²'", "s-²", "'²' as the number of frames"),
        ("w-1，\na--5", 2, "'a--5'", "a--5", "unknown keys '-'"),
        ("w-1,-5,d-2", 2, "'-5'", "-5", "no keys"),
        ("w-1,nonew-5", 2, "'nonew-5'", "nonew-5", "unknown keys 'noe'"),
        ("w-1,s-", 2, "'s-'", "s-", "'' as the number of frames"),
    ],
)
def test_an_error_points_at_the_segment(text, number, shown, marked, problem):
    with pytest.raises(ValueError) as error:
        action_path(text, TURN)
    headline, line, carets = str(error.value).split("\n")
    assert headline.startswith(f"action string, segment {number} {shown}: ") and problem in headline
    start, stop = carets.index("^"), len(carets)
    assert line[start:stop] == marked and set(carets[start:]) == {"^"}


@pytest.mark.parametrize(("text", "number", "column"), [("w-1,,d-2", 2, 4), ("w-1,", 2, 4), (",w-1", 1, 0)])
def test_a_comma_too_many(text, number, column):
    with pytest.raises(ValueError, match=f"segment {number} ''") as error:
        parse_actions(text)
    assert str(error.value).split("\n")[2] == " " * (2 + column) + "^"


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_string(text):
    with pytest.raises(ValueError, match="got an empty action string, expected segments like 'w-100,dw-60'"):
        parse_actions(text)


# paths


@pytest.mark.parametrize("seed", range(8))
def test_the_strafe_mapping_equals_the_reference(reference, seed):
    text = random_actions(seed, segments=20)
    ours = action_path(text, "ad-strafe")
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference.action_string_to_c2w(text), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("text", ["i-200,w-5", "k-200,id-30", "ji-300,k-3,w-9"])
def test_the_strafe_mapping_equals_the_reference_at_the_pitch_limit(reference, text):
    np.testing.assert_allclose(
        action_path(text, "ad-strafe"), reference.action_string_to_c2w(text), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_speeds_can_be_set_as_in_the_reference(reference, seed):
    text = random_actions(seed)
    mapping = replace(STRAFE, translation_speed=0.3, rotation_speed=2.5, pitch_limit=20.0)
    expected = reference.action_string_to_c2w(text, translation_speed=0.3, rotation_speed_deg=2.5, pitch_limit_deg=20.0)
    np.testing.assert_allclose(action_path(text, mapping), expected, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_mappings_differ_in_their_keys_and_numbers_alone(seed):
    text = random_actions(seed).replace("i", "w").replace("k", "s")  # their pitch limits act differently
    swapped = text.translate(str.maketrans("adjl", "jlad"))
    fast = replace(ABRUPT, translation_speed=0.05, rotation_speed=1.2)
    np.testing.assert_array_equal(action_path(swapped, fast), action_path(text, STRAFE))
    assert np.abs(action_path(text, fast) - action_path(text, STRAFE)).max() > 0.1


@pytest.mark.parametrize("mapping", [TURN, ABRUPT, STRAFE])
@pytest.mark.parametrize("seed", range(3))
def test_a_path_is_the_product_of_its_steps(mapping, seed):
    """R' = Ry(yaw) R Rx(pitch), and moves of the translation speed in the horizontal plane."""

    def turn(angle, axes):
        rotation = np.eye(3)
        rotation[np.ix_(axes, axes)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return rotation

    c2w = action_path(random_actions(seed, segments=20), mapping).astype(np.float64)
    assert np.array_equal(c2w[0], np.eye(4))
    rotation = c2w[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.tile(np.eye(3), (len(c2w), 1, 1)), atol=1e-6)
    assert (np.linalg.det(rotation) > 0).all() and (c2w[:, 3] == (0, 0, 0, 1)).all()
    turns = np.diff(yaw_of(c2w)), np.diff(pitch_of(c2w))
    for before, after, yaw, pitch in zip(rotation[:-1], rotation[1:], *turns, strict=True):
        np.testing.assert_allclose(turn(yaw, [2, 0]) @ before @ turn(pitch, [1, 2]), after, atol=3e-6)
    steps = np.diff(c2w[:, :3, 3], axis=0)
    assert (steps[:, 1] == 0).all()
    assert np.linalg.norm(steps, axis=1).max() <= np.sqrt(2) * mapping.translation_speed + 1e-6


@pytest.mark.parametrize("mapping", KEY_MAPPINGS)
def test_no_keys_and_opposite_keys_stand_still(mapping):
    for text in ("none-7", "ws-7", "adjlik-7"):
        assert np.array_equal(action_path(text, mapping), np.tile(np.eye(4), (8, 1, 1)))


@pytest.mark.parametrize(
    ("mapping", "keys", "axis", "speed"),
    [
        ("ad-turn", "ws", "z", 0.025),
        ("ad-turn", "lj", "x", 0.025),
        ("ad-turn", "da", "yaw", np.radians(0.6)),
        ("ad-turn", "ik", "pitch", np.radians(0.6)),
        ("ad-strafe", "ws", "z", 0.05),
        ("ad-strafe", "da", "x", 0.05),
        ("ad-strafe", "lj", "yaw", np.radians(1.2)),
        ("ad-strafe", "ik", "pitch", np.radians(1.2)),
    ],
)
def test_what_each_key_does(mapping, keys, axis, speed):
    """z forward, x right, yaw to the right, pitch up: the first key of a pair adds, the second takes away."""
    for key, sign in zip(keys, (1, -1), strict=True):
        c2w = action_path(f"{key}-10", mapping)
        moved = {"x": c2w[-1, 0, 3], "z": c2w[-1, 2, 3], "yaw": yaw_of(c2w)[-1], "pitch": pitch_of(c2w)[-1]}
        assert moved == pytest.approx(dict.fromkeys(moved, 0.0) | {axis: sign * 10 * speed}, abs=1e-6)
        assert c2w[-1, 1, 3] == 0


def test_forward_is_where_the_camera_heads_after_the_turn_and_stays_level():
    c2w = action_path("d-150,i-20,w-1", ABRUPT)  # 90 degrees to the right, then up
    np.testing.assert_allclose(c2w[-1, :3, 3], [0.025, 0, 0], atol=1e-6)
    one = action_path("wd-1", ABRUPT)
    angle = np.radians(0.6)
    np.testing.assert_allclose(one[-1, :3, 3], [0.025 * np.sin(angle), 0, 0.025 * np.cos(angle)], atol=1e-7)


def test_keys_of_every_frame_make_the_same_path_as_text():
    frames = ["w", "w", "dw", "", {"i"}]
    np.testing.assert_array_equal(action_path(frames, TURN), action_path("w-2,dw-1,none-1,i-1", TURN))
    assert action_path([], TURN).shape == (1, 4, 4)


# smoothing of the turn mapping


def forward_speeds(text, mapping=TURN):
    return np.diff(action_path(text, mapping)[:, 2, 3].astype(np.float64))


def test_a_press_starts_at_once_and_a_release_coasts():
    speeds = forward_speeds("w-3,none-4")
    coasting = 0.025 * np.exp(-DT * np.arange(1, 5) / 1.0)
    np.testing.assert_allclose(speeds, [0.025] * 3 + coasting.tolist(), atol=1e-7)


def test_a_release_that_leaves_a_key_held_approaches_its_speed():
    """s cancels w until it is let go of: that is no new press, so the speed builds up with the press constant."""
    speeds = forward_speeds("w-1,ws-2,w-4")
    building = 0.025 * (1 - np.exp(-DT * np.arange(1, 5) / 0.45))
    np.testing.assert_allclose(speeds, [0.025, 0, 0] + building.tolist(), atol=1e-7)


def test_a_new_press_stops_what_was_coasting():
    c2w = action_path("d-2,none-3,w-2", TURN)
    turned = np.diff(yaw_of(c2w))
    coasting = np.exp(-DT * np.arange(1, 4))
    np.testing.assert_allclose(turned, np.radians(0.6) * np.array([1, 1, *coasting, 0, 0]), atol=1e-6)


def test_velocities_lag_one_by_one():
    """d goes, w stays held: the turn coasts, the advance goes on undiminished."""
    c2w = action_path("dw-2,w-3", TURN)
    np.testing.assert_allclose(np.diff(yaw_of(c2w))[2:], np.radians(0.6) * np.exp(-DT * np.arange(1, 4)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1), 0.025, atol=1e-6)


def test_smoothing_fades_away_with_its_time_constants():
    instant = replace(TURN, smoothing=replace(TURN.smoothing, press=1e-6, coast=1e-6))
    text = random_actions(3)
    np.testing.assert_allclose(action_path(text, instant), action_path(text, ABRUPT), atol=1e-6)
    assert np.abs(action_path(text, TURN) - action_path(text, ABRUPT)).max() > 0.05


# the pitch limit


def test_pitch_stops_at_the_limit_where_it_saturates():
    mapping = replace(ABRUPT, rotation_speed=7.0)  # 8 steps are 56 degrees, 9 would be 63
    pitch = np.degrees(pitch_of(action_path("i-20,k-1", mapping)))
    np.testing.assert_allclose(pitch[8:], [56] + [60] * 12 + [53], atol=1e-3)


def test_a_step_past_the_limit_is_not_taken_where_it_does_not_saturate():
    pitch = np.degrees(pitch_of(action_path("k-80,i-1", STRAFE)))  # 70 steps are 84 degrees, 71 would be 85.2
    np.testing.assert_allclose(pitch[70:], [-84] * 11 + [-82.8], atol=1e-3)


# errors


def test_unknown_mappings_and_keys():
    with pytest.raises(ValueError, match="got the key mapping 'wasd', expected a KeyMapping or one of ad-turn, ad-str"):
        action_path("w-1", "wasd")
    with pytest.raises(ValueError, match="frame 1: got unknown keys x, expected some of w a s d"):
        action_path(["w", "wx"], TURN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"yaw": "dd"}, "every key of wasdijkl once"),
        ({"yaw": "lj"}, "every key of wasdijkl once"),
        ({"yaw": "d"}, "two keys each"),
        ({"pitch_limit": 90.0}, "got a pitch limit of 90 degrees, expected more than 0, less than 90"),
    ],
)
def test_mappings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TURN, **change)


def test_a_mapping_is_a_value():
    assert isinstance(TURN, KeyMapping) and replace(TURN) == TURN and hash(TURN) == hash(replace(TURN))
