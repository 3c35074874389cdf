from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sana_wm.agents.objectives import (
    ActionPenalty,
    LatentGoal,
    PixelGoal,
    PredictedReward,
    ProprioGoal,
    SuccessProbability,
    UncertaintyPenalty,
    WeightedSum,
    score,
    select,
)


def prediction(proprio=None, latents=None):
    return SimpleNamespace(proprio=proprio, latents=latents)


def test_reductions_over_the_horizon():
    path = prediction(np.array([[[3.0], [1.0], [2.0]]]))  # one lane, distances 3, 1, 2 to the goal 0
    costs = {how: ProprioGoal([[0.0]], over_horizon=how)(path).tolist() for how in ("last", "min", "mean")}
    assert costs == {"last": [2.0], "min": [1.0], "mean": [2.0]}


def test_goals_apply_to_their_own_group_of_lanes():
    path = np.zeros((6, 2, 1))
    assert ProprioGoal([[1.0], [5.0]])(prediction(path)).tolist() == [1, 1, 1, 5, 5, 5]
    assert ProprioGoal([[1.0]])(prediction(path)).tolist() == [1] * 6
    with pytest.raises(ValueError, match="6 lanes"):
        ProprioGoal(np.zeros((4, 1)))(prediction(path))


def test_only_chosen_columns_count():
    path = prediction(np.array([[[3.0, 100.0, 4.0]]]))
    assert ProprioGoal(np.zeros((1, 3)), [0, 2])(path)[0] == pytest.approx(np.sqrt(12.5))


def test_latent_goal_is_the_mean_squared_distance_and_takes_tensors():
    latents, goal = torch.ones(4, 3, 2, 2, 2), torch.zeros(2, 2, 2, 2)
    goal[1] = 3.0
    assert np.allclose(LatentGoal(goal)(prediction(latents=latents)), [1, 1, 4, 4])


