from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sana_wm.agents.objectives import LatentGoal, ProprioGoal, WeightedSum


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
