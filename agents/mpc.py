"""Model-predictive control: plan in a dynamics, act a few steps in an environment, look, plan again."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from sana_wm.agents.objectives import select
from sana_wm.agents.protocols import Dynamics, Objective, State
from sana_wm.agents.shooting import Plan, Planner

Begin = Callable[[np.ndarray, np.ndarray], State]


class MPCAgent:
    """Acts in N environments at once by planning in a dynamics.

    Works with any Gymnasium environment: of a single one, pass `observation[None]` and act on `action[0]`; of a
    vector environment, pass the observations as they are.

    Args:
        planner: searches action sequences.
        dynamics: what it searches in: a world, or a simulator.
        objective: what it wants, with one goal or with N.
        begin: turns the last `context` observations (N, C, ...) and the C - 1 actions (N, C-1, A) between them into
            a state of the dynamics.
        context: C, how many observations `begin` gets.
        origin: gives the (N, A) action around which the search of a state starts; see `Planner.plan`.
        replan_every: environment steps between plans; the whole horizon by default. When it is a whole number of
            knots, the rest of the last plan (and of its elites, where the planner keeps them) starts the next search.
            Replanning before the horizon is over wants an objective that looks at the whole of it ("mean"): one that
            looks at the last step only lets the agent put off arriving for ever.
        warm_start: False begins every search anew.
        seeds: (N,) one per environment.

    >>> agent = MPCAgent(planner, world, objective, begin=world.begin, seeds=np.arange(1))  # doctest: +SKIP
    >>> observation, info = env.reset()  # doctest: +SKIP
    >>> observation, *_ = env.step(agent.act(observation[None])[0])  # doctest: +SKIP
    """

    def __init__(
        self,
        planner: Planner,
        dynamics: Dynamics,
        objective: Objective,
        begin: Begin,
        *,
        seeds: Sequence[int],
        context: int = 1,
        origin: Callable[[State], np.ndarray] | None = None,
        replan_every: int | None = None,
        warm_start: bool = True,
    ):
        horizon = planner.config.horizon
        self.replan_every = horizon if replan_every is None else replan_every
        if not 1 <= self.replan_every <= horizon:
            raise ValueError(f"replan_every must be between 1 and the horizon {horizon}, got {replan_every}")
        if context < 1:
            raise ValueError(f"context must be at least 1, got {context}")
        self.planner, self.dynamics, self.objective = planner, dynamics, objective
        self._begin, self._origin, self.warm_start = begin, origin, warm_start
        self._seeds, self._context = np.asarray(seeds, np.int64), context
        self.reset()

    def reset(self, observations: np.ndarray | None = None, actions: np.ndarray | None = None) -> None:
        """Forget everything; optionally remember what came before the first observation.

        Args:
            observations: (N, T, ...) earlier observations.
            actions: (N, T, A) the action that followed each of them.
        """
        self.plans: list[Plan] = []
        self.planned_from: list[State] = []  # the states those plans start from
        self._observations = deque(maxlen=self._context)
        self._actions = deque(maxlen=max(self._context - 1, 1))
        self._queue: deque[np.ndarray] = deque()
        if observations is not None:
            if actions is None or actions.shape[:2] != observations.shape[:2]:
                raise ValueError("every earlier observation (N, T, ...) needs the action (N, T, A) that followed it")
            self._observations.extend(np.moveaxis(observations, 1, 0))
            self._actions.extend(np.moveaxis(actions, 1, 0))

    def act(self, observations: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """Take one observation per environment (N, ...), give one action per environment (N, A), float32.

        Args:
            active: (N,) bool, which environments still matter. When the agent plans, it plans for those alone; the
                others go on with what they did last, or do the middle of the action space.

        Raises:
            ValueError: when the dynamics needs more context than has been seen (reset with earlier observations), or
                nobody is active.
        """
        if len(observations) != len(self._seeds):
            raise ValueError(f"the agent has {len(self._seeds)} seeds but got {len(observations)} observations")
        if active is not None and not (np.shape(active) == (len(self._seeds),) and np.any(active)):
            raise ValueError(f"active must be ({len(self._seeds)},) bool with at least one environment, got {active}")
        self._observations.append(np.asarray(observations))
        if not self._queue:
            self._queue.extend(np.moveaxis(self._plan(active).actions[:, : self.replan_every], 1, 0))
        action = self._queue.popleft()
        self._actions.append(action)
        return action

    def _plan(self, active: np.ndarray | None) -> Plan:
        if len(self._observations) < self._context:
            raise ValueError(
                f"planning needs {self._context} observations, {len(self._observations)} have been seen; "
                "pass earlier ones to reset(observations, actions)"
            )
        before = list(self._actions)[-(self._context - 1) :] if self._context > 1 else []
        width = len(self.planner.low)
        actions = np.stack(before, 1) if before else np.zeros((len(self._seeds), 0, width), np.float32)
        state = self._begin(np.stack(self._observations, 1), actions)
        origin = None if self._origin is None else self._origin(state)
        # A prime apart: the searches of neighbouring seeds never share their draws.
        given = {"seeds": self._seeds * 1_000_003 + len(self.plans), "origin": origin, **self._rest_of_last_plan()}
        if active is None or np.all(active):
            plan = self.planner.plan(self.dynamics, self.objective, state, **given)
        else:
            plan = self._plan_for(np.flatnonzero(active), state, given)
        self.plans.append(plan)
        self.planned_from.append(state)
        return plan

    def _plan_for(self, lanes: np.ndarray, state: State, given: dict) -> Plan:
        """A plan whose other lanes do what they did last."""
        some = {name: None if value is None else np.asarray(value)[lanes] for name, value in given.items()}
        found = self.planner.plan(self.dynamics, select(self.objective, lanes), state.select(lanes), **some)
        count, middle = len(self._seeds), (self.planner.low + self.planner.high) / 2
        last = self._actions[-1] if self._actions else np.broadcast_to(middle, (count, len(middle)))

        def among(values: np.ndarray | None, others: np.ndarray | float) -> np.ndarray | None:
            if values is None:
                return None
            everyone = np.empty((count, *values.shape[1:]), values.dtype)
            everyone[:] = others
            everyone[lanes] = values
            return everyone

        held = last[:, None]
        return Plan(
            among(found.actions, held), among(found.cost, np.nan), among(found.knots, held),
            among(found.elites, held[:, None]),
        )  # fmt: skip

    def _rest_of_last_plan(self) -> dict:
        used, part = divmod(self.replan_every, self.planner.config.block)
        if not self.plans or part or self.replan_every == self.planner.config.horizon or not self.warm_start:
            return {}
        return self.plans[-1].shifted(used)
