"""Settings for all tests: one thread a process, because the suite runs one process per core (``pytest -n auto``)."""

import torch

torch.set_num_threads(1)
