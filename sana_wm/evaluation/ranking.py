"""Whether a world ranks policies as reality does: graded policies, each from the same starts, imagined and real.

Policies that need the simulator's state act in imagination on what the world reads from what it imagines, turned back
into a state; for real they act on the true one. What counts in imagination is the world's own reward and success head,
as it would for someone who has no simulator.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from sana_wm.evaluation.intervals import bootstrap
from sana_wm.evaluation.progress import track
from sana_wm.evaluation.windows import to_numpy

if TYPE_CHECKING:
    from sana_wm.evaluation.tasks import SimulatedTask
    from sana_wm.world import WorldModel

WHATS = ("return", "success")


def policy_ranking(
    world: "WorldModel",
    task: "SimulatedTask",
    *,
    starts: int = 50,
    horizon: int = 80,
    seed: int = 0,
    show_progress: bool = False,
) -> dict:
    """Return (mean reward of a step) and success (at any step) of graded policies, imagined against real.

    Args:
        starts: fresh unsolved states, the same for every policy; what the world sees of each is drawn by the simulator.
        horizon: steps; nothing ends an episode before.

    Returns:
        {"starts", "horizon", "policies": {name: {source: {"return", "success"}}}, "rows": {row: {"return" |
        "success": {"pearson" | "spearman" | "mmrv" | "mae": {"value", "low", "high"}}, "false_success" (share of real
        failures in which success was imagined) | "missed_success": {...}}}}.
        Sources are "real", "world" and "real_again": the real simulator with other random numbers for the policies,
        while imagination shares those of "real". Rows: the latter two against "real", and "constant", which expects
        the same of all policies.

    Raises:
        ValueError: a world that has no reward and success to imagine, or does not read the simulator's state.
    """
    outcomes = check_world(world, task)
    begin = [_begin(task, world.config.context, seed, number) for number in range(starts)]
    lived = {
        "real": _real(task, begin, horizon, seed, "policies, real", show_progress),
        "world": _imagined(world, task, begin, horizon, seed, show_progress),
        "real_again": _real(task, begin, horizon, seed + 1, "policies, real again", show_progress),
    }
    policies = {
        name: {source: {what: float(values[what][k].mean()) for what in outcomes} for source, values in lived.items()}
        for k, name in enumerate(task.policies)
    }
    rows: dict[str, dict] = {}
    real = {what: lived["real"][what] for what in outcomes}
    for source in ("world", "real_again"):
        rows[source] = {what: agreement(lived[source][what], real[what]) for what in outcomes}
    rows["constant"] = {what: agreement(np.full_like(real[what], real[what].mean()), real[what]) for what in outcomes}
    if "success" in outcomes:
        for source in ("world", "real_again"):
            claimed = lived[source]["success"] > 0.5
            rows[source]["false_success"] = share(claimed, real["success"] < 0.5)
            rows[source]["missed_success"] = share(~claimed, real["success"] > 0.5)
        # a coin that comes up as often as policies succeed
        rate = float(real["success"].mean())
        rows["constant"]["false_success"] = {"value": rate, "low": None, "high": None}
        rows["constant"]["missed_success"] = {"value": 1 - rate, "low": None, "high": None}
    return {"starts": starts, "horizon": horizon, "policies": policies, "rows": rows}


def check_world(world: "WorldModel", task: "SimulatedTask") -> list[str]:
    """What of `WHATS` a world can be ranked by.

    Raises:
        ValueError: nothing, or it does not read the simulator's state.
    """
    predicts = (world.config.has_reward, world.config.has_success)
    outcomes = [what for what, known in zip(WHATS, predicts, strict=True) if known]
    if not outcomes or not task.reads(world):
        raise ValueError(
            "ranking policies needs a world that predicts reward or success and reads the simulator's proprioception "
            f"{list(task.proprio_names)}; this one predicts {outcomes or 'neither'} and reads "
            f"{list(world.config.proprio_names or ())}"
        )
    return outcomes


def _begin(task: "SimulatedTask", context: int, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """An unsolved state with what came before it: states (C, D), the last one the start, and actions (C - 1, A)."""
    rng, env = np.random.default_rng([seed, 1, number]), task.make_env(64)
    while True:
        states, actions = [task.start(rng, number)], []
        for action in task.probe(rng, states[0], context + 1)[: context - 1]:
            actions.append(np.clip(action, env.action_space.low, env.action_space.high).astype(np.float32))
            states.append(env.simulate(states[-1], actions[-1][None])[0])
        if not task.outcome(np.stack(states))[1].any():
            width = env.action_space.shape[0]
            return np.stack(states), np.array(actions, np.float32).reshape(context - 1, width)


def _policies(task: "SimulatedTask", seed: int, starts: int) -> list:
    """One for every lane, policy by policy; what they draw depends on seed, policy and start alone."""
    return [
        make(np.random.default_rng([seed, 2, k, number]))
        for k, make in enumerate(task.policies.values())
        for number in range(starts)
    ]


def _real(task, begin: list, horizon: int, seed: int, words: str, show_progress: bool) -> dict[str, np.ndarray]:
    env, visited = task.make_env(64), []
    policies = _policies(task, seed, len(begin))
    for lane, policy in track(list(enumerate(policies)), words, show_progress):
        state, states = begin[lane % len(begin)][0][-1], []
        for _ in range(horizon):
            state = env.simulate(state, policy(state)[None])[0]
            states.append(state)
        visited.append(states)
    reward, success = task.outcome(np.array(visited))
    return _table(reward, success.astype(float), len(begin))


def _imagined(world, task, begin: list, horizon: int, seed: int, show_progress: bool) -> dict[str, np.ndarray]:
    policies, starts = _policies(task, seed, len(begin)), len(begin)
    histories, actions = (np.stack(field) for field in zip(*begin, strict=True))
    frames = task.draw(histories, world.config.resolution[0])
    state = world.begin(frames, actions, seeds=np.arange(starts))
    state = state.select(np.tile(np.arange(starts), len(task.policies)))
    read, rewards, successes = world.read(state.latent), [], []
    for _ in track(range(horizon), "policies, imagined", show_progress):
        known = task.state_of_proprio(to_numpy(read.proprio))
        state, read = world.step(state, np.stack([policy(s) for policy, s in zip(policies, known, strict=True)]))
        rewards.append(_field(read, "reward"))
        successes.append(_field(read, "success") > 0.5)
    return _table(np.stack(rewards, 1), np.stack(successes, 1).astype(float), starts)


def _field(read: Any, name: str) -> np.ndarray:
    value = getattr(read, name)
    return np.full(len(read.proprio), np.nan) if value is None else to_numpy(value)


def _table(reward: np.ndarray, success: np.ndarray, starts: int) -> dict[str, np.ndarray]:
    """Of lanes (policies * starts, horizon): return and success (policies, starts)."""
    return {"return": reward.mean(axis=1).reshape(-1, starts), "success": success.max(axis=1).reshape(-1, starts)}


def agreement(claimed: np.ndarray, real: np.ndarray) -> dict[str, dict[str, float | None]]:
    """How well what is claimed (policies, starts) ranks and measures what is real; bootstrap over starts.

    `mmrv`: mean maximum rank violation (Li et al., 2024, "Evaluating Real-World Robot Manipulation Policies in
    Simulation"), the mean over policies of the largest real difference to a policy that they are wrongly ordered with.
    `mae`: mean absolute error of a policy's mean.
    """
    result = {}
    for name, measure in (("pearson", pearson), ("spearman", spearman), ("mmrv", mmrv), ("mae", mae)):

        def of_draws(weights: np.ndarray, measure=measure) -> np.ndarray:
            weights = weights / weights.sum(axis=1, keepdims=True)
            # what differs by rounding alone is no order
            return measure(np.round(weights @ claimed.T, 12), np.round(weights @ real.T, 12))

        value = of_draws(np.ones((1, claimed.shape[1])))[0]
        low, high = bootstrap(of_draws, claimed.shape[1])
        result[name] = {"value": float(value) if np.isfinite(value) else None, "low": low, "high": high}
    return result


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation (...) of values (..., K); NaN where one of them does not vary."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    scale = np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))
    with np.errstate(invalid="ignore"):
        return np.where(scale > 1e-12, (a * b).sum(-1) / np.maximum(scale, 1e-300), np.nan)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation (...) of values (..., K); ties share their rank."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: np.ndarray) -> np.ndarray:
    less = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return less + (equal - 1) / 2


def mmrv(claimed: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Mean maximum rank violation (...) of values (..., K)."""
    claims_less, is_less = (v[..., :, None] < v[..., None, :] for v in (claimed, real))
    gap = np.abs(real[..., :, None] - real[..., None, :])
    return (gap * (claims_less != is_less)).max(-1).mean(-1)


def mae(claimed: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Mean absolute difference (...) of values (..., K)."""
    return np.abs(claimed - real).mean(-1)


def share(said: np.ndarray, among: np.ndarray) -> dict[str, float | int | None]:
    """The share of what is said (policies, starts) among given cases; bootstrap over starts. None without cases."""
    hits, cases = (said & among).sum(axis=0).astype(float), among.sum(axis=0).astype(float)
    if cases.sum() == 0:
        return {"value": None, "low": None, "high": None, "cases": 0}
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = bootstrap(lambda weights: (weights @ hits) / (weights @ cases), len(cases))
    return {"value": float(hits.sum() / cases.sum()), "low": low, "high": high, "cases": int(cases.sum())}
