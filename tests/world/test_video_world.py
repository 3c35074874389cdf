"""A SANA-WM release as a world, at tiny size: camera actions in, raw frames out."""

import json
import warnings

import numpy as np
import pytest
import torch

from sana_wm.diffusion.samplers import Conditions, stream
from sana_wm.diffusion.schedules import few_step_schedule
from sana_wm.nn.camera import camera_conditions
from sana_wm.world import VideoWorld, WorldState, open_world
from sana_wm.world.noise import lane_noise
from tests.models.tiny_sana_wm import tiny_release

pytest.importorskip("diffusers")
SIZE = (64, 96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_release(tmp_path_factory.mktemp("release"), streaming=True)


@pytest.fixture(scope="module", params=["delta", "keys"])
def world(folder, request):
    return VideoWorld.from_pretrained(folder, resolution=SIZE, actions=request.param)


def images(lanes: int, frames: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (lanes, frames, *SIZE, 3), np.uint8)


def moves(world, lanes: int, steps: int, seed: int = 0) -> np.ndarray:
    space = world.codec.action_space
    space.seed(seed)
    return np.stack([[space.sample() for _ in range(steps)] for _ in range(lanes)])


def same(a: WorldState, b: WorldState) -> bool:
    first, second = a._tensors(), b._tensors()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_shapes_and_sizes(world):
    state = world.begin(images(2), prompt=["a room", "a street"], seeds=[3, 4])
    assert world.frames(state).shape == (2, 8, *SIZE, 3)
    sizes = {state.nbytes}
    for action in moves(world, 2, 6).swapaxes(0, 1):
        state, prediction = world.step(state, action)
        sizes.add(state.nbytes)
        assert prediction.latents.shape == (2, 6, 2, 3) and prediction.reward is None
    assert len(sizes) == 1 and state.frame.tolist() == [7, 7]
    frames = world.frames(state)
    assert frames.shape == (2, 8, *SIZE, 3) and frames.dtype == np.uint8


def test_steps_are_the_stream_of_the_sampler(world):
    """Three steps equal three chunks of one latent with the camera path given at once, decoded as one clip."""
    image, actions, seed = images(1), moves(world, 1, 3, seed=5), 11
    state = world.begin(image, prompt="a hall", seeds=[seed])
    pose, carried, poses = state.carried["pose"][:, None], state.carried, [state.carried["pose"][:, None]]
    latents, shown = [state.latent], []
    for action in actions[0]:
        path, carried = world.codec.advance(carried, torch.as_tensor(action)[None])
        poses.append(path)
        state, _ = world.step(state, action[None])
        latents.append(state.latent)
        shown.append(world.frames(state))
    assert torch.equal(pose[0, 0], torch.eye(4, dtype=torch.float64))
    path = torch.cat(poses, dim=1).float()
    intrinsics = torch.from_numpy(world.config.intrinsics()).expand(1, path.shape[1], 4)
    camera, plucker = camera_conditions(path, intrinsics, SIZE, (2, 3))
    text = world.transformer.encode_text(*(part[None] for part in world.prompts["a hall"]))
    told = Conditions(text=text, camera=camera, plucker=plucker)
    first = world.vae.encode(image)
    start = world.begin(image, prompt="a hall", seeds=[seed]).stream

    def noise(begin, end):
        return lane_noise(torch.tensor([seed]), torch.tensor([begin + 1]), 0, (6, 2, 3))[:, :, None]

    chunks = stream(
        world.transformer, noise, lambda a, b: told.frames(a + 1, b + 1), (1, 1, 1),
        few_step_schedule(world.config.timesteps), state=start,
    )  # fmt: skip
    expected = torch.cat([first] + [chunk for chunk, _ in chunks], dim=2)
    torch.testing.assert_close(torch.stack(latents, dim=2), expected, rtol=0, atol=1e-5)
    clip = world.vae.decode(expected)[0]
    assert np.abs(np.concatenate(shown, axis=1)[0].astype(int) - clip[1:]).max() <= 1


def test_rollout_is_stepping(world):
    state, actions = world.begin(images(2), prompt="x"), moves(world, 2, 3)
    imagined = world.rollout(state, actions).latents
    for step in range(3):
        state, prediction = world.step(state, actions[:, step])
        assert torch.equal(imagined[:, step], prediction.latents)


def test_lanes_are_worlds_of_their_own(world):
    actions = moves(world, 3, 2)
    together = world.begin(images(3), prompt=["a", "b", "a"], seeds=[5, 6, 7])
    alone = world.begin(images(3)[1:2], prompt="b", seeds=[6])
    for step in range(2):
        together, _ = world.step(together, actions[:, step])
        alone, _ = world.step(alone, actions[1:2, step])
    torch.testing.assert_close(together.select([1]).latent, alone.latent, rtol=0, atol=1e-5)
    assert np.abs(world.frames(together)[1].astype(int) - world.frames(alone)[0]).max() <= 1


def test_conditions_matter(world):
    action = moves(world, 1, 1)[:, 0]
    base = world.step(world.begin(images(1), prompt="a", seeds=[1]), action)[1].latents
    for change in (
        {"prompt": "b"}, {"seeds": [2]}, {"intrinsics": [40.0, 40.0, 48.0, 32.0]},
    ):  # fmt: skip
        other = {"prompt": "a", "seeds": [1]} | change
        assert not torch.allclose(world.step(world.begin(images(1), **other), action)[1].latents, base), change
    still = world.step(world.begin(images(1), prompt="a", seeds=[1]), np.zeros_like(action))[1].latents
    assert not torch.allclose(still, base)


def test_context_of_several_latents(world):
    """Frames that were seen are remembered as if they had been stepped through, but with their own latents."""
    frames, actions = images(1, 17), moves(world, 1, 2)
    state = world.begin(frames, actions, prompt="x")
    assert state.frame.tolist() == [3]
    assert torch.equal(state.latent, world.vae.encode(frames)[:, :, -1])
    assert np.abs(world.frames(state)[0].astype(int) - world.vae.decode(world.vae.encode(frames))[0, 9:]).max() <= 1
    with pytest.raises(ValueError, match="actions have shape"):
        world.begin(frames, prompt="x")


def test_state_is_a_value(world):
    state, actions = world.begin(images(1), prompt="x"), moves(world, 1, 2)
    there, _ = world.step(state, actions[:, 0])
    copy = WorldState.from_bytes(there.to_bytes())
    assert same(copy, there)
    assert same(world.step(copy, actions[:, 1])[0], world.step(there, actions[:, 1])[0])
    assert same(world.step(state, actions[:, 0])[0], there)
    many = there.repeat(3)
    assert many.num_lanes == 3 and same(many.select([2]), there)


def test_states_and_inputs_that_do_not_fit(world, folder):
    state = world.begin(images(1), prompt="x")
    with pytest.raises(ValueError, match="another world"):
        world.adopt(WorldState(state.stream, state.latent, state.seeds))
    with pytest.raises(ValueError, match="one per lane"):
        world.begin(images(2), prompt=["only one"])
    with pytest.raises(ValueError, match="frames have shape"):
        world.begin(np.zeros((1, 1, 32, 96, 3), np.uint8), prompt="x")
    with pytest.raises(ValueError, match="actions have shape"):
        world.step(state, np.zeros((2, *world.codec.shape), np.float32))
    with pytest.raises(ValueError, match="multiples of 32"):
        VideoWorld.from_pretrained(folder, resolution=(60, 96))


def test_an_unknown_training_is_said(tmp_path):
    release = tiny_release(tmp_path)
    with pytest.warns(UserWarning, match="does not say how its weights were trained"):
        world = VideoWorld.from_pretrained(release, resolution=SIZE)
    assert world.transformer.config.sink == 4 and world.transformer.config.window == 3


def test_round_trip_without_the_text_encoder(world, tmp_path):
    world.begin(images(1), prompt="known")
    world.card = "# a card"
    world.save_pretrained(tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = open_world(tmp_path / "saved")
    assert isinstance(again, VideoWorld) and again.config == world.config and again.card == "# a card"
    action = moves(world, 1, 1)[:, 0]
    states = [w.step(w.begin(images(1), prompt="known", seeds=[9]), action)[0] for w in (world, again)]
    assert same(*states)
    with pytest.raises(ValueError, match="'new' is new and this world has no text encoder; it knows"):
        again.begin(images(1), prompt="new")
    world.save_pretrained(tmp_path / "saved")  # a world may be replaced by a whole one
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="not a video world"):
        world.save_pretrained(tmp_path / "other")


def test_settings_are_checked(tmp_path, folder):
    release = tiny_release(tmp_path)
    for settings, message in (
        ({"presett": "x"}, "unknown settings"), ({"preset": "x"}, "expected one of"),
        ({"timesteps": [1000, 1000, 0]}, "timesteps|fall|decreas"),
    ):  # fmt: skip
        (release / "sana_wm.json").write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=message):
            VideoWorld.from_pretrained(release, resolution=SIZE)
    with pytest.raises(ValueError, match="expected 'delta', 'keys'"):
        VideoWorld.from_pretrained(folder, resolution=SIZE, actions="joystick")
    with pytest.raises(ValueError, match="only for SANA-WM releases"):
        open_world("pusht-64", actions="keys")
