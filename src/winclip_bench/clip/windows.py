"""The windows of WinCLIP: which patches of the grid each one covers."""

import torch
from torch import Tensor


def window_patches(grid: int, side: int) -> Tensor:
    """Patch indices of every side×side window of a grid×grid image, stride 1.

    Returns int64 [(grid-side+1)², side²]; patches count row by row from the top left, windows likewise.

    >>> window_patches(3, 2)
    tensor([[0, 1, 3, 4],
            [1, 2, 4, 5],
            [3, 4, 6, 7],
            [4, 5, 7, 8]])
    """
    patches = torch.arange(grid * grid).reshape(grid, grid)
    return patches.unfold(0, side, 1).unfold(1, side, 1).reshape(-1, side * side)


def incidence(grid: int, side: int) -> Tensor:
    """1 where a window covers a patch, else 0; float32 [(grid-side+1)², grid²].

    >>> incidence(3, 2).sum(0).reshape(3, 3)
    tensor([[1., 2., 1.],
            [2., 4., 2.],
            [1., 2., 1.]])
    """
    patches = window_patches(grid, side)
    return torch.zeros(len(patches), grid * grid).scatter_(1, patches, 1.0)
