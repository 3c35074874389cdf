"""Actions of a world by their saved form: a robot's, or moves of the camera."""

from typing import Any

from sana_wm.world.action_codec import ActionCodec
from sana_wm.world.camera_actions import KEY_MAPPINGS
from sana_wm.world.camera_codec import CameraDeltaCodec, CameraKeyCodec

CAMERA_KINDS = {"camera-delta": CameraDeltaCodec, "camera-keys": CameraKeyCodec}


def codec_from_dict(values: dict[str, Any]) -> ActionCodec | CameraDeltaCodec | CameraKeyCodec:
    """Inverse of the codecs' ``to_dict``."""
    return CAMERA_KINDS.get(values.get("kind"), ActionCodec).from_dict(values)


def camera_codec(actions: str) -> CameraDeltaCodec | CameraKeyCodec:
    """Actions for a camera: ``"delta"``, ``"keys"`` (the current mapping, ad-turn), or a key mapping's name.

    Raises:
        ValueError: none of these.
    """
    if actions == "delta":
        return CameraDeltaCodec()
    name = "ad-turn" if actions == "keys" else actions
    if name not in KEY_MAPPINGS:
        raise ValueError(f"actions={actions!r}: expected 'delta', 'keys' or one of {', '.join(KEY_MAPPINGS)}")
    return CameraKeyCodec(KEY_MAPPINGS[name])
