import numpy as np
import pytest
import torch

from sana_wm.data.arrays import EpisodeArrays
from sana_wm.training.batches import noise_generator
from sana_wm.training.decoder_stage import DecoderLoss, DecoderTraining
from sana_wm.training.loop import LoopConfig, run_stage
from sana_wm.training.optimizer import OptimizerConfig
from sana_wm.training.refiner_stage import RefinerLoss
from tests.training.toys import QuietLog
from tests.world.tiny import dot_episode, tiny_world

ROWS = np.arange(48)


@pytest.fixture
def training():
    world = tiny_world()
    episodes = [dot_episode(e) for e in range(2)]
    frames = np.concatenate([episode["observation.image"] for episode in episodes])
    proprio = np.concatenate([episode["observation.state"] for episode in episodes]) / 10
    arrays = EpisodeArrays(frames, {}, np.array([0, 24, 48]))
    latents = world.tokenizer.encode(torch.from_numpy(frames)).numpy()
    data = arrays, latents, proprio, ROWS
    return DecoderTraining(world.tokenizer, world.refiner, DecoderLoss(batch_size=8), RefinerLoss(), *data, 0, "off")


def test_the_decoder_learns_and_the_encoder_stays(training, tmp_path):
    dcae = training.tokenizer.dcae
    encoder = {name: p.clone() for name, p in dcae.encoder.state_dict().items()}
    before = float(training.losses(9999, 0)["loss"].detach())
    config = LoopConfig(steps=40, optimizer=OptimizerConfig(lr=5e-3), warmup=5, ema=0.8)
    run_stage("decoder", training, training.losses, config, tmp_path, QuietLog())
    with torch.no_grad():
        assert float(training.losses(9999, 0)["loss"]) < 0.5 * before
    assert all(torch.equal(p, encoder[name]) for name, p in dcae.encoder.state_dict().items())


def test_chosen_frames_are_redrawn_and_the_others_a_little_noisy(training):
    redrawn = torch.tensor([True, False, True, False])
    shown = training.shown(ROWS[:4], redrawn, noise_generator(0, 0, torch.device("cpu")))
    away = (shown - torch.from_numpy(training.latents[:4])).flatten(1).std(1)
    assert shown.shape == (4, 4, 8, 8)
    assert ((away < 0.12) == ~redrawn).all() and (away > 0.08).all()
    nothing = training.shown(ROWS[:4], torch.zeros(4, dtype=torch.bool), noise_generator(0, 0, torch.device("cpu")))
    assert torch.equal(shown[~redrawn], nothing[~redrawn])
