import numpy as np
import torch

from sana_wm.models.refiner import Refiner, RefinerConfig
from sana_wm.training.loop import LoopConfig, run_stage
from sana_wm.training.optimizer import OptimizerConfig
from sana_wm.training.refiner_stage import RefinerLoss, RefinerTraining
from tests.training.toys import QuietLog


def training(**loss):
    """Pictures that follow from the pose: cell (row, column) shows how far it is from the thing."""
    torch.manual_seed(0)
    proprio = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    rows, columns = np.mgrid[-1:1:2j, -1:1:3j]
    latents = np.stack([np.tanh(rows - proprio[:, :1, None]), np.tanh(columns - proprio[:, 1:, None])], 1)
    net = Refiner(RefinerConfig(2, (2, 3), 2, hidden=32, depth=2, sigma=0.9))
    loss = RefinerLoss(batch_size=32, **loss)
    return RefinerTraining(net, loss, latents.astype(np.float16), proprio, np.arange(200), 0)


def test_it_learns_to_draw_from_the_pose(tmp_path):
    model = training()
    config = LoopConfig(steps=150, optimizer=OptimizerConfig(lr=5e-3), warmup=5, ema=0.9)
    before = float(model.losses(9999, 0)["loss"].detach())
    run_stage("refiner", model, model.losses, config, tmp_path, QuietLog())
    with torch.no_grad():
        after = float(model.losses(9999, 0)["loss"])
        held_out = torch.from_numpy(model.latents[200:].astype(np.float32))
        blurred = held_out.mean(0, keepdim=True).expand_as(held_out)  # knows nothing of where the thing is
        pose = torch.from_numpy(model.proprio[200:])
        packed = torch.cat([blurred, torch.nn.functional.pad(pose, (0, 4)).reshape(-1, 1, 2, 3)], 1)
        drawn = model.refiner.redraw(packed, torch.randn(held_out.shape))[:, :2]
    assert after < 0.3 * before
    assert (drawn - held_out).pow(2).mean() < 0.3 * (blurred - held_out).pow(2).mean()


def test_losses_are_a_pure_function_of_the_step():
    model = training()
    first = float(model.losses(7, 0.5)["loss"].detach())
    torch.manual_seed(123)
    assert first == float(model.losses(7, 0.5)["loss"].detach()) != float(model.losses(8, 0.5)["loss"].detach())
