"""PushT: gym-pusht's physics behind a Gymnasium environment whose state can be read and set exactly.

A round agent (a PD-controlled kinematic disc) pushes a T-shaped block on a table of 512 x 512 px; the goal is a fixed
pose of the block. Bodies, walls, control gains and reward are those of gym-pusht 0.1.8 (Chi et al., 2023, "Diffusion
Policy"); this module differs from it in two ways only:

* **The ten numbers of the state are the whole state.** `PushTPhysics.step` is a pure function of (state, action): every
  environment step runs its ten sub-steps in a new engine space with the bodies placed as the state says. Replaying
  actions from a recorded state therefore reproduces the recorded trajectory bit for bit. gym-pusht's own
  `reset_to_state` sets the angle after the position (which moves the block), drops velocities and runs one sub-step.
* **Frames are area-averaged** from a 512 px drawing, so that motion smaller than one pixel is visible at 64 px.
"""

from __future__ import annotations

import math

import numpy as np
import pymunk
import shapely
from gym_pusht.envs.pusht import PushTEnv as GymPushT
from pymunk._chipmunk_cffi import lib

TABLE = 512  # side of the table, px; also the upper bound of an action
AGENT_RADIUS = 15.0
GOAL_POSE = np.array([256.0, 256.0, math.pi / 4])  # x, y in px, angle in rad
SUCCESS_COVERAGE = 0.95
STATE_NAMES = (
    "agent_x", "agent_y", "agent_vx", "agent_vy",
    "block_x", "block_y", "block_angle", "block_vx", "block_vy", "block_angular_velocity",
)  # fmt: skip
STATE_SIZE = len(STATE_NAMES)

# Outline of the T in its own frame (px): a bar of 120 x 30 with its top edge on y = 0 and a stem of 30 x 90.
OUTLINE = np.array(
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], dtype=np.float64
)
BLOCK_CENTRE = np.array([0.0, 45.0])  # centre of gravity in the block's frame


