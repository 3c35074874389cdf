"""PPO that never touches the simulator: clone recorded steps, then improve inside a world, on its latents.

python examples/ppo_latents.py --world tworoom-64 --data data/tworoom-64 --steps 160000

One file, top to bottom. The policy sees what the world thinks in (`obs="latents"`: nothing is decoded as it learns).
It starts as a copy of the recorded steps that led to the goal, and a KL penalty holds it near that start, so that it
does not learn to exploit the world's mistakes. At the end the same policy acts in the real TwoRoom, whose frames
`world.encode` turns into the same latents. The data is what the world was trained on:

python -m sana_wm.collect sim=tworoom out=data/tworoom-64 episodes=3000 steps=40
"""

import argparse
import copy
import time
from dataclasses import asdict, dataclass, fields
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import nn
from torch.distributions import Normal, kl_divergence

from sana_wm.data import LeRobotDataset
from sana_wm.data.splits import split_episodes
from sana_wm.envs.tworoom import TwoRoomEnv
from sana_wm.envs.tworoom_physics import random_state
from sana_wm.world import Starts, WorldModel, open_world


@dataclass
class Args:
    world: str = "tworoom-64"  # a shipped world, a bundle folder, or a hub id
    data: str = "data/tworoom-64"  # LeRobot dataset that the world was trained on
    seed: int = 0
    device: str = "cpu"
    episodes: int = 2700  # recorded ones of the training split, to clone and to start imagined episodes from
    clone_epochs: int = 20  # passes over them
    width: int = 128  # of the two hidden layers of policy and critic
    lanes: int = 128  # worlds side by side
    horizon: int = 25  # steps of each lane between two updates
    steps: int = 160_000  # imagined steps in all
    limit: int = 50  # steps of an episode, imagined and real
    warmup: int = 5  # first updates that train the critic alone: a new critic would tear the clone apart
    epochs: int = 4  # passes over the steps of an update
    batch: int = 800  # steps of a gradient step
    lr: float = 1e-3  # of Adam, falling to zero
    gamma: float = 0.97
    gae: float = 0.95  # lambda of generalised advantage estimation
    clip: float = 0.2  # of the ratio between new and old policy
    kl: float = 0.02  # weight of KL(policy || clone)
    entropy: float = 0.0  # weight of the policy's entropy
    max_grad_norm: float = 0.5
    evaluation: int = 200  # episodes in the real simulator
    wandb: bool = False  # log to Weights & Biases


class Agent(nn.Module):
    """A Gaussian policy and a critic over flat latents, standardised by what the recorded ones look like."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.actor = perceptron(inputs, width, outputs, last=0.01)
        self.critic = perceptron(inputs, width, 1, last=1.0)
        self.log_std = nn.Parameter(torch.full((outputs,), -0.5))

    def seen(self, obs: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) -> what the networks read (B, C*h*w)."""
        return ((obs.flatten(1) - self.mean) / self.std).clamp(-10, 10)

    def policy(self, obs: torch.Tensor) -> Normal:
        return Normal(self.actor(self.seen(obs)), self.log_std.exp())

    def value(self, obs: torch.Tensor) -> torch.Tensor:
        """(B,) the return to come."""
        return self.critic(self.seen(obs))[:, 0]


