"""Sizes that SANA was trained at, and how a picture of another size is made (sana_family spec 5.5).

A picture, or the frames of a video, are generated at the trained size whose ratio of height to width is nearest, then
scaled to cover the size that was asked for and cropped about its centre.
"""

from torch import Tensor
from torch.nn import functional as F

# Height and width in sixteenths of the base side (64 pixels at 1024): the same shapes at every base.
_SHAPES = (
    (8, 32), (8, 29), (9, 28), (9, 27), (9, 26), (10, 25), (10, 24), (11, 23), (11, 22), (11, 21), (12, 21), (12, 20),
    (13, 19), (13, 18), (14, 18), (14, 17), (15, 17), (15, 16), (16, 16), (16, 15), (17, 15), (17, 14), (18, 14),
    (18, 13), (19, 13), (20, 12), (21, 12), (22, 11), (23, 11), (24, 10), (25, 10), (27, 9), (32, 8),
)  # fmt: skip
_MORE_SHAPES = ((8, 31), (8, 30), (26, 9), (28, 9), (29, 8), (30, 8), (31, 8))  # at the two large bases only
BASES = {512: _SHAPES, 1024: _SHAPES, 2048: _SHAPES + _MORE_SHAPES, 4096: _SHAPES + _MORE_SHAPES}

# Of video: eleven shapes, whose ratios are names rather than quotients, and the sizes that the two bases give them.
_VIDEO_RATIOS = (0.5, 0.57, 0.68, 0.78, 1.0, 1.13, 1.29, 1.46, 1.67, 1.75, 2.0)
VIDEO_BASES = {
    480: ((448, 896), (480, 832), (528, 768), (560, 720), (624, 624), (672, 592), (720, 560), (768, 528), (816, 496),
          (832, 480), (896, 448)),
    720: ((672, 1344), (704, 1280), (800, 1152), (832, 1088), (960, 960), (1024, 896), (1088, 832), (1152, 800),
          (1248, 736), (1280, 704), (1344, 672)),
}  # fmt: skip
_VIDEO_GRIDS = {30: 480, 22: 720}  # by the ``sample_size`` of a transformer


def bins(base: int, cell: int | None = None) -> dict[float, tuple[int, int]]:
    """Ratio (height / width, to two decimals) -> (height, width) in pixels, by rising ratio.

    Args:
        cell: side of a latent cell in pixels. With it any multiple of it is a base: of other ones than the published,
            the sides are the nearest whole numbers of cells, each ratio once.

    Raises:
        ValueError: a base that no member was trained at, and no ``cell``; a base that is no multiple of it.
    """
    if base in VIDEO_BASES and cell is None:
        return dict(zip(_VIDEO_RATIOS, VIDEO_BASES[base], strict=True))
    if base in BASES and (cell is None or base // 16 % cell == 0):
        unit, shapes = base // 16, BASES[base]
    elif cell is None:
        raise ValueError(f"no sizes for base {base}: expected one of {[*BASES, *VIDEO_BASES]}")
    elif base < cell or base % cell:
        raise ValueError(f"base {base}: expected a multiple of {cell} pixels, a cell of the autoencoder")
    else:
        side, unit = base // cell, cell
        shapes = {tuple(max(1, round(n * side / 16)) for n in shape) for shape in BASES.get(base, _SHAPES)}
        shapes = sorted(shapes, key=lambda hw: abs(hw[0] * hw[1] - side**2), reverse=True)  # of one ratio the best area
    return {round(h / w, 2): (h * unit, w * unit) for h, w in sorted(shapes, key=lambda hw: hw[0] / hw[1])}


def nearest_bin(height: int, width: int, base: int, cell: int | None = None) -> tuple[int, int]:
    """(height, width) of the bin whose ratio differs least.

    Raises:
        ValueError: sides that are not positive; a base that :func:`bins` does not take.
    """
    if height < 1 or width < 1:
        raise ValueError(f"size {height} x {width}: expected positive sides in pixels")
    table, ratio = bins(base, cell), height / width
    return table[min(table, key=lambda known: abs(known - ratio))]


def resize_and_crop(images: Tensor, height: int, width: int) -> Tensor:
    """(B, C, H, W) -> (B, C, height, width): scaled bilinearly until it covers that, cropped about the centre."""
    if images.shape[-2:] == (height, width):
        return images
    tall, wide = images.shape[-2:]
    scale = max(height / tall, width / wide)
    size = max(height, int(tall * scale)), max(width, int(wide * scale))  # never short by a rounding
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return images[..., top : top + height, left : left + width]


def base_of_grid(side: int, compression: int = 32) -> int:
    """The base of a checkpoint from the side of its latent grid (diffusers' ``sample_size``): 32 is 1024 pixels.

    Raises:
        ValueError: a side that stands for none.
    """
    base = side * compression
    if base not in BASES:
        known = [size // compression for size in BASES]
        raise ValueError(f"latent side {side}: expected one of {known}, or sizes without binning")
    return base


def video_base_of_grid(side: int) -> int | None:
    """The base of a video checkpoint from diffusers' ``sample_size``; None: it stands for none, and any size goes."""
    return _VIDEO_GRIDS.get(side)
