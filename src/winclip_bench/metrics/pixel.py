"""Pixel-level metrics of anomaly maps, exact and from one ordering: AUROC, F1-max, AP and AUPRO at any limits.

Two passes. The first collects the anomalous pixels, a percent or two of all, and puts them in full order. The second
sorts everything else by value alone, piece by piece, and counts at each distinct anomalous score. Normal pixels are
never kept, so the same two passes serve maps in memory and maps that stream from a disk.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winclip_bench.metrics import curves
from winclip_bench.metrics.curves import Levels
from winclip_bench.metrics.measured import Measured
from winclip_bench.metrics.regions import Connectivity, anomalous_pixels

PIXEL_METRICS = ("auroc_px", "f1_px", "ap_px", "aupro", "aupro@0.05", "aupro_200")
AUPRO_LIMIT = 0.3

# One search costs about as much per score as a few pixels cost to sort: pieces grow with the anomalous scores.
PIECE = 1 << 20
PIXELS_PER_SEARCH = 24

Array = NDArray[Any]
Images = Callable[[], Iterable[tuple[Array, Array]]]


def pixel_metrics(
    maps: Sequence[Array] | Array,
    masks: Sequence[Array] | Array,
    *,
    connectivity: Connectivity = 8,
    fpr_limits: Sequence[float] = (AUPRO_LIMIT, 0.05),
) -> Measured:
    """Metrics of anomaly maps against masks; see docs/metrics.md for the definitions.

    maps          n maps [h, w] of real numbers, higher is more anomalous; shapes may differ between images
    masks         n masks of the same shapes, True (or a non-zero integer) where anomalous
    connectivity  of the regions that AUPRO weighs equally: 8 or 4
    fpr_limits    one AUPRO each: ``aupro`` for 0.3, ``aupro@<limit>`` for another

    All metrics are undefined without an anomalous pixel or without a normal one. Raises ValueError on NaN or
    infinite scores, shapes that do not match, masks of floats, or no image, naming the first bad image.

    >>> measured = pixel_metrics([np.array([[0.9, 0.2], [0.1, 0.0]])], [np.array([[True, False], [False, False]])])
    >>> measured.values["auroc_px"], measured.values["aupro"], measured.thresholds["f1_px"]
    (1.0, 1.0, 0.9)
    """
    if len(maps) != len(masks):
        raise ValueError(f"there are {len(maps)} maps and {len(masks)} masks")
    return stream_pixel_metrics(lambda: zip(maps, masks, strict=True), connectivity=connectivity, fpr_limits=fpr_limits)


def stream_pixel_metrics(
    images: Images, *, connectivity: Connectivity = 8, fpr_limits: Sequence[float] = (AUPRO_LIMIT, 0.05)
) -> Measured:
    """`pixel_metrics`, with identical results, over images that need not fit in memory.

    images  called twice; each time it must give the same (map, mask) pairs, [h, w] each or batches [n, h, w] of them

    Holds the anomalous pixels, one piece of 24 times as many scores (at least a million), and one image.

    >>> first, second = np.array([[3.0, 1.0]]), np.array([[2.0, 0.0]])
    >>> mask = np.array([[True, False]])
    >>> stream_pixel_metrics(lambda: iter([(first, mask), (second, mask)])).values["auroc_px"]
    1.0
    """
    return measure(images, collect(images, connectivity), fpr_limits)


def aupro_name(limit: float) -> str:
    """The metric's key: ``aupro`` at the usual limit 0.3, ``aupro@<limit>`` at another.

    >>> aupro_name(0.3), aupro_name(0.05), aupro_name(1)
    ('aupro', 'aupro@0.05', 'aupro@1.0')
    """
    if not 0 < limit <= 1:
        raise ValueError(f"a limit on the false-positive rate lies above 0 and at most at 1, not at {limit}")
    return "aupro" if limit == AUPRO_LIMIT else f"aupro@{float(limit)}"


@dataclass(frozen=True)
class Found:
    """What the first pass keeps: the anomalous pixels, and the range and number of all.

    scores     [p] of the anomalous pixels, in the one type that represents the scores of all images exactly
    pro        [p] their PRO weights, 1 / (area of the region × number of regions)
    low, high  range of all scores
    """

    scores: Array
    pro: NDArray[np.float64]
    low: float
    high: float
    pixels: int
    counts: dict[str, int]

    @property
    def one_label(self) -> str:
        """Why no metric is defined, where all pixels are of one kind; else empty."""
        if self.counts["anomalous_pixels"] == 0:
            return "no anomalous pixel"
        return "no normal pixel" if self.counts["normal_pixels"] == 0 else ""

    def thresholds(self, low: float, high: float) -> Array:
        """The 200 thresholds of ``aupro_200``, in the type of the scores: scores that lie on one stay on it."""
        return curves.equal_thresholds(low, high).astype(self.scores.dtype)


def collect(images: Images, connectivity: Connectivity) -> Found:
    """First pass over the images; ValueError where one is no map or has NaN or infinite scores."""
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity is 4 or 8, not {connectivity}")
    scores: list[Array] = []
    regions: list[Array] = []
    lows, highs, dtypes = [], [], set()
    number = pixels = images_with_regions = region_count = 0
    for number, (values, mask) in enumerate(checked(images), start=1):
        low, high = values.min(), values.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"maps[{number - 1}] has NaN or infinite scores")
        lows.append(low)
        highs.append(high)
        dtypes.add(values.dtype)
        pixels += values.size
        anomalous, region, count = anomalous_pixels(values, mask, connectivity)
        if count:
            images_with_regions += 1
            scores.append(anomalous)
            regions.append((region + region_count).astype(np.int32))
            region_count += count
    if number == 0:
        raise ValueError("there is no image")
    dtype = np.result_type(*dtypes)
    every_score = np.concatenate(scores, dtype=dtype) if scores else np.empty(0, dtype)
    every_region = np.concatenate(regions) if regions else np.empty(0, np.int32)
    area = np.bincount(every_region, minlength=region_count)
    pro = 1.0 / (area * float(region_count)) if region_count else np.empty(0)
    counts = {
        "images": number,
        "images_with_regions": images_with_regions,
        "regions": region_count,
        "anomalous_pixels": len(every_score),
        "normal_pixels": pixels - len(every_score),
    }
    return Found(every_score, pro[every_region], float(min(lows)), float(max(highs)), pixels, counts)


def measure(images: Images, found: Found, fpr_limits: Sequence[float]) -> Measured:
    """Second pass: every metric, from the anomalous pixels that the first one found."""
    keys = {aupro_name(limit): limit for limit in fpr_limits}
    names = ("auroc_px", "f1_px", "ap_px", *keys, "aupro_200")
    if found.one_label:
        return Measured(dict.fromkeys(names), dict.fromkeys(names, found.one_label), counts=found.counts)

    thresholds = found.thresholds(found.low, found.high)
    order = np.argsort(found.scores)
    ordered = found.scores[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    scores, positives = ordered[starts], np.diff(starts, append=len(ordered))
    pro = np.add.reduceat(found.pro[order], starts)
    del order, ordered, starts

    below, upto, upto_thresholds = count_pixels(images, found, scores, thresholds)
    # The counts are of all pixels; without the anomalous ones they are those of the normal pixels.
    above = found.pixels - upto - (len(found.scores) - np.cumsum(positives))
    levels = Levels(
        positives[::-1],
        above[::-1],
        (upto - below - positives)[::-1],
        np.asarray(found.counts["normal_pixels"]),
    )
    f1, best = curves.f1_max(levels)
    values: dict[str, float | None] = {
        "auroc_px": float(curves.auroc(levels)),
        "f1_px": float(f1),
        "ap_px": float(curves.average_precision(levels)),
    }
    values |= {key: float(curves.aupro(levels, pro[::-1], limit)) for key, limit in keys.items()}

    level = np.searchsorted(scores, thresholds, "right")
    anomalous_above = np.append(np.cumsum(positives[::-1])[::-1], 0)[level]
    false_positive_rate = (found.pixels - upto_thresholds - anomalous_above) / found.counts["normal_pixels"]
    overlap = np.append(np.cumsum(pro[::-1])[::-1], 0.0)[level]
    values["aupro_200"] = curves.aupro_equal_thresholds(false_positive_rate, overlap, AUPRO_LIMIT)
    undefined = {}
    if values["aupro_200"] is None:
        undefined["aupro_200"] = f"fewer than two of the 200 thresholds differ in FPR below {AUPRO_LIMIT}"
    return Measured(values, undefined, {"f1_px": float(scores[::-1][best])}, found.counts)


def count_pixels(images: Images, found: Found, scores: Array, thresholds: Array) -> tuple[Array, Array, Array]:
    """Of all pixels, how many lie below and up to each score, and up to each threshold (all ascending)."""
    below, upto = np.zeros(len(scores), np.int64), np.zeros(len(scores), np.int64)
    upto_thresholds = np.zeros(len(thresholds), np.int64)
    pixels = 0
    piece = np.empty(min(found.pixels, max(PIECE, PIXELS_PER_SEARCH * len(scores))), scores.dtype)
    for part in _pieces((values for values, _ in checked(images)), piece):
        pixels += len(part)
        part.sort()
        first = _places(part, scores)
        last = first + (part.take(first, mode="clip") == scores)
        # A second search only where a score occurs twice: rare among continuous scores, few among tied ones.
        several = np.flatnonzero(part.take(first + 1, mode="clip") == scores)
        last[several] = np.searchsorted(part, scores[several], "right")
        below += first
        upto += last
        upto_thresholds += np.searchsorted(part, thresholds, "right")
    if pixels != found.pixels:
        raise ValueError(f"the second pass gave {pixels} pixels, the first {found.pixels}: both must give the same")
    return below, upto, upto_thresholds


def _places(part: Array, scores: Array) -> NDArray[np.intp]:
    """``np.searchsorted(part, scores)`` for sorted scores, a block at a time."""
    block = 1024  # the share of the part that a block is searched in then stays in the cache
    ends = np.append(np.searchsorted(part, scores[::block]), len(part))
    places = np.empty(len(scores), np.intp)
    for start, low, high in zip(range(0, len(scores), block), ends[:-1], ends[1:], strict=True):
        some = slice(start, start + block)
        np.add(np.searchsorted(part[low:high], scores[some]), low, out=places[some])
    return places


def _pieces(maps: Iterable[Array], piece: Array) -> Iterator[Array]:
    """The scores of all maps through one buffer, which is full each time but the last."""
    filled = 0
    for values in maps:
        rest = values.reshape(-1)
        while len(rest):
            taken = rest[: len(piece) - filled]
            piece[filled : filled + len(taken)] = taken
            filled, rest = filled + len(taken), rest[len(taken) :]
            if filled == len(piece):
                yield piece
                filled = 0
    if filled:
        yield piece[:filled]


def checked(images: Images) -> Iterator[tuple[Array, NDArray[np.bool_]]]:
    """One float map and one bool mask [h, w] at a time, batches taken apart; ValueError where they do not fit."""
    number = 0
    for given, truth in images():
        values, mask = np.asarray(given), np.asarray(truth)
        if values.shape != mask.shape:
            raise ValueError(f"maps[{number}] has shape {values.shape}, masks[{number}] has {mask.shape}")
        if values.ndim not in (2, 3) or values.size == 0:
            raise ValueError(f"maps[{number}] has shape {values.shape}, which is no image")
        if mask.dtype.kind not in "biu":
            raise ValueError(f"masks[{number}] holds {mask.dtype}: choose a threshold for it first")
        if values.dtype.kind not in "fiu":
            raise ValueError(f"maps[{number}] holds {values.dtype}, not real numbers")
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
        mask = mask.astype(bool, copy=False)
        for one in range(len(values)) if values.ndim == 3 else [...]:
            yield values[one], mask[one]
            number += 1
