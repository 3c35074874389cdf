"""The peers of the comparison: EDM's identities, a denoiser that learns, SIGReg's minimum, peers that act as worlds."""

import numpy as np
import pytest
import torch

from benchmarks.peers.jepa import JEPAConfig, random_directions, sigreg
from benchmarks.peers.peer import About, JEPAPeer, UNetPeer, load_peer
from benchmarks.peers.planning import objective_for, smaller
from benchmarks.peers.state import filled_window
from benchmarks.peers.unet import SIGMA_DATA, Denoiser, DenoiserConfig, preconditioning, sigma_schedule
from sana_wm.agents.planners import make_planner
from sana_wm.evaluation.tworoom_planning import SEARCHES
from sana_wm.world import ActionCodec

SIZE, A = 16, 2


def codec() -> ActionCodec:
    actions = np.random.default_rng(0).uniform(-1, 1, (50, A)).astype(np.float32)
    return ActionCodec.fit(actions, ["x", "y"], -1.0, 1.0, "units")


def about() -> About:
    return About(codec(), ("agent_x", "agent_y", "door_y", "goal_x", "goal_y"), (SIZE, SIZE), context=3)


def peers() -> dict:
    torch.manual_seed(3)
    unet = UNetPeer(about(), DenoiserConfig(widths=(16, 32), condition=24, fold=2, context=3))
    jepa = JEPAPeer(about(), JEPAConfig(latent=7, context=3, encoder_width=8, width=20, depth=2, size=(SIZE, SIZE)))
    for peer in (unet, jepa):
        with torch.no_grad():  # zero-initialised outputs would make every prediction the same
            for p in peer.parameters():
                p.add_(0.05 * torch.randn(p.shape))
        peer.eval().requires_grad_(False)
    return {"unet": unet, "jepa": jepa}


@pytest.fixture(scope="module", params=["unet", "jepa"])
def peer(request):
    return peers()[request.param]


def seen(lanes: int, frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (lanes, frames, SIZE, SIZE, 3), dtype=np.uint8)
    return pixels, rng.uniform(-1, 1, (lanes, frames - 1, A)).astype(np.float32)


def future(lanes: int, steps: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (lanes, steps, A)).astype(np.float32)


# ---- EDM ----


def test_preconditioning_gives_unit_variance_in_and_out():
    sigma = torch.tensor([0.01, 0.3, 1.7, 40.0], dtype=torch.float64)
    c_in, c_skip, c_out, c_noise = preconditioning(sigma)
    data, noise = SIGMA_DATA**2, sigma**2
    assert torch.allclose(c_in**2 * (data + noise), torch.ones(4, dtype=torch.float64))
    # the target (clean - c_skip (clean + noise)) / c_out
    assert torch.allclose(((1 - c_skip) ** 2 * data + c_skip**2 * noise) / c_out**2, torch.ones(4, dtype=torch.float64))
    assert torch.allclose(c_noise, sigma.log() / 4)


def test_without_noise_the_denoiser_gives_back_what_it_got():
    denoiser = peers()["unet"].denoiser
    x, past, actions = torch.randn(2, 3, SIZE, SIZE), torch.randn(2, 3, 3, SIZE, SIZE), torch.randn(2, 3, A)
    assert torch.allclose(denoiser(x, torch.full((2,), 1e-6), past, actions), x, atol=1e-4)
    assert not torch.allclose(denoiser(x, torch.full((2,), 1.0), past, actions), x, atol=1e-1)


def test_schedule_falls_from_the_highest_level_to_zero():
    config = DenoiserConfig(sigma_min=0.01, sigma_max=7.0)
    sigmas = sigma_schedule(config, 5)
    assert sigmas[0] == pytest.approx(7.0) and sigmas[-2] == pytest.approx(0.01) and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    assert sigma_schedule(config, 1).tolist() == pytest.approx([7.0, 0.0])


def test_an_untrained_denoiser_predicts_that_nothing_moves():
    denoiser = Denoiser(DenoiserConfig(widths=(16,), condition=8, fold=2, context=2, sigma_max=100.0))
    past = SIGMA_DATA * torch.randn(3, 2, 3, SIZE, SIZE)
    guess = denoiser.sample(past, torch.randn(3, 2, A), torch.randn(3, 3, SIZE, SIZE), steps=1)
    assert torch.allclose(guess, past[:, -1], atol=0.05)