def test_weighted_sum():
    path = prediction(np.array([[[3.0, 4.0]]]))
    cost = WeightedSum((2.0, ProprioGoal([[0.0, 0.0]], [0])), (0.5, ProprioGoal([[0.0, 0.0]], [1])))
    assert cost(path)[0] == pytest.approx(8.0)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="'latest'"):
        ProprioGoal([[0.0]], over_horizon="latest")
    with pytest.raises(ValueError, match="predicts none"):
        ProprioGoal([[0.0]])(prediction())
    with pytest.raises(ValueError, match=r"\(N, C, h, w\)"):
        LatentGoal(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum()


def outcome(**fields):
    return SimpleNamespace(**{name: np.array(value) for name, value in fields.items()})


def test_predicted_reward_sums_discounts_and_stops():
    path = outcome(reward=[[1.0, 2.0, 4.0]], terminated=[[0.0, 1.0, 0.0]])
    assert PredictedReward()(path).tolist() == [-3.0]  # the step that ends it counts, what follows does not
    assert PredictedReward(until_terminated=False)(path).tolist() == [-7.0]
    assert PredictedReward(until_terminated=False, over_horizon="mean")(path)[0] == pytest.approx(-7 / 3)
    assert PredictedReward(discount=0.5, until_terminated=False)(path).tolist() == [-3.0]
    half = outcome(reward=[[1.0, 2.0, 4.0]], terminated=[[0.5, 0.5, 0.5]])
    assert PredictedReward()(half).tolist() == [-(1 + 1 + 1)]
    assert PredictedReward()(outcome(reward=[[1.0, 2.0]])).tolist() == [-3.0]


def test_success_is_wanted_at_any_step_early_or_at_the_end():
    path = outcome(success=[[0.1, 0.9, 0.5], [0.2, 0.2, 0.6]])
    assert SuccessProbability()(path).tolist() == [-0.9, -0.6]
    assert SuccessProbability(over_horizon="last")(path).tolist() == [-0.5, -0.6]
    assert SuccessProbability(over_horizon="mean")(path)[0] == pytest.approx(-0.5)
    tiny = outcome(success=[[1e-9, 2e-9]])
    assert SuccessProbability(log=True)(tiny)[0] == pytest.approx(-np.log(2e-9), rel=1e-2)


def test_uncertainty_is_a_cost_and_its_absence_an_error():
    assert UncertaintyPenalty()(outcome(uncertainty=[[1.0, 3.0]])).tolist() == [2.0]
    with pytest.raises(ValueError, match="scores uncertainty, but the dynamics predicts none"):
        UncertaintyPenalty()(SimpleNamespace(uncertainty=None))


def test_action_penalties_are_in_halves_of_the_range():
    box = spaces.Box(np.array([0.0, -2.0], np.float32), np.array([10.0, 2.0], np.float32))
    actions = np.array([[[5.0, 0.0], [10.0, 2.0]], [[5.0, 0.0], [5.0, 0.0]]])
    assert ActionPenalty(box, magnitude=2.0)(None, actions).tolist() == [1.0, 0.0]
    assert ActionPenalty(box, smoothness=3.0)(None, actions).tolist() == [3.0, 0.0]
    assert ActionPenalty(box, magnitude=2.0, smoothness=3.0)(None, actions).tolist() == [4.0, 0.0]
    assert ActionPenalty(box, smoothness=3.0)(None, actions[:, :1]).tolist() == [0.0, 0.0]


def test_sums_pass_actions_to_those_that_want_them():
    box = spaces.Box(-1, 1, (1,), np.float32)
    both = WeightedSum((1.0, ProprioGoal([[0.0]])), (0.5, ActionPenalty(box, magnitude=1.0)))
    nested = WeightedSum((2.0, both))
    path, actions = prediction(np.array([[[3.0]]])), np.array([[[1.0]]])
    assert score(nested, path, actions)[0] == pytest.approx(7.0)
    assert score(ProprioGoal([[0.0]]), path, actions)[0] == 3.0
    assert nested.needs_actions and not WeightedSum((1.0, ProprioGoal([[0.0]]))).needs_actions
    with pytest.raises(ValueError, match="scores actions"):
        nested(path)


def test_pixels_are_decoded_only_where_they_count():
    decoded = []

    def decode(latents):
        decoded.append(latents.shape[:2])
        frames = np.broadcast_to(latents[..., :1, :1, :1], (*latents.shape[:2], 2, 2, 3))
        return frames.astype(np.uint8)

    latents = np.array([[0.0, 51.0], [0.0, 102.0], [51.0, 51.0], [255.0, 0.0]]).reshape(4, 2, 1, 1, 1)
    goals = np.stack([np.full((2, 2, 3), 51), np.zeros((2, 2, 3))]).astype(np.uint8)
    path = prediction(latents=latents)
    assert np.allclose(PixelGoal(goals, decode)(path), [0, 0.04, 0.04, 0])
    assert decoded == [(4, 1)]
    assert np.allclose(PixelGoal(goals, decode, over_horizon="mean", batch=4)(path), [0.02, 0.04, 0.04, 0.5])
    assert decoded[1:] == [(2, 2), (2, 2)]
    with pytest.raises(ValueError, match="uint8"):
        PixelGoal(goals / 255, decode)
    with pytest.raises(ValueError, match="shared evenly"):
        PixelGoal(goals[[0, 1, 1]], decode)(path)


def test_a_goal_for_some_of_the_starts():
    goals = np.array([[1.0], [5.0], [9.0]])
    path = prediction(np.zeros((4, 2, 1)))
    some = select(WeightedSum((1.0, ProprioGoal(goals)), (2.0, ProprioGoal([[1.0]]))), [2, 0])
    assert some(path).tolist() == [11, 11, 3, 3]
    assert select(PredictedReward(), [0]) is not None


@pytest.mark.parametrize(
    "objective",
    [
        LatentGoal(np.ones((2, 2, 1, 1)), over_horizon="mean"),
        ProprioGoal(np.ones((2, 3)), [0, 2], over_horizon="min"),
        PredictedReward(discount=0.9),
        SuccessProbability(),
        SuccessProbability(log=True, over_horizon="mean"),
        UncertaintyPenalty(),
        WeightedSum(
            (0.5, ActionPenalty(spaces.Box(-2, 2, (2,), np.float32), magnitude=1.0, smoothness=2.0)),
        ),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_one_formula_for_arrays_tensors_and_gradients(objective):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "latents": (4, 3, 2, 1, 1), "proprio": (4, 3, 3), "reward": (4, 3), "terminated": (4, 3), "success": (4, 3),
        "uncertainty": (4, 3),
    }  # fmt: skip
    fields = {name: torch.rand(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    actions = torch.rand(4, 3, 2, generator=generator, dtype=torch.float64)
    arrays = score(objective, SimpleNamespace(**{k: v.numpy() for k, v in fields.items()}), actions.numpy())
    tensors = score(objective, SimpleNamespace(**{k: v.float() for k, v in fields.items()}), actions)
    tracked = {name: value.clone().requires_grad_() for name, value in fields.items()}
    followed = actions.clone().requires_grad_()
    cost = score(objective, SimpleNamespace(**tracked), followed)
    assert isinstance(arrays, np.ndarray) and isinstance(tensors, np.ndarray) and arrays.shape == (4,)
    np.testing.assert_allclose(tensors, arrays, rtol=1e-6)
    np.testing.assert_allclose(cost.detach().numpy(), arrays, rtol=1e-9)
    cost.sum().backward()
    gradients = [value.grad for value in (*tracked.values(), followed) if value.grad is not None]
    assert gradients and all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)


def test_no_gradient_is_infinite_at_the_goal():
    place = torch.ones(1, 1, 2, requires_grad=True)
    ProprioGoal(np.ones((1, 2)))(prediction(place)).sum().backward()
    assert torch.isfinite(place.grad).all()


def test_mistakes_of_outcomes_and_penalties_are_named():
    with pytest.raises(ValueError, match="discount"):
        PredictedReward(discount=0.0)
    with pytest.raises(ValueError, match="'last'"):
        PredictedReward(over_horizon="last")
    with pytest.raises(ValueError, match="penalises nothing"):
        ActionPenalty(spaces.Box(-1, 1, (2,), np.float32))
    with pytest.raises(ValueError, match="finite"):
        ActionPenalty(spaces.Box(-np.inf, 1, (2,), np.float32), magnitude=1.0)
    with pytest.raises(ValueError, match="scores reward"):
        PredictedReward()(SimpleNamespace(reward=None))
