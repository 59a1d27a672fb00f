"""How far the numbers would move with other images: bootstrap intervals, paired differences, spread over seeds.

Images are drawn with replacement, anomalous and normal ones apart, so that every resample has as many of each as the
data set. A resample is then a number of copies per image. Image scores are resampled exactly. Maps are resampled from
one histogram per image, whose edges are taken from the anomalous scores: exact up to 1,000 distinct ones, and within
`Resampled.rounding` beyond, which is far below the width of any interval.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winclip_bench.metrics import curves
from winclip_bench.metrics.curves import Floats, Levels
from winclip_bench.metrics.pixel import AUPRO_LIMIT, Found, Images, aupro_name, checked, collect, measure
from winclip_bench.metrics.regions import Connectivity, anomalous_pixels
from winclip_bench.metrics.sample import check_labels, sample_metrics

EDGES = 1000
BLOCK = 50  # resamples at a time: their curves stay in the processor's cache


@dataclass(frozen=True)
class Interval:
    """A value and the percentile interval around it; ``low`` ≤ ``high``, and nearly always the value between them."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Resampled:
    """Metrics on the images as they are, and on every resample of them.

    values    metric -> exact value, None where undefined
    draws     metric -> [resamples], NaN where a resample leaves it undefined; only metrics whose value is defined
    drawn     names the images and the draw: two runs can be compared where it is equal
    rounding  metric -> histogram's value minus the exact one, on the images as they are
    left_out  of a mean: metric -> the classes that do not define it
    """

    values: Mapping[str, float | None]
    draws: Mapping[str, Floats]
    drawn: str
    rounding: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """The percentile interval of every metric that is defined."""
        return {name: _interval(self.values[name], draws, level) for name, draws in self.draws.items()}


def _interval(value: float | None, draws: Floats, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, not at {level}")
    assert value is not None
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)


def copies_per_image(anomalous: NDArray[np.bool_], resamples: int, seed: int, category: str = "") -> NDArray[np.int64]:
    """[resamples, n] how often each resample holds each image; a pure function of its arguments.

    >>> copies_per_image(np.array([True, False, False]), 2, seed=0)[:, 0]
    array([1, 1])
    """
    random = np.random.default_rng([seed, *category.encode()])
    copies = np.zeros((resamples, len(anomalous)), np.int64)
    for kind in (anomalous, ~anomalous):
        if size := int(kind.sum()):
            copies[:, kind] = random.multinomial(size, np.full(size, 1 / size), resamples)
    return copies


def _drawn(anomalous: NDArray[np.bool_], resamples: int, seed: int, category: str) -> str:
    digest = hashlib.sha256(anomalous.tobytes()).hexdigest()[:12]
    return f"{category or 'images'}: {len(anomalous)} ({digest}), {resamples} resamples, seed {seed}"


def resample_samples(
    scores: Sequence[float] | NDArray[Any],
    labels: Sequence[int] | NDArray[Any],
    *,
    seed: int,
    resamples: int = 2000,
    category: str = "",
) -> Resampled:
    """Bootstrap of `sample_metrics`.

    seed      with ``category`` decides the draw: give each category its name, or their draws would be the same ones

    Raises ValueError as `sample_metrics` does.

    >>> resample_samples([4, 3, 2, 1, 0], [1, 1, 0, 0, 0], seed=0).intervals()["auroc_sp"]
    Interval(value=1.0, low=1.0, high=1.0, level=0.95)
    """
    values = sample_metrics(scores, labels).values
    anomalous = check_labels(labels, len(scores))
    drawn = _drawn(anomalous, resamples, seed, category)
    if values["auroc_sp"] is None:
        return Resampled(values, {}, drawn)
    copies = copies_per_image(anomalous, resamples, seed, category)
    level = np.unique(-np.asarray(scores, np.float64), return_inverse=True)[1]
    histogram = np.zeros((2, len(scores), level.max() + 1))
    histogram[np.where(anomalous, 0, 1), np.arange(len(scores)), level] = 1
    parts = []
    for some in np.array_split(copies, range(BLOCK, resamples, BLOCK)):
        levels = _levels(some @ histogram[0], some @ histogram[1])
        parts.append(
            {
                "auroc_sp": curves.auroc(levels),
                "f1_sp": curves.f1_max(levels)[0],
                "ap_sp": curves.average_precision(levels),
                "aupr_sp": curves.trapezoid_precision_recall(levels),
            }
        )
    return Resampled(values, _joined(parts), drawn)


