"""What is idle waits in host memory, and which errors are want of memory."""

import subprocess
import sys

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


HOLES = """
import sys
import numpy as np
from sana_wm.generation.memory import avoid_holes
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
if sys.argv[1] == "avoid":
    avoid_holes()
large = np.ones(2**22 - 1000)
del large  # freed below 32 MB: from here on glibc keeps what is smaller in the heap
tensors = [np.ones(2**20) for _ in range(40)]
before = resident()
del tensors[::2]
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_what_is_freed_between_what_stays_goes_back():
    command = [sys.executable, "-c", HOLES]
    kept, given_back = (
        int(subprocess.run([*command, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "avoid")
    )
    assert kept < 20e6 and given_back > 150e6  # of twenty arrays of 8 MB