def block_points(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points of the block's frame `(P, 2)` in the table's frame `(P, 2)`, for a pose (x, y, angle)."""
    c, s = math.cos(pose[2]), math.sin(pose[2])
    return points @ np.array([[c, s], [-s, c]]) + pose[:2]


def block_distance(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance `(P,)` in px from points of the table `(P, 2)` to the block; 0 inside it."""
    c, s = math.cos(pose[2]), math.sin(pose[2])
    local = (np.atleast_2d(points) - pose[:2]) @ np.array([[c, -s], [s, c]])
    boxes = np.array([[(-60.0, 0.0), (60.0, 30.0)], [(-15.0, 30.0), (15.0, 120.0)]])  # bar, stem: low and high corner
    outside = np.maximum(np.maximum(boxes[:, None, 0] - local, local - boxes[:, None, 1]), 0.0)
    return np.hypot(outside[..., 0], outside[..., 1]).min(axis=0)


class PushTPhysics:
    """The pymunk space of gym-pusht as a pure function of ten numbers (see `STATE_NAMES`; px, px/s, rad, rad/s)."""

    substeps = 10
    dt = 0.01  # s
    k_p, k_v = 100.0, 20.0  # PD gains of the agent: critically damped, ~26 % of a move from rest within one step

    def __init__(self) -> None:
        drafts = pymunk.Space()  # where gym-pusht's constructors put bodies; steps run in engine spaces of their own
        agent = GymPushT.add_circle(drafts, (256, 400), AGENT_RADIUS)
        block, block_shapes = GymPushT.add_tee(drafts, (256, 300), 0)
        drafts.remove(agent, block, *agent.shapes, *block_shapes)
        table, corners = pymunk.Body(body_type=pymunk.Body.STATIC), [(5, 5), (506, 5), (506, 506), (5, 506)]
        walls = [pymunk.Segment(table, a, b, 2) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
        self.keypoints_local = np.array([v for shape in block_shapes for v in shape.get_vertices()])  # (8, 2)
        # Chipmunk's own handles: pymunk's property layer costs more than the physics (gym-pusht pins pymunk < 7)
        self._agent, self._block = agent._body, block._body
        self._bodies = [body._body for body in (table, agent, block)]
        self._shapes = [shape._shape for shape in (*walls, *agent.shapes, *block_shapes)]
        self._space = lib.cpSpaceNew()
        self._keep_alive = table, walls, agent, block, block_shapes

    def step(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """One environment step (0.1 s): state `(10,)` and action `(2,)` (target of the agent, px) -> state `(10,)`."""
        x, y, vx, vy, *block_state = state.tolist()
        target_x, target_y = float(action[0]), float(action[1])
        agent, k_p, k_v, dt = self._agent, self.k_p, self.k_v, self.dt
        self._place_block(*block_state)
        lib.cpBodySetPosition(agent, (x, y))
        lib.cpBodySetVelocity(agent, (vx, vy))
        space = self._new_space()
        for _ in range(self.substeps):
            vx += (k_p * (target_x - x) - k_v * vx) * dt
            vy += (k_p * (target_y - y) - k_v * vy) * dt
            lib.cpBodySetVelocity(agent, (vx, vy))
            lib.cpSpaceStep(space, dt)
            x += vx * dt  # nothing pushes a kinematic body: this is the engine's own integration
            y += vy * dt
        return np.array([x, y, vx, vy, *self._read_block()])

    def _new_space(self):
        # A space remembers: contacts, the shape of its search tree, even how many shapes it has seen (which orders the
        # contacts, and with them the solver's iterations). A new one for every step makes the step a pure function.
        self._empty_space()
        used, self._space = self._space, lib.cpSpaceNew()
        lib.cpSpaceFree(used)
        space = self._space
        lib.cpSpaceSetDamping(space, 0.0)  # the block keeps no momentum between sub-steps: pushing is quasi-static
        for body in self._bodies:
            lib.cpSpaceAddBody(space, body)
        for shape in self._shapes:
            lib.cpSpaceAddShape(space, shape)
        return space

    def _empty_space(self) -> None:
        for shape in self._shapes:  # some may be missing: Ctrl-C can come between any two calls
            if lib.cpSpaceContainsShape(self._space, shape):
                lib.cpSpaceRemoveShape(self._space, shape)
        for body in self._bodies:
            if lib.cpSpaceContainsBody(self._space, body):
                lib.cpSpaceRemoveBody(self._space, body)

    def __del__(self) -> None:
        self._empty_space()
        lib.cpSpaceFree(self._space)

    def _place_block(self, x: float, y: float, angle: float, vx: float, vy: float, spin: float) -> None:
        block = self._block
        lib.cpBodyUpdatePosition(block, 0.0)  # forgets what is left of the push-out, see _read_block
        lib.cpBodySetAngle(block, angle)  # before the position: turning happens about the centre of gravity
        lib.cpBodySetPosition(block, (x, y))
        lib.cpBodySetVelocity(block, (vx, vy))
        lib.cpBodySetAngularVelocity(block, spin)

    def _read_block(self) -> tuple[float, ...]:
        # The engine keeps the push-out of overlapping shapes ("bias velocity") apart from the velocity, hidden, and
        # adds it to the next sub-step's motion. Running that motion ahead shows the sum, all the future depends on.
        block, dt = self._block, self.dt
        centre_of_gravity = lib.cpBodyGetCenterOfGravity(block)
        position, angle = lib.cpBodyGetPosition(block), lib.cpBodyGetAngle(block)
        centre = lib.cpBodyLocalToWorld(block, centre_of_gravity)
        lib.cpBodyUpdatePosition(block, dt)
        ahead, spin = lib.cpBodyLocalToWorld(block, centre_of_gravity), (lib.cpBodyGetAngle(block) - angle) / dt
        return position.x, position.y, angle, (ahead.x - centre.x) / dt, (ahead.y - centre.y) / dt, spin


_GOAL_POLYGON = shapely.Polygon(block_points(GOAL_POSE, OUTLINE))


def coverage(state: np.ndarray) -> float:
    """Share of the goal area that the block of a state `(10,)` covers, in [0, 1]."""
    block = shapely.Polygon(block_points(state[4:7], OUTLINE))
    return shapely.intersection(_GOAL_POLYGON, block).area / _GOAL_POLYGON.area


def random_state(rng: np.random.Generator, pose: np.ndarray | None = None) -> np.ndarray:
    """A resting state `(10,)`: the block anywhere on the table (or at `pose`), the agent anywhere clear of it."""
    while pose is None or not on_table(pose):
        pose = np.array([*rng.uniform(0, TABLE, 2), rng.uniform(-np.pi, np.pi)])
    agent = rng.uniform(20, TABLE - 20, 2)
    while block_distance(pose, agent)[0] < AGENT_RADIUS + 1:
        agent = rng.uniform(20, TABLE - 20, 2)
    return np.array([*agent, 0.0, 0.0, *pose, 0.0, 0.0, 0.0])


def on_table(pose: np.ndarray, slack: float = 0.0) -> bool:
    """Whether a block pose lies within the walls, give or take `slack` px."""
    corners = block_points(pose, OUTLINE)
    return bool(corners.min() >= 7 - slack and corners.max() <= 504 + slack)
