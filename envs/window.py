"""A window to look at an environment through: `render_mode="human"`, with pygame where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
from gymnasium.error import DependencyNotInstalled

RENDER_MODES = ["rgb_array", "human"]


def check_render_mode(mode: str | None) -> None:
    """Raises ValueError for an unknown render mode, DependencyNotInstalled for "human" without pygame."""
    if mode is not None and mode not in RENDER_MODES:
        raise ValueError(f"got render_mode={mode!r}, expected None or one of {RENDER_MODES}")
    if mode == "human" and importlib.util.find_spec("pygame") is None:
        raise DependencyNotInstalled(
            'got render_mode="human", which needs pygame for its window: pip install pygame; or take "rgb_array"'
        )


class Window:
    """Opens when the first picture is shown, and keeps to the environment's own pace."""

    def __init__(self, title: str, fps: float):
        self._title, self._fps = title, fps
        self._screen = self._clock = None

    def show(self, picture: np.ndarray) -> None:
        """uint8 (H, W, 3); waits until this frame's time has come."""
        import pygame

        size = (picture.shape[1], picture.shape[0])
        if self._screen is None or self._screen.get_size() != size:
            pygame.display.init()
            pygame.display.set_caption(self._title)
            self._screen, self._clock = pygame.display.set_mode(size), pygame.time.Clock()
        pygame.surfarray.blit_array(self._screen, picture.swapaxes(0, 1))
        pygame.event.pump()  # else the desktop takes the window for dead
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        if self._screen is not None:
            import pygame

            pygame.display.quit()
            self._screen = None


def tiled(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) of one size in a grid that is as square as it can be, read like a page."""
    columns = int(np.ceil(np.sqrt(len(pictures))))
    rows = -(-len(pictures) // columns)
    blank = np.zeros_like(pictures[0])
    cells = [*pictures, *[blank] * (rows * columns - len(pictures))]
    return np.concatenate(
        [np.concatenate(cells[row * columns : (row + 1) * columns], axis=1) for row in range(rows)], axis=0
    )
