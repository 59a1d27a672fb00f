"""Every ranking metric, computed from counts at the distinct anomalous scores alone.

Between two neighbouring anomalous scores neither the recall nor the per-region overlap (PRO) changes, so what the
normal scores do there is settled by two counts per anomalous score: how many lie above it and how many tie with it.
Everything below follows exactly from those, for one set of scores or, along leading axes, for many resamples at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[Any]  # int64 for plain counts, float64 for weighted ones


@dataclass(frozen=True)
class Levels:
    """Counts at the distinct anomalous scores, highest score first.

    positives  [..., L] anomalous scores at the level
    above      [..., L] normal scores strictly above the level
    tied       [..., L] normal scores equal to the level
    negatives  [...]    all normal scores, at least one
    """

    positives: Counts
    above: Counts
    tied: Counts
    negatives: Counts

    @property
    def true_positives(self) -> Counts:
        """[..., L] anomalous scores at or above the level."""
        return np.cumsum(self.positives, axis=-1)

    @property
    def false_positives(self) -> Counts:
        """[..., L] normal scores at or above the level."""
        return self.above + self.tied


def levels_of(anomalous: NDArray[Any], normal: NDArray[Any]) -> Levels:
    """Levels of two plain lists of scores.

    >>> levels_of(np.array([3.0, 2.0, 2.0]), np.array([2.5, 2.0, 1.0])).above
    array([0, 1])
    """
    scores, positives = np.unique(anomalous, return_counts=True)
    ordered = np.sort(normal)
    upto, below = np.searchsorted(ordered, scores, "right"), np.searchsorted(ordered, scores, "left")
    size = np.asarray(len(ordered))
    return Levels(positives[::-1], (size - upto)[::-1], (upto - below)[::-1], size)


def _share(part: Counts, whole: Counts, otherwise: float = 0.0) -> Floats:
    """part / whole, and ``otherwise`` where the whole is zero."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(whole.shape, otherwise), where=whole > 0)


def area_under_step(levels: Levels, limit: float) -> Floats:
    """[..., L] area over false-positive rates 0 to ``limit`` under the curve that steps from 0 to 1 at each level.

    Ties make the step a ramp from above/N to (above + tied)/N; a limit inside the ramp cuts it by linear interpolation.
    Any weighted ROC-like curve is a weighted sum of these steps, and so is its area.

    >>> area_under_step(levels_of(np.array([1.0, 0.0]), np.array([0.5, 0.0])), 1.0)
    array([1.  , 0.25])
    """
    negatives = levels.negatives[..., None]
    width = levels.tied / negatives
    reached = np.maximum(limit - levels.above / negatives, 0.0)
    ramp = np.minimum(reached, width)
    return reached - ramp + _share(ramp * ramp, 2.0 * width)


def auroc(levels: Levels) -> Floats:
    """[...] area under the ROC curve: the share of (anomalous, normal) pairs ranked rightly, a tie counting half.

    >>> float(auroc(levels_of(np.array([3.0, 2.0]), np.array([2.0, 1.0]))))
    0.875
    """
    weighted = (levels.positives * area_under_step(levels, 1.0)).sum(-1)
    return np.minimum(_share(weighted, levels.positives.sum(-1)), 1.0)


def aupro(levels: Levels, pro: Floats, limit: float) -> Floats:
    """[...] area under the per-region-overlap curve up to the false-positive rate ``limit``, divided by ``limit``.

    pro  [..., L] PRO weight at each level: the sum of 1 / (area of its region × number of regions) over the pixels

    Bergmann et al., "Uninformed Students", CVPR 2020, and "The MVTec Anomaly Detection Dataset", IJCV 2021.
    """
    return np.minimum((pro * area_under_step(levels, limit)).sum(-1) / limit, 1.0)


def average_precision(levels: Levels) -> Floats:
    """[...] sum over thresholds of the gain in recall times the precision there, without interpolation.

    >>> float(average_precision(levels_of(np.array([3.0, 1.0]), np.array([2.0, 0.0]))))
    0.8333333333333333
    """
    true = levels.true_positives
    return (levels.positives * _share(true, true + levels.false_positives)).sum(-1) / true[..., -1]


def trapezoid_precision_recall(levels: Levels) -> Floats:
    """[...] area under the precision–recall curve by the trapezoidal rule, from recall 0 with precision 1.

    The curve passes through every threshold, so each gain in recall starts at the precision just above its level.
    Above average precision nearly always (Davis and Goadrich, ICML 2006): given under its own name, never as AP.

    >>> float(trapezoid_precision_recall(levels_of(np.array([3.0, 1.0]), np.array([2.0, 0.0]))))
    0.7916666666666666
    """
    true = levels.true_positives
    before = true - levels.positives
    start = _share(before, before + levels.above, otherwise=1.0)
    end = _share(true, true + levels.false_positives)
    return (levels.positives * (start + end)).sum(-1) / (2.0 * true[..., -1])


def f1_max(levels: Levels) -> tuple[Floats, NDArray[np.intp]]:
    """[...] highest F1 over all thresholds, and the level where it is reached (the highest such level).

    F1 = 2 TP / (2 TP + FP + FN). It can only peak at an anomalous score: below one, only false positives are gained.
    """
    true = levels.true_positives
    f1 = 2.0 * true / (true + levels.false_positives + true[..., -1:])
    best = f1.argmax(-1)
    return np.take_along_axis(f1, best[..., None], -1)[..., 0], best


def aupro_equal_thresholds(false_positive_rate: Floats, overlap: Floats, limit: float) -> float | None:
    """AUPRO as much of the literature computes it, from its curve at equally spaced thresholds.

    Points with a false-positive rate below ``limit`` are kept, their rates stretched to 0–1, and joined by
    trapezoids. None where fewer than two different rates remain, for then there is nothing to stretch.
    """
    kept = false_positive_rate < limit
    rate, overlap = false_positive_rate[kept], overlap[kept]
    if len(rate) == 0 or rate.min() == rate.max():
        return None
    stretched = (rate - rate.min()) / (rate.max() - rate.min())
    return float(abs(np.trapezoid(overlap, stretched)))


def equal_thresholds(low: float, high: float, count: int = 200) -> Floats:
    """``low + i (high − low) / count`` for i = 0 … count − 1: the lowest score is one of them, the highest is not."""
    # Of the halves, doubled: the same numbers, and no overflow where the range is wider than the largest float.
    return 2.0 * np.linspace(low / 2.0, high / 2.0, count, endpoint=False)


def as_floats(values: Sequence[float] | NDArray[Any], what: str) -> Floats:
    """A one-dimensional float array of finite numbers; ValueError with ``what`` and the first bad index otherwise."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{what} must be one-dimensional, not of shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(f"{what}[{bad[0]}] is NaN or infinite")
    return array
