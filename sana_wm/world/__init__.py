"""A trained world: tokenizer, dynamics, heads, codec and state, and the bundle they are saved in."""

from sana_wm.world.action_codec import ActionCodec
from sana_wm.world.config import WorldConfig
from sana_wm.world.starts import Starts
from sana_wm.world.world_model import Prediction, WorldModel
from sana_wm.world.world_state import WorldState

__all__ = ["ActionCodec", "Prediction", "Starts", "WorldConfig", "WorldModel", "WorldState"]
