"""Where the agent and the block are in a PushT frame: an exact decoder, without any training.

Frames of a world model carry no state; this reads it back, so that imagined motion can be compared with the
simulator in pixels of the 512 px table and degrees. Three steps, batched over frames:

1. *Unmix.* The table without bodies is known, and so are the two body colours; every pixel is a mixture of the three.
   Two coverages per pixel (agent, block) follow by least squares, so blur and area-averaging are no obstacle.
2. *Match.* The block coverage is correlated with the T at 36 angles, the agent coverage with a disc.
3. *Refine.* From the two best angles, Gauss-Newton on the squared difference of coverages, with a T whose edges are
   as soft as one pixel; the better fit wins.

The block's pose is gym-pusht's `body.position` and `body.angle`: the body's origin, which is the middle of the bar's
outer edge (not the centre of gravity, 45 px further down the stem), and the angle in radians, here in [-pi, pi).
y points down, as in the image.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from sana_wm.envs.pusht import Renderer
from sana_wm.envs.pusht_physics import AGENT_RADIUS, BLOCK_CENTRE, TABLE

_AGENT_COLOUR = (65, 105, 225)
_BLOCK_COLOUR = (119, 136, 153)
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # Rec. 601
_ANGLES = 36
_CROP = 24  # side of the window around the block used for refinement, in units of 1/64 of the table
_STEPS = 8  # Gauss-Newton converges in three or four from 10 degrees away


@dataclass(frozen=True)
class PushTPose:
    """Decoded poses of N frames; px of the 512 px table, radians."""

    agent: np.ndarray  # (N, 2) x, y
    block: np.ndarray  # (N, 3) x, y of the body origin, angle in [-pi, pi)
    agent_match: np.ndarray  # (N,) share of the agent's disc that is there, about 1 in a clean frame
    block_match: np.ndarray  # (N,) the same for the block; below about 0.7 the frame holds no proper T


# The eight corners in the block's own frame, in gym-pusht's order: the bar, then the stem.
_KEYPOINTS = np.array(
    [(-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)], dtype=np.float64
)


def proprio_of_states(states: np.ndarray) -> np.ndarray:
    """Simulator states (..., 10) -> (..., 18): agent x, y, then x, y of the block's eight keypoints, px.

    The columns a PushT world reads from its latents, in their order.
    """
    states = np.asarray(states)
    return np.concatenate([states[..., :2], keypoints_of_pose(states[..., 4:7])], axis=-1)


def keypoints_of_pose(pose: np.ndarray) -> np.ndarray:
    """Block poses (..., 3: x, y px, angle rad) -> keypoints (..., 16)."""
    c, s = np.cos(pose[..., 2, None]), np.sin(pose[..., 2, None])
    x = pose[..., 0, None] + c * _KEYPOINTS[:, 0] - s * _KEYPOINTS[:, 1]
    y = pose[..., 1, None] + s * _KEYPOINTS[:, 0] + c * _KEYPOINTS[:, 1]
    return np.stack([x, y], -1).reshape(*pose.shape[:-1], 16)


def pose_of_keypoints(keypoints: np.ndarray) -> np.ndarray:
    """The block pose (..., 3) whose keypoints are nearest, in the least-squares sense, to (..., 16) noisy ones."""
    points = np.asarray(keypoints, np.float64).reshape(*np.shape(keypoints)[:-1], 8, 2)
    middle, own_middle = points.mean(axis=-2, keepdims=True), _KEYPOINTS.mean(axis=0)
    own, seen = _KEYPOINTS - own_middle, points - middle
    sine = (own[:, 0] * seen[..., 1] - own[:, 1] * seen[..., 0]).sum(-1)
    angle = np.arctan2(sine, (own * seen).sum((-1, -2)))
    c, s = np.cos(angle), np.sin(angle)
    x = middle[..., 0, 0] - c * own_middle[0] + s * own_middle[1]
    y = middle[..., 0, 1] - s * own_middle[0] - c * own_middle[1]
    return np.stack([x, y, angle], -1)


class PushTPoseDecoder:
    """Decodes square frames of any size from 48 px up.

    >>> decoder = PushTPoseDecoder()
    >>> decoder(np.full((2, 64, 64, 3), 255, np.uint8)).block.shape
    (2, 3)
    """

    def __init__(self, size: int = 64):
        self.size = size
        self.pixel = TABLE / size  # table px per image px
        nowhere = np.full(10, -1e3)
        background = torch.from_numpy(Renderer()(nowhere, size, size)).float()
        bodies = torch.tensor([_AGENT_COLOUR, _BLOCK_COLOUR], dtype=torch.float32)
        self._background = background  # (H, W, 3)
        self._luma = (bodies @ _LUMA).tolist()
        # A body can be seen against the table by how its colour differs from what is behind it, pixel by pixel.
        self._contrast = bodies - background[:, :, None]  # (H, W, 2, 3)
        self._unmix = torch.linalg.pinv(self._contrast.mT)  # (H, W, 2, 3)

    def __call__(self, frames: np.ndarray | torch.Tensor) -> PushTPose:
        """Decode uint8 RGB frames (N, size, size, 3).

        Raises:
            ValueError: for another shape or dtype.
        """
        frames = torch.as_tensor(frames)
        if frames.ndim != 4 or frames.shape[1:] != (self.size, self.size, 3) or frames.dtype != torch.uint8:
            raise ValueError(
                f"frames must be uint8 (N, {self.size}, {self.size}, 3), got {frames.dtype} {tuple(frames.shape)}"
            )
        parts = [self._decode(chunk) for chunk in frames.cpu().split(512)]  # bounds the memory of the angle bank
        return PushTPose(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    def coverage(self, frames: torch.Tensor) -> torch.Tensor:
        """How much of each pixel the agent and the block cover: (N, H, W, 3) -> (N, 2, H, W) in [0, 1]."""
        difference = frames.float() - self._background
        both = torch.einsum("hwkc,nhwc->knhw", self._unmix, difference)
        # Non-negative least squares: where one body would be less than absent, the other explains the pixel alone.
        norm = self._contrast.square().sum(-1).permute(2, 0, 1)[:, None]
        alone = torch.einsum("hwkc,nhwc->knhw", self._contrast, difference) / norm
        absent = both < 0
        return torch.where(absent, 0.0, torch.where(absent.flip(0), alone, both)).clamp(0, 1).transpose(0, 1)

    def _decode(self, frames):
        agent_NHW, block_NHW = self.coverage(frames).unbind(dim=1)
        block, block_match = self._fit_block(block_NHW, 1.0 - agent_NHW)
        agent, agent_match = self._fit_agent(agent_NHW, frames, block)
        # Fits turn about the centre of gravity; the body's origin is 45 px up the stem from it.
        angle = block[:, 2]
        block[:, :2] -= BLOCK_CENTRE[1] * torch.stack([-angle.sin(), angle.cos()], -1)
        return [x.numpy().astype(np.float64) for x in (agent, block, agent_match, block_match)]

    def _fit_agent(self, agent_NHW, frames_NHWC, block_N3):
        radius = math.ceil(AGENT_RADIUS / self.pixel) + 1
        disc = self._disc(torch.zeros(1, 2), *self._window(torch.zeros(1, 2), 2 * radius + 1))[0]
        score = F.conv2d(agent_NHW[:, None], disc[None, None], padding=radius)[:, 0]
        start = self._peak(score)
        # Video codecs halve the resolution of colour, not of brightness: so the place is refined on the brightness of
        # the disc over the table with the block that was found on it.
        behind = self._background @ _LUMA
        behind = behind + self._tee(block_N3, *self._grid()) * (self._luma[1] - behind)
        contrast = self._luma[0] - behind
        covered = (frames_NHWC.float() @ _LUMA - behind) / contrast
        weight = contrast.abs() / contrast.abs().amax()
        return self._refine(covered, weight, start, self._disc, 2 * radius + 5)

    def _fit_block(self, block_NHW, visible_NHW):
        angles = torch.arange(_ANGLES) * (2 * math.pi / _ANGLES)
        # Half the resolution is plenty for a start that refinement improves.
        coarse = F.avg_pool2d((block_NHW * visible_NHW)[:, None], 2)
        size = 2 * math.ceil(80 / (2 * self.pixel)) + 1
        kernels = self._tee(
            torch.cat([torch.zeros(_ANGLES, 2), angles[:, None]], 1),
            *self._window(torch.zeros(_ANGLES, 2), size, 2 * self.pixel),
            2 * self.pixel,
        )
        score = 2 * F.conv2d(coarse, kernels[:, None], padding=size // 2) - kernels.square().sum((1, 2))[:, None, None]
        best_NA = score.flatten(2).amax(-1)
        first = best_NA.argmax(-1)
        apart = (torch.arange(_ANGLES) - first[:, None] + _ANGLES // 2) % _ANGLES - _ANGLES // 2
        second = best_NA.masked_fill(apart.abs() < _ANGLES // 6, -torch.inf).argmax(-1)
        fits = []
        lanes = torch.arange(len(score))
        for angle in (first, second):
            centre = self._peak(score[lanes, angle], 2 * self.pixel)
            start = torch.cat([centre, angles[angle][:, None]], 1)
            fits.append(self._refine(block_NHW, visible_NHW, start, self._tee, round(_CROP * self.size / 64)))
        (one, one_match), (two, two_match) = fits
        better = two_match > one_match
        fit = torch.where(better[:, None], two, one)
        angle = (fit[:, 2] + math.pi) % (2 * math.pi) - math.pi
        return torch.cat([fit[:, :2], angle[:, None]], 1), torch.where(better, two_match, one_match)

    def _refine(self, target_NHW, visible_NHW, start_NP, shape, side):
        """Gauss-Newton of the coverage `shape(parameters)` to the target, inside a window around the start."""
        x, y = self._window(start_NP[:, :2], side)
        # Pixels of the window that lie outside the image show nothing and count for nothing.
        row = (y[:, :, :1] / self.pixel - 0.5).round().long()
        column = (x[:, :1, :] / self.pixel - 0.5).round().long()
        inside = ((row >= 0) & (row < self.size)) & ((column >= 0) & (column < self.size))
        lanes = torch.arange(len(start_NP))[:, None, None]
        index = lanes, row.clamp(0, self.size - 1), column.clamp(0, self.size - 1)
        target, weight = target_NHW[index], visible_NHW[index] * inside
        parameters = start_NP.clone()
        nudge = torch.tensor([0.5, 0.5, 0.01])[: start_NP.shape[1]]  # px, px, rad
        for _ in range(_STEPS):
            now = shape(parameters, x, y)
            slopes = [
                (shape(parameters + d, x, y) - shape(parameters - d, x, y)) / (2 * d.sum()) for d in torch.diag(nudge)
            ]
            jacobian = torch.stack(slopes, -1).flatten(1, 2) * weight.flatten(1)[..., None]
            residual = ((target - now) * weight).flatten(1)
            normal = jacobian.mT @ jacobian + 1e-4 * torch.diag(1 / nudge.square())
            change = torch.linalg.solve(normal, jacobian.mT @ residual[..., None])[..., 0]
            limit = torch.tensor([8.0, 8.0, 0.2])[: start_NP.shape[1]]
            parameters = parameters + change.clamp(-limit, limit)
        now = shape(parameters, x, y)
        unseen = (now * ~inside).square().sum((1, 2))
        error = ((target - now) * weight).square().sum((1, 2)) + unseen
        match = 1.0 - error / ((now * weight).square().sum((1, 2)) + unseen).clamp_min(1e-6)
        # A fit that has left the window has nothing to be wrong about.
        left = (1.0 - now.sum((1, 2)) / shape(start_NP, x, y).sum((1, 2))).clamp_min(0.0)
        return parameters, match - left

    def _disc(self, centre_N2, x, y):
        distance = torch.hypot(x - centre_N2[:, 0, None, None], y - centre_N2[:, 1, None, None])
        return ((AGENT_RADIUS - distance) / self.pixel + 0.5).clamp(0, 1)

    def _tee(self, pose_N3, x, y, pixel=None):
        """Coverage of a T turned about its centre of gravity; a pixel is taken as a square turned with the T."""
        pixel = pixel or self.pixel
        cx, cy, angle = (value[:, None, None] for value in pose_N3.unbind(-1))
        dx, dy, c, s = x - cx, y - cy, angle.cos(), angle.sin()
        u, v = c * dx + s * dy, c * dy - s * dx + BLOCK_CENTRE[1]

        def between(value, low, high):
            return ((value - low) / pixel + 0.5).clamp(0, 1) - ((value - high) / pixel + 0.5).clamp(0, 1)

        return between(u, -60, 60) * between(v, 0, 30) + between(u, -15, 15) * between(v, 30, 120)

    def _window(self, centre_N2, side, pixel=None):
        """Table coordinates x (N, 1, side) and y (N, side, 1), expanded, of the pixels around centres."""
        pixel = pixel or self.pixel
        offset = (torch.arange(side) - side // 2).float()
        if centre_N2.abs().sum() == 0:  # a kernel, centred on its own middle pixel
            grid = (offset * pixel).expand(len(centre_N2), -1)
            return grid[:, None, :].expand(-1, side, -1), grid[:, :, None].expand(-1, -1, side)
        middle = (centre_N2 / pixel - 0.5).round()
        x = (middle[:, :1] + offset + 0.5) * pixel
        y = (middle[:, 1:] + offset + 0.5) * pixel
        return x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)

    def _grid(self):
        centres = (torch.arange(self.size) + 0.5) * self.pixel
        return centres[None, None, :], centres[None, :, None]

    def _peak(self, score_NHW, pixel=None):
        width = score_NHW.shape[-1]
        index = score_NHW.flatten(1).argmax(-1)
        return (torch.stack([index % width, index // width], -1) + 0.5) * (pixel or self.pixel)
