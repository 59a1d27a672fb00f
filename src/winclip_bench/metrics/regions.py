"""Connected regions of ground-truth masks: the unit that per-region overlap (PRO) gives equal weight."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Connectivity = Literal[4, 8]


def anomalous_pixels(
    values: NDArray[Any], mask: NDArray[np.bool_], connectivity: Connectivity = 8
) -> tuple[NDArray[Any], NDArray[np.intp], int]:
    """The anomalous pixels of one image: their values [p], their region [p] counted from 0, the number of regions.

    values, mask  [h, w]
    connectivity  8: pixels that touch at a corner belong together; 4: only those that share an edge

    >>> diagonal = np.eye(2, dtype=bool)
    >>> [anomalous_pixels(np.zeros((2, 2)), diagonal, c)[2] for c in (4, 8)]
    [2, 1]
    """
    if not mask.any():
        return values[:0, 0], np.empty(0, np.intp), 0
    # Only the box around the regions is labelled: they cover a few percent of an image.
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = mask[box]
    labels, count = ndimage.label(inside, ndimage.generate_binary_structure(2, 2 if connectivity == 8 else 1))
    return values[box][inside], labels[inside].astype(np.intp) - 1, int(count)
