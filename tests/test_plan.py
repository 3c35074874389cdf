"""`python -m sana_wm.plan`: every simulator with pairs, every planner, and errors that list what there is."""

import json

import pytest
from hydra import compose, initialize_config_module
from rich.console import Console

from sana_wm.agents.cem import CEMConfig
from sana_wm.agents.planners import at_budget_of
from sana_wm.evaluation.planning_tasks import TASKS, planning_task
from sana_wm.plan import run
from sana_wm.world import WorldModel

TWOROOM = "sana_wm/TwoRoom-v0"
CHEAP = ["planner.search.samples=6", "planner.search.elites=2", "planner.search.iterations=1", "planner.search.knots=2"]


def settings(*overrides):
    with initialize_config_module("sana_wm.configs", version_base="1.3"):
        return compose("plan", list(overrides))


def config_of(env, *overrides, objective="goal"):
    cfg = settings(*overrides)
    return planning_task(env).config(dict(cfg.planner), objective)


def plan(tmp_path, *overrides):
    cfg = settings(f"out={tmp_path}", "episodes=2", "device=cpu", *overrides)
    return run(cfg, Console(quiet=True))


def test_plans_in_tworoom_and_writes_what_happened(tmp_path):
    result = plan(tmp_path, f"env={TWOROOM}", "world=tworoom-64", "planner=mppi", "objective=reward", *CHEAP)
    assert json.loads((tmp_path / "plan.json").read_text()) == result
    assert (tmp_path / "plan.mp4").stat().st_size > 1000
    assert set(result["success"]) == {"planned", "stay", "random"}
    planned = result["success"]["planned"]["agent in the goal"]
    assert planned["trials"] == 2 and planned["low"] <= planned["rate"] <= planned["high"]
    assert result["success"]["stay"]["agent in the goal"]["rate"] == 0
    assert (result["planner"], result["objective"], result["rollouts_per_plan"]) == ("mppi", "reward", 7)


def test_plans_in_pusht_with_the_recorded_actions_as_a_baseline(tmp_path):
    pytest.importorskip("gym_pusht")
    result = plan(tmp_path, "planner=random", "planner.search.samples=4", "planner.budget=26", "objective=goal_image")
    assert set(result["success"]) == {"planned", "random", "replay"}
    assert result["success"]["replay"]["block at its goal"]["rate"] == 1.0
    assert (tmp_path / "plan.mp4").stat().st_size > 1000


@pytest.mark.parametrize("env", list(TASKS))
@pytest.mark.parametrize("planner", ["cem", "icem", "mppi", "random", "gradient"])
def test_every_planner_has_settings_for_every_task_at_its_budget(env, planner):
    if "PushT" in env:
        pytest.importorskip("gym_pusht")
    task = planning_task(env)
    for objective in task.objectives:
        config = task.config(dict(settings(f"planner={planner}").planner), objective)
        search = getattr(config, "search", None) or config.planner
        reference = task.config(dict(settings().planner), objective)
        reference = getattr(reference, "search", None) or reference.planner
        assert 0.8 * reference.rollouts <= search.rollouts <= reference.rollouts
        assert (search.horizon, search.initial_std) == (reference.horizon, reference.initial_std)


def test_settings_on_the_command_line_win():
    config = config_of(
        TWOROOM, "planner=icem", "planner.search.samples=33", "planner.replan_every=4", objective="reward"
    )
    assert (config.planner.samples, config.replan_every) == (33, 4)
    assert config.planner.beta == 2.0
    more = config_of(TWOROOM, "planner.search.samples=128", objective="goal")
    assert (more.planner.samples, more.planner.elites) == (128, 5)  # more effort, not another search
    with pytest.raises(ValueError, match="no settings .'sampels'"):
        at_budget_of("cem", CEMConfig(), sampels=3)
    with pytest.raises(ValueError, match="agent_weight"):
        config_of(TWOROOM, "planner.agent_weight=1.0")


def test_unknown_environments_and_objectives_are_refused_with_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="sana_wm/PushT-v0.*sana_wm/TwoRoom-v0.*CartPole"):
        plan(tmp_path, "env=CartPole-v1")
    with pytest.raises(ValueError, match="no 'reward', it has goal: "):
        plan(tmp_path, "env=sana_wm/PushT-v0", "objective=reward")
    with pytest.raises(ValueError, match="this world takes"):
        plan(tmp_path, f"env={TWOROOM}", "world=pusht-64", *CHEAP)
    assert not list(tmp_path.iterdir())


def test_what_the_world_lacks_is_named():
    from sana_wm.evaluation.tworoom_planning import check_world

    world = WorldModel.from_pretrained("tworoom-64")
    for want in ("reward", "success", "image", "latent"):
        check_world(world, want)
    with pytest.raises(ValueError, match="'speed'"):
        check_world(world, "speed")
