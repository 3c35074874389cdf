"""A trained world: tokenizer, dynamics, heads, codec and state, and the bundle they are saved in."""

from sana_wm.world.action_codec import ActionCodec
from sana_wm.world.config import WorldConfig
from sana_wm.world.open import open_world
from sana_wm.world.starts import Starts
from sana_wm.world.video_config import VideoWorldConfig
from sana_wm.world.video_world import VideoWorld
from sana_wm.world.world_model import Prediction, WorldModel
from sana_wm.world.world_state import WorldState

__all__ = [
    "ActionCodec",
    "Prediction",
    "Starts",
    "VideoWorld",
    "VideoWorldConfig",
    "WorldConfig",
    "WorldModel",
    "WorldState",
    "open_world",
]
