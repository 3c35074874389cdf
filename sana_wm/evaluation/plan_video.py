"""A video of planning: the real simulator above what the world had imagined when it made the plan."""

from typing import TYPE_CHECKING

import numpy as np

from sana_wm.evaluation.acting import Run
from sana_wm.evaluation.drawing import FAINT, GOOD, INK, Sheet

if TYPE_CHECKING:
    from sana_wm.world import WorldModel

SIDE, GAP, LEFT, TOP, MARGIN = 168, 14, 96, 66, 22


def imagined_frames(world: "WorldModel", run: Run, budget: int) -> np.ndarray:
    """What the executed part of every plan looked like to the planner: uint8 (N, budget, height, width, 3).

    At every replanning the imagination starts anew from what was really seen. Where a batch ended early, its last
    picture stays.
    """
    batches = []
    for agent in run.agents:
        parts = []
        for state, plan in zip(agent.planned_from, agent.plans, strict=True):
            prediction = world.rollout(state, plan.actions[:, : agent.replan_every])
            parts.append(world.decode(prediction.latents))
        frames = np.concatenate(parts, axis=1)[:, :budget]
        held = np.repeat(frames[:, -1:], budget - frames.shape[1], axis=1)
        batches.append(np.concatenate([frames, held], axis=1))
    return np.concatenate(batches)


def plan_video(
    goals: np.ndarray, real: np.ndarray, imagined: np.ndarray, reached: np.ndarray, title: str
) -> list[np.ndarray]:
    """Draw pairs side by side, one picture per step, the last one held for a second.

    Rows: the goal, the real simulator, the imagination. A green outline marks a goal that has been reached.

    Args:
        goals: uint8 (N, size, size, 3). real: uint8 (N, T + 1, size, size, 3), the start first.
        imagined: uint8 (N, T, size, size, 3).
        reached: bool (N, T + 1), whether a pair stands solved at each step.
    """
    count = len(goals)
    pictures = []
    for step in range(real.shape[1]):
        # Even sides, as H.264 wants them.
        width = (LEFT + count * (SIDE + GAP) - GAP + MARGIN + 1) // 2 * 2
        sheet = Sheet(width, TOP + 3 * (SIDE + GAP) + 30)
        sheet.text(title, MARGIN, 32, size=19)
        sheet.text(f"step {step}", width - MARGIN, 32, colour=FAINT, anchor="rm")
        for row, name in enumerate(("goal", "real", "imagined")):
            sheet.text(name, LEFT - 14, TOP + row * (SIDE + GAP) + SIDE / 2, anchor="rm")
        for k in range(count):
            x, solved = LEFT + k * (SIDE + GAP), reached[k, : step + 1].any()
            shown = imagined[k, step - 1] if step else real[k, 0]
            for row, frame in enumerate((goals[k], real[k, step], shown)):
                outline = GOOD if solved and row == 1 else None
                sheet.frame(frame, x, TOP + row * (SIDE + GAP), SIDE, outline)
            failed = "not reached" if step == real.shape[1] - 1 else "on the way"
            words = f"reached at step {reached[k].argmax()}" if solved else failed
            below = TOP + 3 * (SIDE + GAP) + 8
            sheet.text(words, x + SIDE / 2, below, colour=GOOD if solved else INK, anchor="mm")
        pictures.append(sheet.pixels)
    return pictures + [pictures[-1]] * 10
