"""Images too large to code at once: overlapping tiles, one at a time, cross-faded (sana_family spec section 4.3)."""

from collections.abc import Callable

import torch
from torch import Tensor

TILE = 1024  # pixels along a side, for 4K; the stride that goes with it is 896
WHOLE = 2048**2  # pixels of an image that is still coded at once when tile="auto"


def tile_and_stride(
    pixels: tuple[int, int], tile: int | str | None, stride: int | None, compression: int
) -> tuple[int, int] | None:
    """Tile and stride in latent cells; None to code the image at once.

    Args:
        pixels: height and width of the image. tile, stride: in pixels, see :meth:`DCAE.decode`.

    Raises:
        ValueError: sizes that are no multiples of the compression, a stride beyond the tile, a stride without a tile.
    """
    if tile is None and stride is not None:
        raise ValueError(f"stride={stride} without a tile: give both, or tile alone")
    if isinstance(tile, str):
        if tile != "auto":
            raise ValueError(f"tile={tile!r}: expected pixels, 'auto' or None")
        if pixels[0] * pixels[1] <= WHOLE:
            return None
        tile = -(-TILE // compression) * compression
    if tile is None:
        return None
    stride = max(tile * 7 // 8 // compression, 1) * compression if stride is None else stride
    if tile < 1 or not 0 < stride <= tile or tile % compression or stride % compression:
        raise ValueError(
            f"tile={tile}, stride={stride}: expected multiples of {compression} pixels with 0 < stride <= tile, "
            f"such as tile={8 * compression}, stride={7 * compression}"
        )
    if max(pixels) <= tile:
        return None
    return tile // compression, stride // compression


def run_tiled(code: Callable[[Tensor], Tensor], x: Tensor, tile: int, stride: int, scale: tuple[int, int]) -> Tensor:
    """``code(x)`` by tiles.

    A tile fades in over its overlap with the tile above (as faded already), then with the one to its left, with weights
    0, 1/n, ..., (n-1)/n along the n rows or columns. Alive at any time are the result, one tile, and strips as wide as
    the overlap.

    Args:
        code: (B, C, H, W) -> (B, C', H', W'). tile, stride: in latent cells.
        scale: rows of x, and rows of the result, to a latent cell.
    """
    read, write = scale
    height, width = x.shape[2] // read, x.shape[3] // read
    overlap = (tile - stride) * write
    out, above = None, {}
    for i in range(0, height, stride):
        left = None
        for j in range(0, width, stride):
            piece = code(x[:, :, i * read : (i + tile) * read, j * read : (j + tile) * read])
            if out is None:
                out = piece.new_empty(*piece.shape[:2], height * write, width * write)
            fade(above.get(j), piece, 2)
            fade(left, piece, 3)
            # copies: a view would keep the whole tile
            above[j] = end_of(piece, overlap, 2)
            left = end_of(piece, overlap, 3)
            top, start = i * write, j * write
            out[:, :, top : top + stride * write, start : start + stride * write] = piece[
                :, :, : stride * write, : stride * write
            ]
    return out


def end_of(piece: Tensor, overlap: int, dim: int) -> Tensor:
    """The last rows (dim 2) or columns (dim 3) of a tile, that its neighbour overlaps."""
    count = min(overlap, piece.shape[dim])
    return piece.narrow(dim, piece.shape[dim] - count, count).clone()


def fade(before: Tensor | None, piece: Tensor, dim: int) -> None:
    """Fade a tile in over the end of the tile before it, in place."""
    if before is None or not (count := min(before.shape[dim], piece.shape[dim])):
        return
    weight = torch.arange(count, device=piece.device, dtype=torch.float32) / count
    weight = weight.to(piece.dtype).view(-1, *[1] * (3 - dim))
    before = before.narrow(dim, before.shape[dim] - count, count)
    start = piece.narrow(dim, 0, count)
    start.copy_(torch.lerp(before, start, weight))