def perceptron(inputs: int, width: int, outputs: int, last: float) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)]
    for layer, gain in zip(layers[::2], (2**0.5, 2**0.5, last), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class SimulatorLatents(VectorEnv):
    """Real simulators side by side, seen as a world sees them: latents (B, C, h, w) of their frames; SAME_STEP.

    Args:
        make_env: one simulator. limit: steps of an episode. start: generator -> options of a simulator's `reset`.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, world: WorldModel, num_envs: int, limit: int, make_env=TwoRoomEnv, start=lambda rng: None):
        self.world, self.num_envs, self.limit, self.start = world, num_envs, limit, start
        self.envs = [make_env() for _ in range(num_envs)]
        config = world.config.transformer
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (config.in_channels, *config.grid), np.float32)
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def encode(self, frames: list[np.ndarray]) -> np.ndarray:
        return self.world.encode(np.stack(frames)[:, None])[:, 0].cpu().float().numpy()

    def begin(self, lane: int, seed: int | None = None) -> np.ndarray:
        self.elapsed[lane] = 0
        return self.envs[lane].reset(seed=seed, options=self.start(self.rng))[0]

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self.rng, self.elapsed = np.random.default_rng(seed), np.zeros(self.num_envs, int)
        seeds = [None if seed is None else seed + lane for lane in range(self.num_envs)]
        return self.encode([self.begin(lane, seeds[lane]) for lane in range(self.num_envs)]), {}

    def step(self, actions: np.ndarray):
        taken = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
        self.elapsed += 1
        frames = [step[0] for step in taken]
        rewards, terminations = (np.array([step[k] for step in taken]) for k in (1, 2))
        truncations = (self.elapsed >= self.limit) & ~terminations
        infos = {"is_success": np.array([step[4]["is_success"] for step in taken])}
        ended = np.flatnonzero(terminations | truncations)
        obs = self.encode(frames + [self.begin(lane) for lane in ended])
        if len(ended):
            infos["final_obs"] = np.full(self.num_envs, None, object)
            for k, lane in enumerate(ended):
                infos["final_obs"][lane] = obs[lane].copy()
                obs[lane] = obs[self.num_envs + k]
        return obs[: self.num_envs], rewards, terminations, truncations, infos


def demonstrations(world: WorldModel, data: str, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, Starts]:
    """The steps that led to the goal, latents (N, C, h, w) and actions (N, A), of `count` training episodes.

    Many recorded policies wander about; what a wanderer does is worth copying only where it arrives, and until then.
    The first frames of all these episodes come along, to start from.
    """
    dataset = LeRobotDataset(data)
    train = split_episodes(dataset.num_episodes)["train"]
    latents, actions, first = [], [], []
    for index in np.random.default_rng(seed).permutation(len(train))[:count]:
        row = dataset.episode(int(train[index]), keys=[dataset.cameras[0], "action", "next.success"])
        frames, arrived = row[dataset.cameras[0]], row["next.success"].ravel()
        first.append(frames[:1])
        if arrived.any():
            until = int(arrived.argmax()) + 1
            latents.append(world.encode(frames[:until, None])[:, 0])
            actions.append(torch.as_tensor(row["action"][:until], device=world.device))
    if not latents:
        raise ValueError(f"none of {count} episodes of {data} reached its goal, expected some to clone; take more")
    no_actions = np.zeros((len(first), 0, *world.codec.shape), np.float32)  # one frame has none before it
    return torch.cat(latents), torch.cat(actions), Starts(np.stack(first), no_actions)


def clone(agent: Agent, obs: torch.Tensor, actions: torch.Tensor, args: Args) -> float:
    """Behaviour cloning by maximum likelihood; returns the loss (nats) on a twentieth of the steps, held out."""
    agent.mean.copy_(obs.flatten(1).mean(0))
    agent.std.copy_(obs.flatten(1).std(0) + 1e-3)
    held_out = len(obs) // 20
    optimizer = torch.optim.AdamW([*agent.actor.parameters(), agent.log_std], lr=1e-3, weight_decay=1e-2)
    for _ in range(args.clone_epochs):
        for rows in (torch.randperm(len(obs) - held_out, device=obs.device) + held_out).split(256):
            loss = -agent.policy(obs[rows]).log_prob(actions[rows]).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return float(-agent.policy(obs[:held_out]).log_prob(actions[:held_out]).sum(1).mean())


def ppo(agent: Agent, envs: VectorEnv, args: Args, log=lambda row: None) -> None:
    """Improves the agent in place with `args.steps` steps of any SAME_STEP vector environment over latents.

    Its policy as given is the one that the KL penalty holds it to.
    """
    device = agent.mean.device
    low, high = envs.single_action_space.low, envs.single_action_space.high
    first = copy.deepcopy(agent).requires_grad_(False)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.lr, eps=1e-5)
    shape = (args.horizon, envs.num_envs)
    obs = torch.zeros(*shape, *envs.single_observation_space.shape, device=device)
    actions = torch.zeros(*shape, len(low), device=device)
    log_probs, rewards, values, following, ends = (torch.zeros(shape, device=device) for _ in range(5))
    now = torch.as_tensor(envs.reset(seed=args.seed)[0], device=device)
    running, returns, successes = np.zeros(envs.num_envs), [], []
    updates = max(1, round(args.steps / (args.horizon * envs.num_envs)))
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = args.lr * (1 - update / updates)
        for t in range(args.horizon):
            with torch.no_grad():
                policy = agent.policy(now)
                action = policy.sample()
                obs[t], actions[t], values[t] = now, action, agent.value(now)
                log_probs[t] = policy.log_prob(action).sum(1)
            seen, reward, terminated, truncated, infos = envs.step(np.clip(action.cpu().numpy(), low, high))
            now = torch.as_tensor(seen, device=device)
            rewards[t] = torch.as_tensor(reward)
            ended = terminated | truncated
            ends[t] = torch.as_tensor(ended, dtype=torch.float32)
            # The value of what followed: of the last frame where an episode was cut off, none where it was over.
            with torch.no_grad():
                following[t] = agent.value(now)
                for lane in np.flatnonzero(ended):
                    last = torch.as_tensor(infos["final_obs"][lane], device=device)
                    following[t, lane] = 0.0 if terminated[lane] else agent.value(last[None])[0]
            running += reward
            returns += running[ended].tolist()
            successes += terminated[ended].tolist()
            running[ended] = 0
        advantages, ahead = torch.zeros(shape, device=device), torch.zeros(envs.num_envs, device=device)
        for t in reversed(range(args.horizon)):
            surprise = rewards[t] + args.gamma * following[t] - values[t]
            advantages[t] = ahead = surprise + args.gamma * args.gae * (1 - ends[t]) * ahead
        flat = [part.flatten(0, 1) for part in (obs, actions, log_probs, advantages, advantages + values)]
        for _ in range(args.epochs):
            for rows in torch.randperm(len(flat[0]), device=device).split(args.batch):
                o, a, old, advantage, target = (part[rows] for part in flat)
                loss = 0.5 * (agent.value(o) - target).square().mean()
                if update >= args.warmup:
                    policy = agent.policy(o)
                    ratio = (policy.log_prob(a).sum(1) - old).exp()
                    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                    gain = torch.min(ratio * advantage, ratio.clamp(1 - args.clip, 1 + args.clip) * advantage).mean()
                    kl = kl_divergence(policy, first.policy(o)).sum(1).mean()
                    loss = loss - gain + args.kl * kl - args.entropy * policy.entropy().sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
        if returns and (update % 10 == 9 or update == updates - 1):
            steps = (update + 1) * args.horizon * envs.num_envs
            log({"steps": steps, "return": float(np.mean(returns)), "success": float(np.mean(successes)),
                 "std": float(agent.log_std.detach().exp().mean())})  # fmt: skip
            returns, successes = [], []


@torch.no_grad()
def evaluate(
    agent: Agent, world: WorldModel, states: np.ndarray, limit: int, make_env=TwoRoomEnv, greedy: bool = False
) -> dict[str, np.ndarray]:
    """One real episode from each state (N, D): {"return": (N,), "success": (N,)}. greedy: the policy's mean acts."""
    envs = [make_env() for _ in states]
    frames = [env.reset(options={"state": state})[0] for env, state in zip(envs, states, strict=True)]
    returns, success = np.zeros(len(envs)), np.zeros(len(envs), bool)
    low, high = envs[0].action_space.low, envs[0].action_space.high
    for _ in range(limit):
        live = np.flatnonzero(~success)
        if not len(live):
            break
        policy = agent.policy(world.encode(np.stack([frames[i] for i in live])[:, None])[:, 0])
        actions = (policy.mean if greedy else policy.sample()).cpu().numpy()
        for i, action in zip(live, np.clip(actions, low, high), strict=True):
            frames[i], reward, success[i], _, _ = envs[i].step(action)
            returns[i] += reward
    return {"return": returns, "success": success}


def held_out_states(count: int, seed: int = 10_000) -> np.ndarray:
    """Starts (N, 5) of TwoRoom that no recording has seen: drawn with a seed of their own."""
    rng = np.random.default_rng(seed)
    return np.stack([random_state(rng) for _ in range(count)])


def parse_args() -> Args:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for field in fields(Args):
        kind = {"action": argparse.BooleanOptionalAction} if field.type is bool else {"type": field.type}
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=field.default, help=f"{field.default}", **kind)
    return Args(**vars(parser.parse_args()))


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    if args.wandb:
        import wandb

        wandb.init(project="sana-wm-rl", config=asdict(args))
    world = open_world(args.world, args.device)
    obs, actions, starts = demonstrations(world, args.data, args.episodes, args.seed)
    agent = Agent(obs[0].numel(), actions.shape[1], args.width).to(world.device)
    print(f"cloned {len(obs)} recorded steps, loss on held-out ones {clone(agent, obs, actions, args):.3f} nats")
    cloned = copy.deepcopy(agent)

    world.starts = starts  # imagined episodes begin where recorded ones did
    envs = gym.make_vec(
        "SanaWM-v0", num_envs=args.lanes, world=world, obs="latents", autoreset_mode="same_step",
        max_episode_steps=args.limit, trust=False,  # signals that nobody reads would cost a third of the speed
    )  # fmt: skip
    began = time.perf_counter()

    def log(row: dict) -> None:
        rate = row["steps"] / (time.perf_counter() - began)
        print(f"{row['steps']:>8} imagined steps, return {row['return']:7.2f}, success {row['success']:.2f}, "
              f"std {row['std']:.2f}, {rate:.0f} steps/s", flush=True)  # fmt: skip
        if args.wandb:
            wandb.log(row, step=row["steps"])

    ppo(agent, envs, args, log)
    test = partial(evaluate, world=world, states=held_out_states(args.evaluation), limit=args.limit)
    print(f"\n{'in the real simulator':<28} {'return':>8} {'success':>8}")
    for name, policy in (("cloned", cloned), ("after PPO in imagination", agent)):
        result = test(policy)
        print(f"{name:<28} {result['return'].mean():>8.2f} {result['success'].mean():>8.2f}")
        if args.wandb:
            wandb.summary.update({f"real/{name}/{key}": float(value.mean()) for key, value in result.items()})


if __name__ == "__main__":
    main()