def resample_pixels(
    images: Images,
    *,
    seed: int,
    labels: Sequence[int] | NDArray[Any] | None = None,
    connectivity: Connectivity = 8,
    fpr_limits: Sequence[float] = (AUPRO_LIMIT, 0.05),
    resamples: int = 2000,
    category: str = "",
) -> Resampled:
    """Bootstrap of `stream_pixel_metrics`, in three passes over the images.

    images    as there: ``lambda: zip(maps, masks)`` for arrays in memory
    labels    [n] 1 for an anomalous image; by default the images with anomalous pixels
    seed      with ``category`` decides the draw; the draw is that of `resample_samples` where the labels are equal

    Holds one histogram of a few thousand bins per image. Raises ValueError as `stream_pixel_metrics` does.
    """
    found = collect(images, connectivity)
    values = measure(images, found, fpr_limits).values
    if found.one_label:
        given = (
            np.zeros(found.counts["images"], bool) if labels is None else check_labels(labels, found.counts["images"])
        )
        return Resampled(values, {}, _drawn(given, resamples, seed, category))
    histograms = _histograms(images, found, connectivity)
    anomalous = histograms.regions > 0 if labels is None else check_labels(labels, found.counts["images"])
    copies = copies_per_image(anomalous, resamples, seed, category)
    blocks = np.array_split(copies, range(BLOCK, resamples, BLOCK))
    draws = _joined([histograms.metrics(some, found, fpr_limits) for some in blocks])
    as_they_are = histograms.metrics(np.ones((1, len(anomalous)), np.int64), found, fpr_limits)
    defined = {name: value for name, value in values.items() if value is not None}
    return Resampled(
        values,
        {name: draws[name] for name in defined},
        _drawn(anomalous, resamples, seed, category),
        {name: float(as_they_are[name][0] - value) for name, value in defined.items()},
    )


def mean_over_classes(classes: Mapping[str, Resampled]) -> Resampled:
    """The mean of each metric over the classes that define it, on the images and on every resample.

    The classes are resampled independently of each other; `Resampled.left_out` names those without a value. Raises
    ValueError where two share their draw.
    """
    drawn = [one.drawn for one in classes.values()]
    if len(set(drawn)) < len(drawn):
        raise ValueError("two classes share their draw: give each its name as category when resampling")
    values: dict[str, float | None] = {}
    draws: dict[str, Floats] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(name for one in classes.values() for name in one.values):
        defined = [one for one in classes.values() if name in one.draws]
        values[name] = float(np.mean([one.values[name] for one in defined])) if defined else None
        if defined:
            draws[name] = np.mean([one.draws[name] for one in defined], axis=0)
        if without := tuple(label for label, one in classes.items() if name not in one.draws):
            left_out[name] = without
    return Resampled(values, draws, "\n".join(drawn), left_out=left_out)


