"""What every mixer of one forward pass shares: who sees whom, where, and which frames are padding."""

from typing import NamedTuple

from torch import Tensor

from sana_wm.nn.layout import FrameLayout
from sana_wm.nn.ucpe import Rays


class FrameContext(NamedTuple):
    """The F frames of a pass.

    Attributes:
        layout: who sees whom in time.
        rope: rotations of the positions, complex (B, 1, F, S, D/2); its precision is that of geometry and recurrence.
            None: there are no positions in attention.
        age: (B,) int64, frames in every lane's memory before the pass.
        mask: (B, F or 1, memory + F) bool, frames that softmax attention may read; None: the frames of the pass, all of
            them, and no memory.
        camera_mask: the same for the camera branch.
        valid: (B, F) bool, False for frames that are padding; None: there are none.
        fresh: no lane has a memory: what the state holds is zeros.
        rays: cameras of the frames; None: the camera branch is silent.
    """

    layout: FrameLayout
    rope: Tensor | None
    age: Tensor
    mask: Tensor | None = None
    camera_mask: Tensor | None = None
    valid: Tensor | None = None
    fresh: bool = False
    rays: Rays | None = None

    def blank(self, x_BFSC: Tensor) -> Tensor:
        """``x`` with zeros in the frames that are padding."""
        return x_BFSC if self.valid is None else x_BFSC.masked_fill(~self.valid[:, :, None, None], 0.0)
