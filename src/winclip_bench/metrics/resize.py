"""Maps at the resolution of their masks, for evaluation where the ground truth was drawn."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def resize_map(values: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """A map [h, w] at another ``shape``: bilinear between pixel centres, borders repeated, no antialiasing.

    The same as torch's ``interpolate(mode="bilinear", align_corners=False)``. Float types are kept.

    >>> resize_map(np.array([[0.0, 1.0]]), (1, 4))
    array([[0.  , 0.25, 0.75, 1.  ]])
    """
    resized = np.asarray(values)
    if resized.dtype not in (np.float32, np.float64):
        resized = resized.astype(np.float64)
    for axis, (old, new) in enumerate(zip(resized.shape, shape, strict=True)):
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.minimum(at.astype(np.intp), max(old - 2, 0))
        share = (at - low).astype(resized.dtype)
        share = share[:, None] if axis == 0 else share
        first, second = resized.take(low, axis), resized.take(np.minimum(low + 1, old - 1), axis)
        resized = first + (second - first) * share
    return resized
