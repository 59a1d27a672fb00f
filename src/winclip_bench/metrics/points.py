"""Curves as a few points, to be drawn: ROC of images, ROC and per-region overlap (PRO) of pixels.

Every point lies on the exact curve; only what is between two points is left out. The areas are in `pixel` and
`sample`, and never computed from these.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from winclip_bench.metrics.curves import levels_of
from winclip_bench.metrics.regions import Connectivity, anomalous_pixels

POINTS = 100
_SAMPLED = 200_000  # normal scores that thresholds are chosen from: where a curve is drawn, not where it lies


class PixelPoint(NamedTuple):
    """False-positive rate, recall and per-region overlap of all pixels at or above one threshold, each in 0–1."""

    fpr: float
    tpr: float
    pro: float


def roc_points(
    scores: Sequence[float] | NDArray[Any], labels: Sequence[int] | NDArray[Any], most: int = POINTS
) -> list[tuple[float, float]]:
    """(false-positive rate, recall) of at most ``most`` thresholds, from (0, 0) to (1, 1); none with one label only.

    >>> roc_points([3, 2, 1, 0], [1, 0, 1, 0])
    [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]
    """
    values, anomalous = np.asarray(scores, np.float64), np.asarray(labels) == 1
    if anomalous.all() or not anomalous.any():
        return []
    levels = levels_of(values[anomalous], values[~anomalous])
    true, total = levels.true_positives, int(anomalous.sum())
    # A tie of normal and anomalous scores is a ramp from its lower left to its upper right end.
    ends = np.stack([levels.false_positives / levels.negatives, true / total], axis=-1)
    starts = np.stack([levels.above / levels.negatives, (true - levels.positives) / total], axis=-1)
    points = np.concatenate([[(0.0, 0.0)], np.stack([starts, ends], axis=1).reshape(-1, 2), [(1.0, 1.0)]])
    points = points[np.concatenate([[True], (np.diff(points, axis=0) != 0).any(axis=1)])]
    return [(float(x), float(y)) for x, y in points[_spread(len(points), most)]]


def pixel_points(
    maps: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[np.bool_]],
    *,
    connectivity: Connectivity = 8,
    most: int = POINTS,
) -> list[PixelPoint]:
    """Points of the curves that ``auroc_px`` and ``aupro`` are the areas under, from 0 to 1, both never falling.

    maps, masks  n of shapes [h, w], as for `pixel_metrics`

    None without an anomalous pixel or without a normal one. Half of the thresholds are spread over the anomalous
    scores, half over the normal ones, there closer to each other the fewer of these lie above.

    >>> pixel_points([np.array([[0.9, 0.2], [0.1, 0.0]])], [np.array([[True, False], [False, False]])])[1]
    PixelPoint(fpr=0.0, tpr=1.0, pro=1.0)
    """
    pixels = sum(mask.size for mask in masks)
    found, region_counts = [], []
    for values, mask in zip(maps, masks, strict=True):
        scores, region, count = anomalous_pixels(values, mask, connectivity)
        if count:
            area = np.bincount(region, minlength=count)
            found.append((scores, 1.0 / area[region]))
            region_counts.append(count)
    positives = sum(len(scores) for scores, _ in found)
    if positives in (0, pixels):
        return []

    anomalous = np.concatenate([scores for scores, _ in found])
    order = np.argsort(anomalous)
    anomalous = anomalous[order]
    pro = np.concatenate([weights for _, weights in found])[order] / sum(region_counts)
    thresholds = _thresholds(anomalous, maps, masks, most - 2)

    above = np.zeros(len(thresholds), np.int64)
    for values in maps:
        above += values.size - np.searchsorted(np.sort(values, axis=None), thresholds, "left")
    place = np.searchsorted(anomalous, thresholds, "left")
    true = positives - place
    overlap = np.append(np.cumsum(pro[::-1])[::-1], 0.0)[place]
    fpr = (above - true) / (pixels - positives)
    inner = zip(fpr[::-1], true[::-1] / positives, np.minimum(overlap, 1.0)[::-1], strict=True)
    return [PixelPoint(0.0, 0.0, 0.0), *(PixelPoint(*map(float, point)) for point in inner), PixelPoint(1.0, 1.0, 1.0)]


def _thresholds(
    anomalous: NDArray[Any], maps: Sequence[NDArray[Any]], masks: Sequence[NDArray[np.bool_]], most: int
) -> NDArray[Any]:
    """At most ``most`` scores, ascending."""
    step = max(1, sum(mask.size for mask in masks) // _SAMPLED)
    normal = np.sort(
        np.concatenate([values[~mask][::step] for values, mask in zip(maps, masks, strict=True)]),
    )
    high = 1.0 - np.geomspace(1e-4, 1.0, most // 2)
    return np.unique(
        np.concatenate(
            [anomalous[_places(len(anomalous), np.linspace(0, 1, most // 2))], normal[_places(len(normal), high)]]
        )
    )


def _places(size: int, shares: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.rint(shares * (size - 1)).astype(np.intp)


def _spread(size: int, most: int) -> NDArray[np.intp]:
    """Both ends of a list and others at equal distances, at most ``most`` of them."""
    return np.unique(_places(size, np.linspace(0, 1, min(size, most))))
