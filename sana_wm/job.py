"""How a job ends when something is wrong: one line that says what to do, in place of a traceback."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf.errors import MissingMandatoryValue

# torchao tells at its import which kernels of GPUs it lacks, and diffusers imports it wherever it is installed.
_TALKATIVE = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao")


@contextmanager
def plain_errors(resume: str) -> Iterator[None]:
    """Turn a user's mistakes into ``error: ...`` with exit code 1, and Ctrl-C into ``stopped; <resume>`` with 130.

    Only errors whose message is written for people are caught (settings, datasets, worlds, files); a bug keeps its
    traceback.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or f'stopped; {resume}'}", file=sys.stderr)
        sys.exit(130)
    except MissingMandatoryValue as error:
        sys.exit(f"error: {error.full_key} is not given; add {error.full_key}=... to the command line")
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def check_device(name: str) -> None:
    """Raise ValueError unless torch can compute on the device of that name here ("auto" always can)."""
    import torch

    if name == "auto":
        return
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device={name!r} cannot be used here ({str(error).splitlines()[0]}): expected auto, cpu or "
                         "cuda") from error  # fmt: skip
