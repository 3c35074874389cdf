"""Settings for all tests: few threads, so that the suite behaves alike on a laptop and on a shared machine."""

import torch

torch.set_num_threads(2)
