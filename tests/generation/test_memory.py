"""What is idle waits in host memory, and which errors are want of memory."""

import pytest
import torch
from torch import nn

from sana_wm.generation.memory import Offload, choose_offload, is_out_of_memory


class Placed(nn.Module):
    """Notes where it is sent."""

    def __init__(self):
        super().__init__()
        self.places = []

    def to(self, device):
        self.places.append(str(device))
        return self


@pytest.mark.parametrize(("sequential", "after"), [(True, ["meta", "cpu"]), (False, ["meta"])])
def test_networks_leave_the_device_when_they_are_idle(sequential, after):
    first, second, offload = Placed(), Placed(), Offload(torch.device("meta"), sequential)
    with offload.use(first):
        assert first.places == ["meta"] and not second.places
    assert first.places == after
    with pytest.raises(RuntimeError), offload.use(second):
        raise RuntimeError
    assert second.places == after


def test_on_the_cpu_nothing_moves():
    assert not choose_offload("sequential", torch.device("cpu"), []).sequential


def test_only_want_of_memory_is_called_so():
    for error in (torch.OutOfMemoryError("x"), MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory")):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError("out of memory"))
