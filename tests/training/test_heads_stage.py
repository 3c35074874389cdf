import numpy as np
import torch

from sana_wm.models.heads import Heads, HeadsConfig
from sana_wm.training.heads_stage import HeadsLoss, HeadsTraining
from sana_wm.training.loop import LoopConfig, run_stage
from sana_wm.training.optimizer import OptimizerConfig
from tests.training.toys import QuietLog


def training(**heads):
    torch.manual_seed(0)
    latents = np.random.default_rng(0).normal(size=(200, 3, 2, 2)).astype(np.float16)
    flat = latents.reshape(200, -1).astype(np.float32)
    labels = {"proprio": flat[:, :2], "reward": flat[:, 2], "success": (flat[:, 3] > 0).astype(np.float32)}
    net = Heads(HeadsConfig(3, (2, 2), hidden=32, **heads))
    return HeadsTraining(net, HeadsLoss(batch_size=64, noise=0.05), latents, labels, np.arange(100), 0)


def test_the_heads_learn_what_latents_hold(tmp_path):
    model = training(proprio_dim=2, reward=True, success=True)
    before = {name: float(value.detach()) for name, value in model.losses(9999, 0).items()}
    config = LoopConfig(steps=80, optimizer=OptimizerConfig(lr=1e-2), warmup=5, ema=0.8)
    run_stage("heads", model, model.losses, config, tmp_path, QuietLog())
    after = {name: float(value.detach()) for name, value in model.losses(9999, 0).items()}
    assert set(before) == {"proprio", "reward", "success", "loss"}
    assert all(after[name] < 0.5 * before[name] for name in before)


def test_a_world_without_labels_passes_through_the_stage(tmp_path):
    model = training()
    run_stage("heads", model, model.losses, LoopConfig(steps=2), tmp_path, QuietLog())
    assert (tmp_path / "heads.safetensors").exists()
