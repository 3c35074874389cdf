"""Where an episode begins: the `options` of `reset`, checked before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.envs.env_state import EnvState
from sana_wm.envs.pictures import as_pictures, cut_pictures, lane_cameras

if TYPE_CHECKING:
    from sana_wm.world import VideoWorld, WorldModel, WorldState

PLACES = ("start", "state", "frames", "image")  # each says where to begin
VIDEO_KEYS = ("image", "prompt", "intrinsics", "fov")  # options that only video worlds take
KEYS = ("start", "state", "frames", "actions", *VIDEO_KEYS)


@dataclass(frozen=True)
class StartOptions:
    """At most one of: an index into the world's starts, a state, or context frames (with the actions between them).

    Attributes:
        start: int64 (B,), index into `world.starts` for each lane.
        state: B lanes to begin in; their noise seeds are kept, so that equal actions give equal futures.
        frames: uint8 (B, T, H, W, 3), context frames; an image is one of them.
        actions: float32 (B, K, *action shape) in dataset units, one per step between the frames.
        prompts: of each lane, None for the world's own. intrinsics: float32 (B, 4) of fx, fy, cx, cy in pixels of the
            world's frames, None for the world's own. Only of video worlds.
    """

    start: np.ndarray | None = None
    state: WorldState | None = None
    frames: np.ndarray | None = None
    actions: np.ndarray | None = None
    prompts: tuple[str, ...] | None = None
    intrinsics: np.ndarray | None = None

    @classmethod
    def parse(
        cls,
        options: Mapping[str, Any] | None,
        world: WorldModel | VideoWorld,
        num_lanes: int,
        defaults: Mapping[str, Any] | None = None,
    ) -> StartOptions:
        """Reads the options of `reset`; a value for one lane serves all of them.

        Args:
            defaults: what holds where the options do not say otherwise, out of :func:`default_options`.

        Raises:
            ValueError: unknown or contradicting options, or a value that does not fit the world.
            TypeError: options that are no mapping, or a value of the wrong kind.
        """
        given = _given(options, world)
        if "state" in given:
            return cls(state=world.adopt(_state(given["state"], num_lanes)))
        settings = _with_defaults(given, defaults or {})
        if not len(world.starts) and "image" not in settings and "frames" not in settings:
            raise ValueError(
                'got nowhere to begin: this world has no starts of its own; pass reset(options={"image": picture, '
                '"prompt": text}), or image=picture and prompt=text when the environment is made'
            )
        frames = actions = start = None
        size = world.config.resolution
        if "image" in settings:
            pictures = as_pictures(settings["image"], num_lanes)
            sizes = [(picture.height, picture.width) for picture in pictures]
            cameras = lane_cameras(settings.get("intrinsics"), settings.get("fov"), sizes)
            frames, cameras = cut_pictures(pictures, cameras, size)
        else:
            cameras = lane_cameras(settings.get("intrinsics"), settings.get("fov"), [size] * num_lanes)
        if "frames" in settings:
            frames = _frames(settings["frames"], world, num_lanes)
            actions = _actions(settings.get("actions"), world, frames)
        if "start" in settings:
            start = _start(settings["start"], len(world.starts), num_lanes)
        return cls(start, None, frames, actions, _prompts(settings.get("prompt"), num_lanes), cameras)

    def repeat(self, n: int) -> StartOptions:
        """The options of lanes that stand `n` times side by side."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return StartOptions(**{name: _repeated(value, n) for name, value in values.items()})

    def begin(
        self, world: WorldModel | VideoWorld, lanes: np.ndarray, starts: np.ndarray, seeds: np.ndarray
    ) -> WorldState:
        """The worlds of the lanes with index `lanes` (K,), from these options or else from the drawn `starts` (K,).

        `seeds` (K,) are the noise seeds of the new episodes.
        """
        if self.state is not None:
            return self.state.select(lanes.tolist())
        if self.frames is not None:
            frames = self.frames[lanes]
            actions = None if self.actions is None else self.actions[lanes]
        else:
            index = starts if self.start is None else self.start[lanes]
            frames, actions = np.asarray(world.starts.frames[index]), np.asarray(world.starts.actions[index])
            actions = actions if actions.size else None
        if not is_video(world):
            return world.begin(frames, actions, seeds=seeds)
        prompts = None if self.prompts is None else [self.prompts[lane] for lane in lanes]
        intrinsics = None if self.intrinsics is None else self.intrinsics[lanes]
        return world.begin(frames, actions, prompt=prompts, seeds=seeds, intrinsics=intrinsics)


