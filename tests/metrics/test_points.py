"""Drawn curves: every point on the exact curve, few of them, and close to it in between."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import roc_auc_score, roc_curve

from winclip_bench.metrics import pixel_metrics
from winclip_bench.metrics.points import pixel_points, roc_points

LABELLED = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=2, max_size=30)


@given(LABELLED)
def test_roc_of_images_is_the_whole_curve_where_there_are_few(images: list[tuple[int, int]]) -> None:
    scores, labels = map(np.array, zip(*images, strict=True))
    points = roc_points(scores, labels)
    if len(set(labels)) == 1:
        assert points == []
        return
    x, y = zip(*points, strict=True)
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert list(x) == sorted(x)
    assert list(y) == sorted(y)


def test_roc_of_many_images_keeps_points_of_the_curve() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 3000)
    scores = rng.normal(size=3000) + labels
    points = roc_points(scores, labels, most=50)
    assert len(points) == 50
    x, y = zip(*points, strict=True)
    rates, recalls, _ = roc_curve(labels, scores, drop_intermediate=False)
    exact = set(zip(rates.round(9), recalls.round(9), strict=True))
    assert set(zip(np.round(x, 9), np.round(y, 9), strict=True)) <= exact
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(labels, scores), abs=0.005)


def overlap(maps: list[np.ndarray], masks: list[np.ndarray], threshold: float) -> tuple[float, float, float]:
    """Rates and per-region overlap at one threshold, pixel by pixel and region by region."""
    shares = []
    for values, mask in zip(maps, masks, strict=True):
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        shares += [(values[regions == region] >= threshold).mean() for region in range(1, count + 1)]
    values, truth = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    above = values >= threshold
    return above[~truth].mean(), above[truth].mean(), float(np.mean(shares))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 60))
def test_pixel_points_lie_on_the_curves(seed: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(6, 5), (4, 7), (1, 3)]
    masks = [rng.random(shape) < 0.25 for shape in shapes]
    maps = [(rng.integers(0, values, shape) / 7).astype(np.float32) for shape in shapes]
    points = pixel_points(maps, masks, most=20)
    if not any(mask.any() for mask in masks) or all(mask.all() for mask in masks):
        assert points == []
        return
    assert 2 <= len(points) <= 20
    exact = [(0.0, 0.0, 0.0), *(overlap(maps, masks, t) for t in np.unique(np.concatenate([m.ravel() for m in maps])))]
    for point in points:
        assert min(max(map(abs, np.subtract(point, other))) for other in exact) < 1e-9
    assert points == sorted(points)
    assert (np.diff(np.array(points), axis=0) >= 0).all()
    assert points[0] == (0, 0, 0)
    assert points[-1] == (1, 1, 1)


def test_areas_under_the_points_are_close_to_the_metrics() -> None:
    rng = np.random.default_rng(3)
    masks = [np.zeros((80, 80), bool) for _ in range(30)]
    for number, mask in enumerate(masks[:20]):
        mask[20:40, 10 : 20 + number] = True
        mask[60:64, 60:66] = True
    maps = [ndimage.gaussian_filter(rng.normal(size=(80, 80)), 5) * 8 + 0.4 * mask for mask in masks]
    points = pixel_points(maps, masks)
    assert len(points) <= 100
    fpr, tpr, pro = map(np.array, zip(*points, strict=True))
    values = pixel_metrics(maps, masks).values
    assert np.trapezoid(tpr, fpr) == pytest.approx(values["auroc_px"], abs=2e-3)
    rates = np.linspace(0, 0.3, 2001)
    assert np.trapezoid(np.interp(rates, fpr, pro), rates) / 0.3 == pytest.approx(values["aupro"], abs=2e-3)
