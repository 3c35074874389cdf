import numpy as np
import pytest
import torch

from sana_wm.data.arrays import EpisodeArrays
from sana_wm.models.dc_ae import DCAEConfig
from sana_wm.training.loop import LoopConfig, run_stage
from sana_wm.training.optimizer import OptimizerConfig
from sana_wm.training.tokenizer_stage import (
    TokenizerLoss,
    TokenizerTraining,
    calibrate,
    median_background,
    reconstruction_psnr,
)
from sana_wm.world.tokenizer import FrameTokenizer
from tests.training.toys import QuietLog
from tests.world.tiny import DCAE_SETTINGS, SIDE, dot_episode


@pytest.fixture(scope="module")
def data():
    episodes = [dot_episode(i) for i in range(3)]
    columns = {"state": np.concatenate([e["observation.state"] for e in episodes])}
    frames = np.concatenate([e["observation.image"] for e in episodes])
    return EpisodeArrays(frames, columns, np.array([0, 24, 48, 72]))


@pytest.mark.parametrize("proprio", [True, False])
def test_the_loss_falls_with_and_without_proprioception(data, proprio, tmp_path):
    torch.manual_seed(0)
    rows, state = np.arange(48), data.columns["state"] if proprio else np.zeros((72, 0), np.float32)
    tokenizer = FrameTokenizer(DCAEConfig(**DCAE_SETTINGS), (SIDE, SIDE))
    tokenizer.background.copy_(median_background(data.frames, rows))
    training = TokenizerTraining(tokenizer, data, state, rows, TokenizerLoss(batch_size=4), 0, "off")
    with torch.no_grad():
        before = {k: float(v) for k, v in training.losses(9999, 0).items()}
    config = LoopConfig(steps=30, optimizer=OptimizerConfig(lr=3e-3), warmup=5, ema=0.8)
    run_stage("tokenizer", training, training.losses, config, tmp_path, QuietLog())
    after = {k: float(v.detach()) for k, v in training.losses(9999, 0).items()}
    assert after["mse"] < 0.7 * before["mse"] and after["loss"] < before["loss"]
    assert ("proprio" in after) == proprio
    calibrate(tokenizer, data.frames, rows)
    with torch.no_grad():
        latents = tokenizer.encode(torch.from_numpy(data.frames[rows]))
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3 and (latents.std((0, 2, 3)) - 1).abs().max() < 1e-3
    calibrate(tokenizer, data.frames, rows)  # twice is once
    with torch.no_grad():
        torch.testing.assert_close(tokenizer.encode(torch.from_numpy(data.frames[rows])), latents)


def test_the_background_is_what_does_not_move(data):
    background = median_background(data.frames, np.arange(72))
    assert background.shape == (3, SIDE, SIDE) and (background == 40).float().mean() > 0.9


def test_psnr_against_the_formula(data):
    tokenizer = FrameTokenizer(DCAEConfig(**DCAE_SETTINGS), (SIDE, SIDE)).eval().requires_grad_(False)
    tokenizer.background.fill_(50.0)
    for p in tokenizer.dcae.decoder.parameters():
        p.zero_()  # decodes the background whatever comes
    rows = np.array([0, 1, 30])
    mse = ((data.frames[rows].astype(float) - 50) ** 2).mean((1, 2, 3))
    assert reconstruction_psnr(tokenizer, data.frames, rows) == pytest.approx(np.mean(10 * np.log10(255**2 / mse)))