def default_options(world: WorldModel | VideoWorld, num_lanes: int, **options: Any) -> dict[str, Any]:
    """The arguments `image`, `prompt`, `intrinsics` and `fov` of an environment, checked, each one value per lane.

    Raises:
        ValueError, TypeError: a world that takes none, or values that no `reset` could begin with.
    """
    given = _given(options, world)
    if "intrinsics" in given and "image" not in given:
        raise ValueError("got intrinsics without image, in whose pixels they are; pass image too, or fov in degrees")
    if "image" in given:
        given["image"] = as_pictures(given["image"], num_lanes)
        sizes = [(picture.height, picture.width) for picture in given["image"]]
    else:
        sizes = [world.config.resolution] * num_lanes
    lane_cameras(given.get("intrinsics"), given.get("fov"), sizes)
    if "prompt" in given:
        given["prompt"] = list(_prompts(given["prompt"], num_lanes))
    if "intrinsics" in given:
        given["intrinsics"] = lane_cameras(given["intrinsics"], None, sizes)
    if "fov" in given:
        given["fov"] = np.broadcast_to(given["fov"], num_lanes)
    return given


def repeat_options(defaults: Mapping[str, Any], n: int) -> dict[str, Any]:
    """What :func:`default_options` gave, for lanes that stand `n` times side by side."""
    return {name: [each for each in values for _ in range(n)] for name, values in defaults.items()}


def _repeated(value: Any, n: int) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(each for each in value for _ in range(n))
    return value.repeat(n, axis=0) if isinstance(value, np.ndarray) else value.repeat(n)


def is_video(world: WorldModel | VideoWorld) -> bool:
    """Whether a world is a video world: it sees through a camera and reads a prompt."""
    return hasattr(world.config, "fov")


def raw_frames(world: WorldModel | VideoWorld) -> int:
    """Frames that one step makes: 1, or those that one latent frame of a video world takes."""
    return world.vae.stride if is_video(world) else 1


def _given(options: Mapping[str, Any] | None, world: WorldModel | VideoWorld) -> dict[str, Any]:
    """The options that are not None, if they go together."""
    keys = KEYS if is_video(world) else tuple(key for key in KEYS if key not in VIDEO_KEYS)
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"got options of type {type(options).__name__}, expected a dict with keys among {keys}")
    if unknown := sorted(str(key) for key in options if key not in KEYS):
        raise ValueError(f"got the unknown reset options {unknown}, expected keys among {keys}")
    given = {key: value for key, value in options.items() if value is not None}
    if alien := [key for key in given if key not in keys]:
        raise ValueError(
            f"got {alien}, which only video worlds (SANA-WM releases) take: this one was trained without text and "
            f"camera; it begins in one of its starts, in a state or in frames"
        )
    places = [key for key in PLACES if key in given]
    if len(places) > 1:
        raise ValueError(f"got the reset options {places} together, expected one of them: each says where to begin")
    if "actions" in given and places != ["frames"]:
        raise ValueError(
            "got the reset option 'actions' without 'frames'; pass both, the actions are the steps between the frames"
        )
    if "intrinsics" in given and "fov" in given:
        raise ValueError("got both intrinsics and fov, expected one of them: each says what the camera sees")
    if "state" in given and (extra := [key for key in VIDEO_KEYS if key in given]):
        raise ValueError(f"got {extra} beside a state, which has its own prompt and camera; leave {extra} out")
    return given