def difference(first: Resampled, second: Resampled, level: float = 0.95) -> dict[str, Interval]:
    """Paired comparison of two runs on the same images: first − second of every metric that both define.

    Both runs are resampled alike, image by image, so what makes an image hard for both cancels. Raises ValueError
    where they were not drawn alike.

    >>> a = resample_samples([4, 1, 3, 0], [1, 1, 0, 0], seed=0)
    >>> difference(a, a)["auroc_sp"]
    Interval(value=0.0, low=0.0, high=0.0, level=0.95)
    """
    if first.drawn != second.drawn:
        raise ValueError(f"the runs were not drawn alike: {first.drawn!r} and {second.drawn!r}")
    return {
        name: _interval(first.values[name] - second.values[name], first.draws[name] - second.draws[name], level)  # type: ignore[operator]
        for name in first.draws
        if name in second.draws
    }


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n − 1) of a metric over seeds or classes.

    mean      None without a defined value
    std       None with fewer than two
    count     of defined values
    left_out  the names of those without one
    """

    mean: float | None
    std: float | None
    count: int
    left_out: tuple[str, ...]


def spread(values: Mapping[Any, float | None]) -> Spread:
    """Mean ± sample standard deviation of one metric; undefined values are left out, and named.

    >>> spread({"seed 0": 0.5, "seed 1": 0.75, "seed 2": None})
    Spread(mean=0.625, std=0.1767766952966369, count=2, left_out=('seed 2',))
    """
    defined = [value for value in values.values() if value is not None]
    return Spread(
        float(np.mean(defined)) if defined else None,
        float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        len(defined),
        tuple(str(name) for name, value in values.items() if value is None),
    )


def _joined(parts: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _levels(positives: Floats, normal: Floats) -> Levels:
    """Levels from histograms [..., bins], highest bin first, in which all scores of a bin tie."""
    total = np.cumsum(normal, axis=-1)
    return Levels(positives, total - normal, normal, total[..., -1])


@dataclass(frozen=True)
class _Histograms:
    """Per image, the pixels in bins [edge, next edge), highest bin first.

    edges                       [bins], highest first
    positives, normal, overlap  [n, bins] anomalous pixels, normal pixels, sum of 1 / area of the region
    regions                     [n] number of regions
    low, high                   [n] range of the scores
    """

    edges: NDArray[Any]
    positives: Floats
    normal: Floats
    overlap: Floats
    regions: NDArray[np.int64]
    low: Floats
    high: Floats

    def metrics(self, copies: NDArray[np.int64], found: Found, fpr_limits: Sequence[float]) -> dict[str, Floats]:
        """Every metric for every row of ``copies`` [r, n]; NaN where a resample has pixels of one kind only."""
        regions = copies @ self.regions
        weights = copies.astype(np.float64)
        normal = weights @ self.normal
        names = ("auroc_px", "f1_px", "ap_px", *(aupro_name(limit) for limit in fpr_limits), "aupro_200")
        results = {name: np.full(len(copies), np.nan) for name in names}
        some = (regions > 0) & (normal.sum(-1) > 0)
        if not some.any():
            return results
        levels = _levels(weights[some] @ self.positives, normal[some])
        pro = weights[some] @ self.overlap / regions[some, None]
        results["auroc_px"][some] = curves.auroc(levels)
        results["f1_px"][some] = curves.f1_max(levels)[0]
        results["ap_px"][some] = curves.average_precision(levels)
        for limit in fpr_limits:
            results[aupro_name(limit)][some] = curves.aupro(levels, pro, limit)

        rates, overlaps = levels.false_positives / levels.negatives[:, None], np.cumsum(pro, axis=-1)
        lows = np.where(copies[some] > 0, self.low, np.inf).min(-1)
        highs = np.where(copies[some] > 0, self.high, -np.inf).max(-1)
        at = self.edges[::-1]
        for row, rate, overlap, low, high in zip(np.flatnonzero(some), rates, overlaps, lows, highs, strict=True):
            above = np.nextafter(found.thresholds(low, high), np.inf)
            rate_at, overlap_at = (np.interp(above, at, curve[::-1], right=0.0) for curve in (rate, overlap))
            value = curves.aupro_equal_thresholds(rate_at, overlap_at, AUPRO_LIMIT)
            results["aupro_200"][row] = np.nan if value is None else value
        return results


def _histograms(images: Images, found: Found, connectivity: Connectivity) -> _Histograms:
    """Third pass. Edges: anomalous scores, and just above the thresholds of ``aupro_200``."""
    scores = np.unique(found.scores)
    above = np.nextafter(found.thresholds(found.low, found.high), np.inf)
    if len(scores) <= EDGES:
        # Few levels: a bin for each, and one for what lies between it and the next.
        levels = np.concatenate([scores, np.nextafter(scores, np.inf)])
    else:
        levels = np.quantile(found.scores, np.linspace(0, 1, EDGES), method="nearest")
    edges = np.unique(np.concatenate([np.array([found.low], scores.dtype), levels, above]))
    rows: list[tuple[Any, ...]] = []
    for values, mask in checked(images):
        anomalous, region, count = anomalous_pixels(values, mask, connectivity)
        bins = np.searchsorted(edges, anomalous, "right") - 1
        positives = np.bincount(bins, minlength=len(edges))
        overlap = np.bincount(bins, 1.0 / np.bincount(region)[region], minlength=len(edges)) if count else positives
        ordered = np.sort(values, axis=None)
        pixels = np.diff(np.searchsorted(ordered, edges), append=len(ordered))
        rows.append((positives, pixels - positives, overlap, count, ordered[0], ordered[-1]))
    columns = [np.array(column, np.float64) for column in zip(*rows, strict=True)]
    positives_of, normal, overlap_of = (column[:, ::-1] for column in columns[:3])
    return _Histograms(edges[::-1], positives_of, normal, overlap_of, columns[3].astype(np.int64), *columns[4:])
