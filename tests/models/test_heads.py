import pytest
import torch

from sana_wm.models.heads import Heads, HeadsConfig

C, GRID = 3, (4, 6)


def heads(**changes):
    torch.manual_seed(0)
    settings = {"proprio_dim": 2, "reward": True, "terminated": True, "success": True, "hidden": 16} | changes
    return Heads(HeadsConfig(C, GRID, **settings))


@pytest.mark.parametrize("lead", [(5,), (2, 3), (2, 0)])
def test_leading_axes_are_kept(lead):
    out = heads()(torch.randn(*lead, C, *GRID))
    assert out["proprio"].shape == (*lead, 2)
    assert all(out[name].shape == lead for name in ("reward", "terminated", "success"))


def test_each_frame_is_read_by_itself():
    net, latents = heads(), torch.randn(2, 3, C, *GRID)
    whole = net(latents)["proprio"]
    torch.testing.assert_close(whole[1, 2], net(latents[1, 2:])["proprio"][0])


def test_positions_matter():
    net, latents = heads(), torch.randn(1, C, *GRID)
    assert not torch.allclose(net(latents)["reward"], net(latents.flip(-1))["reward"])


def test_large_grids_are_pooled():
    net = Heads(HeadsConfig(C, (16, 4), hidden=8, max_side=8))
    assert net.trunk[0].in_features == C * 8 * 4
    assert net(torch.randn(2, C, 16, 4))["reward"].shape == (2,)


def test_the_loss_standardises_proprio_and_follows_the_labels():
    net = heads(reward=False, terminated=False)
    net.proprio_mean.copy_(torch.tensor([100.0, -5.0])), net.proprio_std.copy_(torch.tensor([10.0, 2.0]))
    latents = torch.randn(4, C, *GRID)
    exact = net(latents)["proprio"] * net.proprio_std + net.proprio_mean
    targets = {"proprio": exact, "success": torch.ones(4), "reward": torch.full((4,), 1e9)}
    losses = net.loss(latents, targets)
    assert set(losses) == {"proprio", "success"} and losses["proprio"] < 1e-9
    logits = net(latents)["success"]
    torch.testing.assert_close(losses["success"], -logits.sigmoid().log().mean())
    away = net.loss(latents, targets | {"proprio": exact + torch.tensor([10.0, 2.0])})
    torch.testing.assert_close(away["proprio"], torch.tensor(0.95))  # smooth L1 of one standard deviation, beta 0.1


def test_no_heads_no_losses():
    net = heads(proprio_dim=0, reward=False, terminated=False, success=False)
    assert net.loss(torch.randn(2, C, *GRID), {}) == {}


def test_it_learns_where_something_is():
    net = heads(proprio_dim=2, reward=False, terminated=False, success=False, hidden=32)
    place = torch.stack([torch.randint(0, 4, (64,)), torch.randint(0, 6, (64,))], 1)
    latents = torch.zeros(64, C, *GRID)
    latents[torch.arange(64), :, place[:, 0], place[:, 1]] = 1.0
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = net.loss(latents, {"proprio": place.float()})["proprio"]
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_outcomes_follow_proprioception_that_is_known_better():
    torch.manual_seed(0)
    plain, net = (heads(proprio_dim=5, reward=True, outcome_hidden=width) for width in (0, 12))
    assert plain.outcome is None
    latents, known = torch.randn(3, 2, C, *GRID), torch.randn(3, 2, 5)
    own = net(latents)
    assert own["reward"].shape == (3, 2)
    torch.testing.assert_close(net(latents, own["proprio"])["reward"], own["reward"])
    other = net(latents, known)
    assert (other["reward"] - own["reward"]).abs().min() > 1e-5
    torch.testing.assert_close(other["proprio"], own["proprio"])
    net.zero_grad()
    own["reward"].sum().backward()
    assert net.where.offers.weight.grad is None  # places are learned from places alone
    assert net.outcome[0].weight.grad.abs().sum() > 0