def _with_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options over the defaults. Another place drops the default image and the intrinsics in its pixels."""
    dropped = set()
    if any(key in given for key in PLACES):
        dropped |= {"image", "intrinsics"}
    if "intrinsics" in given or "fov" in given:
        dropped |= {"intrinsics", "fov"}
    return {key: value for key, value in defaults.items() if key not in dropped} | dict(given)


def _prompts(prompt: Any, num_lanes: int) -> tuple[str, ...] | None:
    if prompt is None:
        return None
    prompts = [prompt] * num_lanes if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not all(isinstance(text, str) for text in prompts):
        raise TypeError(f"got prompt={prompt!r:.200}, expected a text, or a list of one for each lane")
    if len(prompts) != num_lanes:
        raise ValueError(f"got {len(prompts)} prompts, expected one, or one for each of {num_lanes} lanes")
    return tuple(prompts)


def _start(start: Any, num_starts: int, num_lanes: int) -> np.ndarray:
    index = _array(start, "start")
    if index.dtype.kind not in "iu" or index.shape not in ((), (num_lanes,)):
        raise TypeError(f"got start={start!r}, expected an integer" + (f" or {num_lanes} of them" * (num_lanes > 1)))
    if (index < 0).any() or (index >= num_starts).any():
        raise ValueError(f"got start={start!r}, this world has the starts 0 to {num_starts - 1}")
    return np.broadcast_to(index, (num_lanes,))


def _state(state: Any, num_lanes: int) -> WorldState:
    state = EnvState.of(state)
    if state.num_lanes == 1:
        return state.world.repeat(num_lanes)
    if state.num_lanes != num_lanes:
        raise ValueError(
            f"got a state of {state.num_lanes} lanes, expected 1 or {num_lanes}; cut it with state.select(lanes)"
        )
    return state.world


def _frames(frames: Any, world: WorldModel | VideoWorld, num_lanes: int) -> np.ndarray:
    frames = _array(frames, "frames")
    image, context, stride = (*world.config.resolution, 3), world.config.context, raw_frames(world)
    if frames.dtype != np.uint8:
        raise TypeError(f"got frames of dtype {frames.dtype}, expected uint8 in 0..255")
    if frames.ndim == 4:
        frames = np.broadcast_to(frames, (num_lanes, *frames.shape))
    if (
        frames.ndim != 5
        or frames.shape[0] != num_lanes
        or frames.shape[2:] != image
        or frames.shape[1] < context
        or (frames.shape[1] - 1) % stride
    ):
        steps = f" and 1 more than a multiple of {stride}" if stride > 1 else ""
        raise ValueError(
            f"got frames of shape {frames.shape}, expected (T, {', '.join(map(str, image))}) or {num_lanes} "
            f"lanes of it, T at least {context}{steps}" + ("; an image of any size is the option 'image'" * bool(steps))
        )
    return frames


def _actions(actions: Any, world: WorldModel | VideoWorld, frames: np.ndarray) -> np.ndarray | None:
    """One action per step between the frames."""
    num_lanes, steps = len(frames), (frames.shape[1] - 1) // raw_frames(world)
    expected = (steps, *world.codec.action_space.shape)
    if actions is None:
        if steps:
            raise ValueError(
                f"got {frames.shape[1]} frames without the actions between them; pass actions of shape {expected}"
            )
        return None
    actions = _array(actions, "actions")
    if actions.dtype.kind not in "biuf":
        raise TypeError(f"got actions of dtype {actions.dtype}, expected numbers of shape {expected}")
    with np.errstate(over="ignore"):  # the codec finds infinity
        actions = actions.astype(np.float32)
    if actions.ndim == len(expected):
        actions = np.broadcast_to(actions, (num_lanes, *actions.shape))
    if actions.shape != (num_lanes, *expected):
        raise ValueError(
            f"got actions of shape {actions.shape} with {frames.shape[1]} frames, expected {expected} or "
            f"{num_lanes} lanes of it: {', '.join(world.codec.names)}"
        )
    world.codec.check(actions)
    return actions


def _array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on another device
        raise TypeError(f"got {name} that are no array ({error})") from error
