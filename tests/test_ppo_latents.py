"""examples/ppo_latents.py: each part at a size of seconds, then the whole from the command line."""

import copy
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import sana_wm  # noqa: F401  registers SanaWM-v0
from examples import ppo_latents
from examples.ppo_latents import Agent, Args, SimulatorLatents, clone, demonstrations, evaluate, ppo
from sana_wm.collect import collect
from sana_wm.data import LeRobotWriter
from tests.world.tiny import FEATURES, HIGH, LOW, SIDE, dot_episode, tiny_world

QUICK = Args(width=16, lanes=4, horizon=8, steps=64, limit=5, warmup=0, epochs=2, batch=16, clone_epochs=2)


class Follow(gym.Env):
    """The observation says where to go; the closer the action, the better. Ten steps, or at once by a rare hit."""

    observation_space = gym.spaces.Box(-1, 1, (3, 1, 1), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.place = 0, self.np_random.uniform(-1, 1, (3, 1, 1)).astype(np.float32)
        return self.place, {}

    def step(self, action):
        miss = np.abs(action - self.place[:2, 0, 0]).sum()
        self.t, self.place = self.t + 1, self.np_random.uniform(-1, 1, (3, 1, 1)).astype(np.float32)
        return self.place, -float(miss), False, self.t >= 10, {}


class Wage(gym.Env):
    """One every step, nothing to see; four steps, then the episode is over, or cut off."""

    observation_space = gym.spaces.Box(-1, 1, (3, 1, 1), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    nothing = np.ones((3, 1, 1), np.float32)

    def __init__(self, over):
        self.over = over

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.nothing, {}

    def step(self, action):
        self.t += 1
        return self.nothing, 1.0, self.over and self.t == 4, not self.over and self.t == 4, {}


class Counter(gym.Env):
    """A simulator whose frame tells its seed and its step; it ends by itself in the fourth."""

    observation_space = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
    action_space = gym.spaces.Box(np.float32(LOW), np.float32(HIGH), dtype=np.float32)

    def frame(self):
        return np.full((SIDE, SIDE, 3), 10 * self.t + self.begun, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.begun = 0, (options or {}).get("begun", int(self.np_random.integers(10)))
        return self.frame(), {}

    def step(self, action):
        self.t += 1
        return self.frame(), float(self.t), self.t == 4, False, {"is_success": self.t == 4}


@pytest.fixture(scope="module")
def world():
    return tiny_world()


def agent_of(env, seed=0, width=16):
    torch.manual_seed(seed)
    return Agent(int(np.prod(env.single_observation_space.shape)), env.single_action_space.shape[0], width)


def imagination(world, lanes=4):
    return gym.make_vec(
        "SanaWM-v0", num_envs=lanes, world=world, obs="latents", autoreset_mode="same_step", max_episode_steps=5
    )


def test_ppo_learns_what_can_be_learnt():
    envs = SyncVectorEnv([Follow] * 8, autoreset_mode=AutoresetMode.SAME_STEP)
    agent, history = agent_of(envs, width=32), []
    args = replace(QUICK, lanes=8, horizon=20, steps=40 * 160, batch=40, kl=0.0, lr=3e-3, gamma=0.5, warmup=2)
    ppo(agent, envs, args, history.append)
    assert history[0]["return"] < -9  # at chance it is about -13
    assert history[-1]["return"] > 0.65 * history[0]["return"]
    assert [row["steps"] for row in history] == [1600, 3200, 4800, 6400]


@pytest.mark.parametrize("over", [True, False])
def test_what_is_cut_off_is_not_over(over):
    """At a discount of 0.8 a wage without end is worth 5, one that ends within four steps 2.95 at most."""
    envs = SyncVectorEnv([lambda: Wage(over)] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = agent_of(envs)
    args = replace(QUICK, steps=50 * 32, gamma=0.8, lr=1e-2, warmup=99, epochs=4)
    ppo(agent, envs, args)
    value = float(agent.value(torch.ones(1, 3, 1, 1)).detach())
    assert 1.5 < value < 2.95 if over else abs(value - 5) < 0.6


def test_the_clone_holds_the_policy():
    """The larger the weight of the KL, the nearer the policy stays to where it began."""
    moved = {}
    for kl in (0.0, 100.0):
        envs = SyncVectorEnv([Follow] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
        agent = agent_of(envs)
        before = copy.deepcopy(agent)
        ppo(agent, envs, replace(QUICK, steps=640, kl=kl, lr=3e-3))
        o = torch.rand(50, 3, 1, 1) * 2 - 1
        moved[kl] = float((agent.policy(o).mean - before.policy(o).mean).abs().mean().detach())
    assert moved[100.0] < 0.3 * moved[0.0]


def test_warmup_moves_the_critic_alone():
    envs = SyncVectorEnv([Follow] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = agent_of(envs)
    before = copy.deepcopy(agent.state_dict())
    ppo(agent, envs, replace(QUICK, warmup=2))  # two updates in all
    changed = {name for name, value in agent.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("critic") for name in changed)


def test_cloning_finds_the_policy_behind_the_data():
    torch.manual_seed(0)
    obs = 5 + 3 * torch.randn(3000, 3, 1, 1)
    actions = torch.stack([obs[:, 0, 0, 0] / 10, -obs[:, 2, 0, 0] / 10], 1) + 0.05 * torch.randn(3000, 2)
    agent = Agent(3, 2, 32)
    clone(agent, obs, actions, replace(QUICK, clone_epochs=30))
    new = 5 + 3 * torch.randn(200, 3, 1, 1)
    error = agent.policy(new).mean - torch.stack([new[:, 0, 0, 0] / 10, -new[:, 2, 0, 0] / 10], 1)
    assert error.abs().mean() < 0.05
    assert (agent.log_std.exp() < 0.45).all()  # on its way from 0.6 to the data's 0.05


def test_simulators_look_like_a_world(world):
    envs = SimulatorLatents(world, 3, limit=3, make_env=Counter)
    same_spaces = imagination(world)
    assert envs.single_observation_space == same_spaces.single_observation_space
    seen = [envs.reset(seed=0)[0]]
    infos = {}
    for _ in range(3):
        begun = [env.begun for env in envs.envs]
        obs, rewards, ends, cuts, infos = envs.step(np.zeros((3, 2), np.float32))
        seen.append(obs)
    assert cuts.all() and not ends.any() and (rewards == 3).all()
    for lane in range(3):  # the last frame of the old episode, the first of the new one
        last, first = (np.full((SIDE, SIDE, 3), v, np.uint8) for v in (30 + begun[lane], envs.envs[lane].begun))
        for latent, frame in ((infos["final_obs"][lane], last), (obs[lane], first)):
            expected = world.encode(frame[None, None])[0, 0].numpy()
            np.testing.assert_allclose(latent, expected, atol=1e-4)


def test_evaluation_stops_where_an_episode_ends(world, monkeypatch):
    agent = agent_of(imagination(world))
    monkeypatch.setattr(Counter, "reset", lambda self, seed=None, options=None: (
        setattr(self, "t", int(options["state"])) or setattr(self, "begun", 0) or (self.frame(), {})))  # fmt: skip
    result = evaluate(agent, world, np.array([0, 2, 9]), limit=3, make_env=Counter)
    assert result["return"].tolist() == [1 + 2 + 3, 3 + 4, 10 + 11 + 12]  # the second ends in its second step
    assert result["success"].tolist() == [False, True, False]


def test_ppo_in_imagination(world):
    envs = imagination(world)
    agent, history = agent_of(envs), []
    before = copy.deepcopy(agent.state_dict())
    ppo(agent, envs, QUICK, history.append)
    assert all(torch.isfinite(value).all() for value in agent.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in agent.state_dict().items())
    assert history and history[-1]["steps"] == 64


def test_demonstrations_are_what_led_to_the_goal(world, tmp_path):
    with LeRobotWriter(tmp_path / "dots", 5, FEATURES) as writer:
        for episode in range(6):
            rows = dot_episode(episode)
            rows["next.success"] = np.arange(24) == (7 if episode % 2 else 99)  # the even ones never arrive
            writer.add_episode(rows, "follow the dot")
    latents, actions, starts = demonstrations(world, str(tmp_path / "dots"), count=4, seed=0)
    assert latents.shape == (2 * 8, 5, 8, 8)
    assert actions.shape == (16, 2)
    assert starts.frames.shape == (4, 1, SIDE, SIDE, 3) and starts.actions.shape == (4, 0, 2)
    began = copy.copy(world)
    began.starts = starts
    obs, _ = imagination(began).reset(seed=0)
    assert obs.shape == (4, 5, 8, 8)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    """The shipped TwoRoom world, six recorded episodes, one update, two real episodes."""
    settings = {"steps": 30, "mix": {"expert": 1.0}, "near_goal": 0.5, "simulator": "tworoom", "seed": 0}
    collect(tmp_path / "data", episodes=6, workers=0, **settings)
    words = f"--data {tmp_path / 'data'} --episodes 4 --lanes 3 --horizon 4 --steps 24 --limit 3 --warmup 1"
    words += " --evaluation 2 --width 8 --clone-epochs 1 --epochs 1"
    monkeypatch.setattr("sys.argv", ["ppo_latents.py", *words.split()])
    ppo_latents.main()
    printed = capsys.readouterr().out
    assert "24 imagined steps" in printed
    for row in ("cloned  ", "after PPO in imagination"):
        [line] = [line for line in printed.splitlines() if line.startswith(row)]
        assert len(line.split()[-2:]) == 2 and all(np.isfinite(float(word)) for word in line.split()[-2:])
