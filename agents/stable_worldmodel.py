"""A world and an objective as the cost model that stable-worldmodel's solvers plan with.

A solver of stable-worldmodel (0.1.1) asks its model for `get_cost(info, candidates)`: entries of `info` are (B, S, T,
...), every start repeated for its S candidates, and candidates (B, S, H, block * A), `block` actions of the environment
folded into one; costs come back as a tensor (B, S). Solvers draw around zero with unit variance, so candidates are
*standardised* actions: here by the statistics of the world's own action codec, and clipped to its bounds. Give
`WorldModelCost.actions` to the policy, which turns what the solver found into the environment's units:

    cost = WorldModelCost(world, action_block=5)
    solver = CEMSolver(model=cost, num_samples=64)
    policy = WorldModelPolicy(solver, PlanConfig(horizon=5, receding_horizon=5, action_block=5),
                              process={"action": cost.actions})
    swm.World(...).set_policy(policy)

stable-worldmodel is not needed to import this: its protocol is structural.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sana_wm.agents.objectives import LatentGoal, imagine, score
from sana_wm.agents.protocols import Objective

if TYPE_CHECKING:
    from sana_wm.world import ActionCodec, WorldModel


class StandardisedActions:
    """Actions in the dataset's units <-> standardised ones, whatever their leading axes; numpy and tensors."""

    def __init__(self, codec: "ActionCodec"):
        self.mean, self.std = np.asarray(codec.mean, np.float32), np.asarray(codec.std, np.float32)
        self.low, self.high = codec.low, codec.high

    def transform(self, actions: Any) -> Any:
        """Dataset units (..., A) -> standardised."""
        mean, std, *_ = self._like(actions)
        return (actions - mean) / std

    def inverse_transform(self, actions: Any) -> Any:
        """Standardised (..., A) -> dataset units, clipped to the action space. NaN (an environment at rest) stays."""
        mean, std, low, high = self._like(actions)
        actions = actions * std + mean
        if isinstance(actions, Tensor):
            return torch.maximum(torch.minimum(actions, high), low)
        return np.clip(actions, low, high)

    def _like(self, actions: Any) -> list:
        values = [self.mean, self.std, self.low, self.high]
        if not isinstance(actions, Tensor):
            return values
        return [torch.tensor(value, dtype=actions.dtype, device=actions.device) for value in values]


