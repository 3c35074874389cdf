import pytest
import torch

from sana_wm.nn.proprio import pack, proprio_channels, unpack


@pytest.mark.parametrize(
    ("width", "grid", "channels"), [(0, (4, 4), 0), (1, (4, 4), 1), (16, (4, 4), 1), (17, (4, 4), 2), (7, (2, 3), 2)]
)
@pytest.mark.parametrize("lead", [(3,), (2, 5)])
def test_unpack_undoes_pack(width, grid, channels, lead):
    values = torch.randn(*lead, width)
    assert proprio_channels(width, grid) == channels
    if width:
        packed = pack(values, grid)
        assert packed.shape == (*lead, channels, *grid)
        assert torch.equal(unpack(packed, width), values)
        assert packed.count_nonzero() == values.count_nonzero()  # cells left over are zero