def test_denoiser_learns_what_actions_do():
    """Frames of one colour that an action makes lighter or darker."""
    torch.manual_seed(0)
    denoiser = Denoiser(
        DenoiserConfig(widths=(16,), condition=32, fold=2, context=1, log_sigma_mean=1.0, sigma_max=5.0)
    )
    optimizer, rng = torch.optim.AdamW(denoiser.parameters(), lr=8e-3), torch.Generator().manual_seed(0)

    def examples(count: int):
        past = 0.5 * torch.randn(count, 1, 1, 1, 1, generator=rng).expand(-1, 1, 3, 8, 8)
        actions = torch.rand(count, 1, A, generator=rng) * 2 - 1
        return past, actions, past[:, 0] + actions[:, 0, :1, None, None]

    def error() -> float:
        past, actions, truth = examples(64)
        made = denoiser.sample(past, actions, torch.randn(truth.shape, generator=rng))
        return float((made - truth).square().mean())

    before = error()
    for _ in range(80):
        past, actions, truth = examples(24)
        loss, _ = denoiser.loss(truth, past, actions, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < 0.35 * before


# ---- SIGReg ----


def test_sigreg_is_smallest_for_an_isotropic_gaussian():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(1500, 9, generator=rng)
    directions = random_directions(9, 64, rng)
    assert torch.allclose(directions.norm(dim=0), torch.ones(64))
    gaussian = sigreg(z, directions)
    others = {
        "collapsed": torch.zeros_like(z),
        "narrow": 0.5 * z,
        "wide": 2 * z,
        "shifted": z + 1,
        "of lower rank": torch.cat([z[:, :3] * 3**0.5, torch.zeros(1500, 6)], dim=1),
        "two clusters": z.sign(),
    }
    for name, other in others.items():
        assert sigreg(other, directions) > 2 * gaussian, name
    assert sigreg(others["collapsed"], directions) > 100 * gaussian


def test_sigreg_pushes_collapsed_latents_apart():
    z = (0.01 * torch.randn(64, 5, generator=torch.Generator().manual_seed(0))).requires_grad_()
    sigreg(z, random_directions(5, 32, torch.Generator().manual_seed(1))).backward()
    assert (z.grad * z.detach()).sum() < 0  # downhill is outwards


# ---- peers as worlds ----


def test_rollout_shapes_and_units(peer):
    frames, actions = seen(3, 3)
    prediction = peer.rollout(peer.begin(frames, actions, seeds=[5, 6, 7]), future(3, 4))
    assert prediction.proprio.shape == (3, 4, 5)
    for name in ("reward", "terminated", "success"):
        assert getattr(prediction, name).shape == (3, 4)
    assert ((prediction.success >= 0) & (prediction.success <= 1)).all()
    assert prediction.latents.shape[:2] == (3, 4)


def test_lanes_do_not_know_of_each_other(peer):
    frames, actions = seen(5, 3)
    after = future(5, 3)
    together = peer.rollout(peer.begin(frames, actions, seeds=np.arange(5)), after)
    alone = peer.rollout(peer.begin(frames[3:4], actions[3:4], seeds=[3]), after[3:4])
    # uint8 windows of the denoiser may round differently where sums run in another order
    assert torch.allclose(together.proprio[3], alone.proprio[0], atol=2e-2)
    forked = peer.rollout(peer.begin(frames, actions, seeds=np.arange(5)).select([3, 3]), after[[3, 3]])
    assert torch.allclose(forked.proprio[0], forked.proprio[1], atol=1e-5)


def test_rollout_is_steps_and_leaves_its_state_alone(peer):
    frames, actions = seen(2, 3)
    start = peer.begin(frames, actions, seeds=[0, 1])
    before, after = start.past.clone(), future(2, 3)
    prediction, state = peer.rollout(start, after), start
    for k in range(3):
        state, said = peer.step(state, after[:, k])
    assert torch.equal(start.past, before)
    assert torch.allclose(said.proprio, prediction.proprio[:, -1], atol=1e-4)
    assert state.nbytes == start.nbytes and state.num_lanes == 2


def test_a_window_that_moved_on_is_the_window_of_what_was_seen_last():
    past, actions = torch.arange(2 * 6).reshape(2, 6, 1).float(), torch.arange(2 * 5).reshape(2, 5, 1).float()
    seeds = torch.tensor([4, 9])
    state = filled_window(past[:, :4], actions[:, :3], seeds, length=3)
    for k in (4, 5):
        state = state.advance(past[:, k], actions[:, k - 1])
    whole = filled_window(past, actions, seeds, length=3)
    assert torch.equal(state.past, whole.past) and torch.equal(state.actions, whole.actions)
    assert state.past.shape[1] == 3 and state.actions.shape[1] == 2
    assert torch.equal(whole.actions, actions[:, 3:])
    assert state.frame.tolist() == [2, 2]


def test_actions_matter(peer):
    frames, actions = seen(1, 3)
    state = peer.begin(frames, actions, seeds=[0]).repeat(2)
    there = peer.rollout(state, np.stack([np.ones((4, A)), -np.ones((4, A))]).astype(np.float32))
    assert not torch.allclose(there.latents[0].float(), there.latents[1].float())


def test_short_histories_are_filled_up(peer):
    frames, _ = seen(2, 1)
    state = peer.begin(frames, None, seeds=[0, 1])
    assert state.past.shape[1] == 3 and state.actions.shape == (2, 2, A)
    still = peer.begin(np.repeat(frames, 3, axis=1), np.zeros((2, 2, A), np.float32), seeds=[0, 1])
    assert torch.allclose(state.past.float(), still.past.float(), atol=1e-5)


def test_bad_arguments_are_named(peer):
    frames, actions = seen(2, 3)
    with pytest.raises(ValueError, match="actions have shape"):
        peer.begin(frames, actions[:, :1], seeds=[0, 1])
    with pytest.raises(ValueError, match="seeds"):
        peer.begin(frames, actions, seeds=[0])
    with pytest.raises(ValueError, match="expected"):
        peer.rollout(peer.begin(frames, actions, seeds=[0, 1]), future(3, 2))


def test_saved_and_loaded_peers_are_the_same(peer, tmp_path):
    peer.scale.gain.fill_(1.7)
    peer.save(tmp_path / "peer.safetensors")
    again = load_peer(tmp_path / "peer.safetensors")
    frames, actions = seen(2, 3)
    one, two = (p.rollout(p.begin(frames, actions, seeds=[0, 1]), future(2, 2)) for p in (peer, again))
    assert torch.equal(one.proprio, two.proprio)
    assert again.config.proprio_names == peer.config.proprio_names


def test_a_file_that_holds_no_peer_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no peer"):
        load_peer(tmp_path / "other.safetensors")


# ---- planning ----


@pytest.mark.parametrize("want", ["reward", "image", "latent"])
def test_the_planner_runs_on_peers_unchanged(want):
    peer = peers()["jepa"]
    frames, actions = seen(2, 3)
    search = smaller(SEARCHES["reward"], 0.05)
    planner = make_planner(search.planner, codec().action_space)
    goals = np.random.default_rng(4).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    state = peer.begin(frames, actions, seeds=[0, 1])
    plan = planner.plan(peer, objective_for(peer, want, goals), state, seeds=np.arange(2))
    assert plan.actions.shape == (2, search.planner.horizon, A) and np.isfinite(plan.cost).all()


@pytest.mark.parametrize("want", sorted(SEARCHES))
def test_a_smaller_search_rolls_out_its_share(want):
    whole = SEARCHES[want]
    for share in (0.5, 0.1, 0.03):
        cut = smaller(whole, share)
        wanted = share * whole.planner.samples * whole.planner.iterations
        assert cut.planner.samples * cut.planner.iterations == pytest.approx(wanted, rel=0.35, abs=3)
        assert cut.planner.horizon == whole.planner.horizon and cut.replan_every == whole.replan_every
    assert smaller(whole, 1.0) == whole