class WorldModelCost:
    """`get_cost` of a `WorldModel` under an objective.

    Args:
        world: acts in the environment's actions.
        objective: scores predictions for lanes grouped by start. Either one that knows what it wants without a goal
            (`PredictedReward()`), or with `from_goal=True` a function that makes one from goal frames uint8 (B, height,
            width, 3). By default the distance of latents to those of the goal frame at the end of the horizon.
        from_goal: see `objective`.
        action_block: environment actions in one action of the solver, `PlanConfig.action_block`.
        pixels, goal, action: entries of `info`. Frames are uint8 (B, S, T, height, width, 3), or channels first; the
            last one is where planning starts. With T > 1 the actions that led from frame to frame, standardised
            (B, S, T - 1 or more, A), are needed: the last T - 1 count.
        seed: of the lanes of the world.
    """

    def __init__(
        self,
        world: "WorldModel",
        objective: Objective | Callable[[np.ndarray], Objective] | None = None,
        *,
        from_goal: bool = False,
        action_block: int = 1,
        pixels: str = "pixels",
        goal: str = "goal",
        action: str = "action",
        seed: int = 0,
    ):
        if action_block < 1:
            raise ValueError(f"action_block must be at least 1, got {action_block}")
        if objective is None:
            objective, from_goal = self._latent_goal, True
        self.world, self.action_block, self.seed = world, action_block, seed
        self.actions = StandardisedActions(world.codec)
        self._objective, self._from_goal = objective, from_goal
        self._pixels, self._goal, self._action = pixels, goal, action
        self._begun: tuple[list[np.ndarray], Any, Objective] | None = None  # of the last call, for the same start

    def parameters(self) -> Iterator[Tensor]:
        """Of the world: solvers read their dtype here."""
        return iter(self.world.transformer.parameters())

    def get_cost(self, info: dict[str, Any], candidates: Tensor) -> Tensor:
        """Costs (B, S) of standardised candidates (B, S, H, action_block * A); carries a gradient if they do.

        Raises:
            ValueError: entries that are missing or of other shapes.
        """
        width = len(self.world.codec.low) * self.action_block
        if candidates.ndim != 4 or candidates.shape[-1] != width:
            raise ValueError(
                f"candidates have shape {tuple(candidates.shape)}, expected (B, S, H, {width}): blocks of "
                f"{self.action_block} actions of {width // self.action_block} numbers; check action_block"
            )
        lanes, samples = candidates.shape[:2]
        # A state must outlive the solver's inference mode, or no gradient solver could use it.
        with torch.inference_mode(False), torch.no_grad():
            state, objective = self._begin(info, lanes)
            state = state.repeat(samples)
        unfolded = candidates.reshape(lanes * samples, -1, width // self.action_block)
        actions = self.actions.inverse_transform(unfolded.float())
        cost = score(objective, imagine(self.world, objective, state, actions), actions)
        return torch.as_tensor(cost, dtype=candidates.dtype, device=candidates.device).reshape(lanes, samples)

    def criterion(self, info: dict[str, Any], candidates: Tensor) -> Tensor:
        """The same: the world predicts all that the objective needs."""
        return self.get_cost(info, candidates)

    def _begin(self, info: dict[str, Any], lanes: int) -> tuple[Any, Objective]:
        """The states that candidates start from and their objective: made once per plan, not per iteration."""
        frames = self._frames(info, self._pixels, lanes)
        seen = [frames]
        if frames.shape[1] > 1:
            seen.append(self._past_actions(info, lanes, frames.shape[1] - 1))
        if self._from_goal:
            seen.append(self._frames(info, self._goal, lanes)[:, -1])
        if self._begun is not None:
            before, state, objective = self._begun
            if len(before) == len(seen) and all(map(np.array_equal, before, seen)):
                return state, objective
        past = seen[1] if frames.shape[1] > 1 else None
        state = self.world.begin(frames, past, seeds=np.arange(self.seed, self.seed + lanes))
        objective = self._objective(seen[-1]) if self._from_goal else self._objective
        self._begun = (seen, state, objective)
        return state, objective

    def _frames(self, info: dict[str, Any], name: str, lanes: int) -> np.ndarray:
        """An entry as uint8 (B, T, height, width, 3): all candidates of a start see the same."""
        if name not in info:
            raise ValueError(f"info has no {name!r}, it has {sorted(info)}: name the entry with frames")
        frames = _numpy(info[name])
        if frames.ndim == 6:
            frames = frames[:, 0]
        if frames.ndim == 5 and frames.shape[-1] != 3 and frames.shape[2] == 3:
            frames = np.moveaxis(frames, 2, -1)
        if frames.ndim != 5 or frames.shape[-1] != 3 or len(frames) != lanes or frames.dtype != np.uint8:
            raise ValueError(
                f"info[{name!r}] is {frames.dtype} of shape {frames.shape}, expected uint8 ({lanes}, S, T, height, "
                "width, 3): give the policy no transform, the world normalises frames itself"
            )
        return np.ascontiguousarray(frames)

    def _past_actions(self, info: dict[str, Any], lanes: int, count: int) -> np.ndarray:
        width = len(self.world.codec.low)
        if self._action not in info:
            raise ValueError(f"info has {count + 1} frames but no {self._action!r} that led from one to the next")
        past = _numpy(info[self._action])
        past = past[:, 0] if past.ndim == 4 else past
        if past.ndim != 3 or past.shape[0] != lanes or past.shape[1] < count or past.shape[2] != width:
            raise ValueError(
                f"info[{self._action!r}] has shape {past.shape}, expected ({lanes}, S, at least {count}, {width})"
            )
        return self.actions.inverse_transform(past[:, past.shape[1] - count :].astype(np.float32))

    def _latent_goal(self, frames: np.ndarray) -> LatentGoal:
        return LatentGoal(self.world.encode(frames[:, None])[:, 0])


def _numpy(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
