"""An image as the square tiles a model sees, and tile maps put together again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as transforms


@dataclass
class Tiles:
    """The tiles of one image.

    pixels    [T, 3, S, S] float32, normalised
    corners   (top, left) of each tile in the resized image, pixels
    size      (height, width) of the resized image, whose shorter side is S; maps and masks are compared at it
    """

    pixels: Tensor
    corners: tuple[tuple[int, int], ...]
    size: tuple[int, int]


def resized(width: int, height: int, side: int, non_square: Literal["tile", "squash"]) -> tuple[int, int]:
    """(height, width) at which an image is seen: the shorter side becomes `side`, or both do.

    >>> resized(1024, 512, 240, "tile"), resized(1024, 512, 240, "squash")
    ((240, 480), (240, 240))
    """
    if non_square == "squash":
        return side, side
    shorter = min(width, height)
    return max(side, round(height * side / shorter)), max(side, round(width * side / shorter))


def tile_corners(size: tuple[int, int], side: int, stride: float) -> tuple[tuple[int, int], ...]:
    """(top, left) of the fewest, evenly spread tiles that cover `size` with steps of at most stride · side.

    >>> tile_corners((240, 500), 240, stride=1.0)
    ((0, 0), (0, 130), (0, 260))
    """
    excess = max(size) - side
    steps = math.ceil(excess / (stride * side))
    offsets = [round(step * excess / steps) for step in range(steps + 1)] if steps else [0]
    vertical = size[0] > size[1]
    return tuple((offset, 0) if vertical else (0, offset) for offset in offsets)


def cut(
    image: Image.Image,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    non_square: Literal["tile", "squash"],
    stride: float,
    resize: Literal["pil", "tensor"],
) -> Tiles:
    """Resize an RGB image, normalise it and cut it into tiles of side × side pixels.

    resize   bicubic with antialiasing, `pil` on the 8-bit image (values are rounded and clipped), `tensor` on floats
    """
    height, width = resized(*image.size, side, non_square)
    if resize == "pil":
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = transforms.to_dtype(transforms.pil_to_tensor(image), torch.float32, scale=True)
    if resize == "tensor":
        pixels = transforms.resize(
            pixels, [height, width], interpolation=transforms.InterpolationMode.BICUBIC, antialias=True
        )
    pixels = transforms.normalize(pixels, list(mean), list(std))
    corners = tile_corners((height, width), side, stride)
    return Tiles(
        pixels=torch.stack([pixels[:, top : top + side, left : left + side] for top, left in corners]),
        corners=corners,
        size=(height, width),
    )


def stitch(maps: Tensor, corners: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Tile maps [T, S, S] as one map of `size`, averaged where tiles overlap."""
    side = maps.shape[-1]
    total, count = torch.zeros(size, device=maps.device), torch.zeros(size, device=maps.device)
    for tile, (top, left) in zip(maps, corners, strict=True):
        total[top : top + side, left : left + side] += tile
        count[top : top + side, left : left + side] += 1
    return total / count


def resize_mask(
    mask: NDArray[np.bool_], size: tuple[int, int], how: Literal["nearest", "nearest_floor", "bilinear"]
) -> NDArray[np.bool_]:
    """A mask [H, W] at the size of the maps: the pixel at the centre (`nearest`) or at the upper left corner
    (`nearest_floor`) of each new one, or bilinear and more than one half."""
    if mask.shape == size:
        return mask
    if how == "nearest_floor":  # torch's own arithmetic, whose rounding decides where a corner falls between two pixels
        return interpolate(torch.tensor(mask)[None, None].byte(), size=size, mode="nearest")[0, 0].bool().numpy()
    resampling = Image.Resampling.NEAREST if how == "nearest" else Image.Resampling.BILINEAR
    scaled = Image.fromarray(mask.astype(np.uint8) * 255).resize((size[1], size[0]), resampling)
    return np.asarray(scaled) > 127
