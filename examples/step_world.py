"""Step a world as a Gymnasium environment: act, undo, fork, and many lanes at once.

python examples/step_world.py --world pusht-64 --steps 25
"""

import argparse
import time

import gymnasium as gym
import numpy as np

import sana_wm  # noqa: F401  registers SanaWM-v0

parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--world", default="pusht-64", help="a shipped world, a bundle folder, or a hub id")
parser.add_argument("--steps", type=int, default=25)
parser.add_argument("--lanes", type=int, default=8)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

# One lane: an ordinary environment.
env = gym.make("SanaWM-v0", world=args.world)
env.action_space.seed(args.seed)
observation, info = env.reset(seed=args.seed)
print(f"observation {observation.shape} {observation.dtype}, action {env.action_space}")
began, rewards = time.perf_counter(), []
for _ in range(args.steps):
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    rewards.append(reward)
    if terminated or truncated:
        env.reset()
rate = args.steps / (time.perf_counter() - began)
print(f"{args.steps} steps, {rate:.0f} a second, mean predicted reward {np.mean(rewards):.3f}")

# The state is a value: keep it, act, come back, and the same action leads to the same frame.
state = env.get_wrapper_attr("get_state")()
action = env.action_space.sample()
first = env.step(action)[0]
env.get_wrapper_attr("set_state")(state)
again = env.step(action)[0]
same = np.array_equal(first, again)
print(f"state of {state.nbytes / 1e6:.2f} MB; the same action from it gives the same frame: {same}")

# Three branches of the present, each with its own future.
branches = env.get_wrapper_attr("fork")(3)
futures = [branch.step(env.action_space.sample())[0] for branch in branches]
print(f"3 forks, {len({future.tobytes() for future in futures})} different futures")

# Many lanes step in one forward pass.
envs = gym.make_vec("SanaWM-v0", num_envs=args.lanes, world=args.world)
envs.action_space.seed(args.seed)
envs.reset(seed=args.seed)
began = time.perf_counter()
for _ in range(args.steps):
    envs.step(envs.action_space.sample())
print(f"{args.lanes} lanes: {args.lanes * args.steps / (time.perf_counter() - began):.0f} lane-steps a second")
